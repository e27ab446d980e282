"""Heads brought off the host, from a real ledger to real sinks: newest, in order, each by itself, also at a stop."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import gateway.audit.verify as verifier
from gateway.audit.drops import FolderDrop, LineDrop
from gateway.audit.heads import NOTES, Heads, Pace, newest_heads, noted
from gateway.audit.notes import head_of
from gateway.ledger_ports import HeadSink, SignedHead
from gateway.runners.collector import Collector
from tests.gateway.audit.disks import SMALL, ledger, one, until, verified, write_calls
from tests.gateway.runners.servers import Upstream, http, new_net

PACE = Pace(look=0.01, patience=20.0, first=0.01, longest=0.05)
HASTY = replace(PACE, patience=1.0)
EAGER = replace(SMALL, checkpoint_every=0.02)


def drop(folder: Path) -> FolderDrop:
    """A drop in a folder that is there."""
    folder.mkdir(exist_ok=True)
    return FolderDrop(f"file:{folder}", folder)


def newest(home: Path) -> int:
    """The size of the newest head of the only shard."""
    return newest_heads(home / "audit")["w1"].size


def sizes(folder: Path) -> list[int]:
    """The sizes of the heads in a drop."""
    return sorted(int(path.stem.partition("-")[2]) for path in folder.glob("*.checkpoint"))


def posted(collector: Upstream) -> list[int]:
    """The sizes of the heads that a collector was sent, in order."""
    return [head_of(request.partition(b"\r\n\r\n")[2].decode()).size for request in collector.requests]


def test_what_is_signed_is_brought_and_so_is_the_last_head(tmp_path: Path) -> None:
    """While it runs new heads arrive, and after the stop the one over `log.closed` has, each good for verifying."""
    there = tmp_path / "there"

    async def test() -> None:
        async with Heads(tmp_path, [drop(there)], print, PACE) as heads, ledger(tmp_path, tuning=EAGER) as writer:
            await until(lambda: len(sizes(there)) > 0)
            await write_calls(writer, 3)
            await until(lambda: 7 in sizes(there))
            assert heads.state() == {"heads": "ok"}

    asyncio.run(test())
    assert sizes(there)[-1] == newest(tmp_path) == verified(tmp_path)[0].records
    for path in there.iterdir():
        assert verifier.main([str(tmp_path / "audit"), "--head", str(path)]) == 0
    assert noted(tmp_path) == {f"file:{there}": ({"w1": newest(tmp_path)}, None)}
    assert (tmp_path / NOTES).stat().st_mode & 0o077 == 0


def test_a_tail_that_was_cut_off_is_found_with_a_head_from_the_drop(tmp_path: Path) -> None:
    """A log set back with its own checkpoints verifies by itself, and not against the head that left the host."""
    home, there, old = tmp_path / "home", tmp_path / "there", tmp_path / "old"

    async def session(count: int) -> None:
        async with Heads(home, [drop(there)], print, PACE), ledger(home) as writer:
            await write_calls(writer, count)

    asyncio.run(session(3))
    shutil.copytree(home / "audit", old)
    asyncio.run(session(3))
    last = there / f"w1-{newest(home)}.checkpoint"
    shutil.rmtree(home / "audit")
    old.rename(home / "audit")
    assert verifier.main([str(home / "audit")]) == 0
    assert verifier.main([str(home / "audit"), "--head", str(last)]) == 1
    early = there / f"w1-{newest(home)}.checkpoint"
    assert verifier.main([str(home / "audit"), "--head", str(early)]) == 0


def test_a_log_that_was_set_back_and_written_on_cannot_be_brought(tmp_path: Path) -> None:
    """The drop holds another head of that size: the sink stays stale, and the evidence stays."""
    home, there, old = tmp_path / "home", tmp_path / "there", tmp_path / "old"
    said: list[str] = []

    async def session(count: int) -> None:
        async with Heads(home, [drop(there)], said.append, PACE), ledger(home) as writer:
            await write_calls(writer, count)

    asyncio.run(session(1))
    shutil.copytree(home, old)
    asyncio.run(session(2))
    kept = {path.name: path.read_bytes() for path in there.iterdir()}
    assert said == []
    shutil.rmtree(home)
    old.rename(home)
    asyncio.run(session(2))
    assert len(said) == 1
    assert "forked or set back" in said[0]
    assert kept.items() <= {path.name: path.read_bytes() for path in there.iterdir()}.items()


def test_a_collector_that_hangs_delays_no_other_sink(tmp_path: Path) -> None:
    """The drop gets every newest head meanwhile; the collector, once it answers, the newest alone."""
    there = tmp_path / "there"
    answer = asyncio.Event()
    hung_name = ""
    said: list[str] = []

    async def hang(writer: asyncio.StreamWriter) -> None:
        await answer.wait()
        writer.write(http())

    async def test() -> None:
        nonlocal hung_name
        async with Upstream(hang) as collector:
            hung = Collector(f"http://127.0.0.1:{collector.port}/", new_net())
            hung_name = hung.name
            heads = Heads(tmp_path, [hung, drop(there)], said.append, HASTY)
            async with heads, ledger(tmp_path, tuning=EAGER) as writer:
                await until(lambda: heads.state() == {"heads": "stale"})
                await write_calls(writer, 5)
                await until(lambda: 11 in sizes(there))
                await until(lambda: noted(tmp_path).get(hung.name) == ({}, "it did not answer within 1 s"))
                tried = len(collector.requests)
                answer.set()
                await until(lambda: heads.state() == {"heads": "ok"})
                later = posted(collector)[tried:]
                assert later in ([], [11])  # one try may be on its way with an older head; then comes the newest
                await until(lambda: posted(collector)[-1] == 11)
            assert posted(collector)[-1] == newest(tmp_path)
            assert posted(collector) == sorted(posted(collector))

    asyncio.run(test())
    assert ["has the newest" in line for line in said if hung_name in line] == [False, True]


def test_a_pipe_that_nobody_reads_holds_up_no_stop(tmp_path: Path) -> None:
    """With a descriptor that blocks for ever the gateway still ends, and the other sink still has the last head."""
    there = tmp_path / "there"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)

    async def test() -> None:
        sinks: list[HeadSink] = [LineDrop("stdout", writing), drop(there)]
        async with Heads(tmp_path, sinks, print, HASTY), ledger(tmp_path, tuning=EAGER) as writer:
            await write_calls(writer, 2)

    asyncio.run(test())
    assert sizes(there)[-1] == newest(tmp_path)
    sized, trouble = noted(tmp_path)["stdout"]
    assert (sized, trouble is None) == ({}, False)
    os.close(reading)  # the write that hangs fails, and its thread ends
    os.close(writing)


def test_a_sink_that_breaks_in_a_way_nobody_thought_of_is_tried_again(tmp_path: Path) -> None:
    """Whatever a sink raises, the loop lives, the state is stale, and the head comes once it works."""

    class Odd:
        name = "odd"
        tries = 0

        async def take(self, head: SignedHead) -> None:
            self.tries += 1
            if self.tries < 3:
                raise ZeroDivisionError

    odd, said = Odd(), list[str]()

    async def test() -> None:
        async with Heads(tmp_path, [odd], said.append, PACE) as heads, ledger(tmp_path):
            await until(lambda: odd.tries >= 3 and heads.state() == {"heads": "ok"})

    asyncio.run(test())
    assert "it failed: ZeroDivisionError" in said[0]
    assert len(said) == 2


def test_a_checkpoint_that_cannot_be_read_is_a_stale_head(tmp_path: Path) -> None:
    """What is not a checkpoint is not brought, and that is said."""
    (tmp_path / "audit" / "w1").mkdir(parents=True)
    (tmp_path / "audit" / "w1" / "checkpoint").write_text("nonsense")
    said: list[str] = []

    async def test() -> None:
        async with Heads(tmp_path, [drop(tmp_path / "there")], said.append, PACE) as heads:
            await until(lambda: heads.state() == {"heads": "stale"})

    asyncio.run(test())
    assert sizes(tmp_path / "there") == []
    assert len(said) == 1
    assert "this host" in said[0]


def test_without_a_sink_nothing_runs_and_nothing_is_said(tmp_path: Path) -> None:
    """No state, no note, no task."""

    async def test() -> None:
        async with Heads(tmp_path, [], print, PACE) as heads:
            assert heads.state() == {}
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(test())
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_can_be_signed_before_it_is_due(tmp_path: Path) -> None:
    """With an interval of an hour, asking gives a checkpoint over what is durable; asking again gives no second one."""

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, checkpoint_every=3600.0)) as writer:
            await write_calls(writer, 2)
            writer.checkpoint()
            await until(lambda: newest(tmp_path) == 5)
            writer.checkpoint()

    asyncio.run(test())
    verified(tmp_path)
    notes = [json.loads(line)["note"] for line in (one(tmp_path) / "checkpoints").read_text().splitlines()]
    assert [head_of(note).size for note in notes] == [0, 5, 6]
