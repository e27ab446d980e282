"""The writer on a real disk: durable when it returns, in one order, chained, rotated, signed, closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.ledger import LedgerLocked, open_ledger
from gateway.audit.query import records
from gateway.audit.verify import segments, whole_lines
from gateway.model import Position, Refusal
from gateway.ports import Ledger, Line
from tests.gateway.audit.disks import SMALL, FaultyDisk, intent, ledger, one, outcome, until, verified, write_calls


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop of its own."""
    asyncio.run(test)


def test_a_line_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    """At the moment `append` returns, another reader finds the record at its position, with the fields of v1."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            port: Ledger = writer
            place = await port.append(Line("policy.loaded", {"bundle_digest": "abc"}))
            found = list(records(tmp_path))[place.seq]
            assert list(found) == ["v", "shard", "seq", "prev", "hlc", "ts", "type", "bundle_digest"]
            assert (found["v"], found["shard"], found["seq"]) == (1, "w1", place.seq)
            assert (found["type"], found["bundle_digest"]) == ("policy.loaded", "abc")

    run(test())


def test_many_callers_get_distinct_positions_in_one_order(tmp_path: Path) -> None:
    """With 32 callers at once every record has its own seq, seqs have no gap, and each caller's own are ascending."""

    async def caller(writer: Ledger, name: str) -> list[Position]:
        return [await writer.append(intent(f"{name}-{number}")) for number in range(20)]

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            places = await asyncio.gather(*(caller(writer, f"a{number}") for number in range(32)))
        for own in places:
            assert own == sorted(own, key=lambda place: place.seq)
        written = list(records(tmp_path))
        assert [record["seq"] for record in written] == list(range(len(written)))
        assert len({place.seq for own in places for place in own}) == 640
        assert [record["hlc"] for record in written] == sorted({str(record["hlc"]) for record in written})

    run(test())
    assert verified(tmp_path)[0].records == 640 + len(segments(one(tmp_path))) + 1


def test_segments_rotate_and_are_trimmed(tmp_path: Path) -> None:
    """Segments begin with `log.opened`, are named by their first seq, and hold no unused space once sealed."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await asyncio.gather(*(writer.append(intent(f"c{number}")) for number in range(500)))
            assert segments(one(tmp_path))[-1].stat().st_size >= SMALL.segment

    run(test())
    paths = segments(one(tmp_path))
    assert len(paths) > 2
    for path in paths:
        first = json.loads(next(whole_lines(path)))
        assert (first["type"], first["seq"], first["size"]) == ("log.opened", int(path.stem), int(path.stem))
        assert path.read_bytes().endswith(b"}\n")
    verified(tmp_path)


def test_segments_rotate_by_age(tmp_path: Path) -> None:
    """A segment older than its age is not written to any more."""
    now = [1_700_000_000.0]

    async def test() -> None:
        async with ledger(tmp_path, clock=lambda: now[0]) as writer:
            await writer.append(intent("c1"))
            now[0] += SMALL.segment_age + 1
            await writer.append(intent("c2"))
        assert len(segments(one(tmp_path))) == 2

    run(test())


def test_clean_stop_says_so(tmp_path: Path) -> None:
    """The last record of a clean stop is `log.closed` with size and root before it, and the checkpoint covers it."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await write_calls(writer, 3)

    run(test())
    last = list(records(tmp_path))[-1]
    assert (last["type"], last["size"]) == ("log.closed", last["seq"])
    result = verified(tmp_path)[0]
    assert result.covered == result.records == int(str(last["seq"])) + 1


def test_append_after_close_is_refused(tmp_path: Path) -> None:
    """A closed ledger refuses with `audit_unavailable`; closing it twice does nothing."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await writer.append(intent("c1"))
        await writer.close()
        with pytest.raises(Refusal, match="audit_unavailable"):
            await writer.append(intent("c2"))
        with pytest.raises(Refusal, match="audit_unavailable"):
            writer.check()

    run(test())


def test_the_next_start_goes_on_where_the_last_ended(tmp_path: Path) -> None:
    """A second run of the same shard continues seq and chain in a new segment, and reports no recovery."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            before = (await write_calls(writer, 4))[-1]
        async with ledger(tmp_path) as writer:
            after = (await write_calls(writer, 4))[0]
        assert (after.shard, after.seq) == (before.shard, before.seq + 3)  # log.closed, log.opened between them
        types = [record["type"] for record in records(tmp_path)]
        assert "log.recovered" not in types

    run(test())
    verified(tmp_path)


def test_the_logical_clock_never_goes_back(tmp_path: Path) -> None:
    """A system clock set back, while running or between two runs, does not set the order of records back."""
    now = [2_000_000_000.0]

    async def test() -> None:
        for _ in range(2):
            async with ledger(tmp_path, clock=lambda: now[0]) as writer:
                await writer.append(intent("c1"))
                now[0] -= 1000
                await writer.append(intent("c2"))

    run(test())
    clocks = [str(record["hlc"]) for record in records(tmp_path)]
    assert clocks == sorted(set(clocks))
    assert [record["seq"] for record in records(tmp_path)] == list(range(len(clocks)))


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """While a ledger is open its shard cannot be opened again; another shard can."""

    async def test() -> None:
        async with ledger(tmp_path):
            with pytest.raises(LedgerLocked):
                open_ledger(tmp_path, tuning=SMALL)
            other = open_ledger(tmp_path, tuning=SMALL, shard="w2")
            assert (await other.append(intent("c1"))).shard == "w2"
            await other.close()

    run(test())
    assert [result.shard for result in verified(tmp_path)] == ["w1", "w2"]


def test_checkpoints_are_signed_by_count(tmp_path: Path) -> None:
    """A checkpoint is signed once so many records are durable, without waiting for time to pass."""

    async def test() -> None:
        tuning = replace(SMALL, checkpoint_records=10, checkpoint_every=3600.0)
        async with ledger(tmp_path, tuning=tuning) as writer:
            for number in range(30):
                await writer.append(intent(f"c{number}"))
            history = (one(tmp_path) / "checkpoints").read_text().splitlines()
            sizes = [int(json.loads(entry)["note"].split("\n")[1]) for entry in history]
            assert len(sizes) >= 3
            assert sizes == sorted(sizes)
            assert sizes[-1] >= 20

    run(test())


def test_checkpoints_are_signed_by_time(tmp_path: Path) -> None:
    """A record is covered by a checkpoint a moment later although nothing else is written."""

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, checkpoint_every=0.05)) as writer:
            place = await writer.append(intent("c1"))
            await until(lambda: int((one(tmp_path) / "checkpoint").read_text().split("\n")[1]) > place.seq)
            assert verified(tmp_path)[0].covered == place.seq + 1

    run(test())


def test_a_full_queue_is_saturated(tmp_path: Path) -> None:
    """More waiting bytes than the queue holds: `audit_saturated`, with a time to wait; what was accepted is written."""

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, queue=4096)) as writer:
            answers = await asyncio.gather(
                *(writer.append(Line("admin.note", {"text": "x" * 500})) for _ in range(50)), return_exceptions=True
            )
            refused = [answer for answer in answers if isinstance(answer, Refusal)]
            written = [answer for answer in answers if isinstance(answer, Position)]
            assert len(refused) + len(written) == 50
            assert {refusal.problem.code for refusal in refused} == {"audit_saturated"}
            assert all((refusal.problem.retry_after_ms or 0) >= 10 for refusal in refused)
            await writer.append(intent("later"))
        assert sum(record["type"] == "admin.note" for record in records(tmp_path)) == len(written)

    run(test())


def test_only_the_writer_sets_its_fields(tmp_path: Path) -> None:
    """A line that would set `seq` or another of the writer's fields is an error and leaves no gap."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            for name in ("v", "shard", "seq", "prev", "hlc", "ts", "type", "content"):
                with pytest.raises(ValueError, match=name):
                    await writer.append(Line("admin.note", {name: 1}))
            with pytest.raises(TypeError):
                await writer.append(Line("admin.note", {"what": object()}))
            await writer.append(intent("c1"))

    run(test())
    verified(tmp_path)


@pytest.mark.parametrize("value", ["a\nb", "\x00", "\ud800", 2**70, {"k": ["\u2028", None, 1.5]}, ("a", "b")])
def test_any_value_stands_in_one_line(tmp_path: Path, value: object) -> None:
    """Newlines, NULs, lone surrogates and large integers, in fields and in content, stay inside their own record."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            place = await writer.append(Line("admin.note", {"value": value}, {"value": value}, "s1", "t1"))
            found = json.loads(list(whole_lines(segments(one(tmp_path))[0]))[place.seq])
            expected = list(value) if isinstance(value, tuple) else value
            assert found["value"] == expected
            assert writer.contents.open(found) == {"value": expected}

    run(test())
    verified(tmp_path)


def test_short_writes_are_finished(tmp_path: Path) -> None:
    """A disk that takes only half of what it is given still ends up with every byte, in place."""
    disk = FaultyDisk()
    disk.halves = True

    async def test() -> None:
        async with ledger(tmp_path, disk) as writer:
            await write_calls(writer, 10)
            await writer.append(outcome("last"))

    run(test())
    verified(tmp_path)


def test_a_cancelled_append_is_still_written(tmp_path: Path) -> None:
    """Cancelling who waits does not take the record back, and does not hurt those who wait beside it."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await writer.append(intent("first"))
            gone = asyncio.create_task(writer.append(intent("gone")))
            beside = asyncio.create_task(writer.append(intent("beside")))
            await asyncio.sleep(0)
            gone.cancel()
            assert (await beside).seq > 1
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert {"first", "gone", "beside"} <= {str(record.get("call_id")) for record in records(tmp_path)}

    run(test())


def test_what_was_appended_before_it_closed_is_written(tmp_path: Path) -> None:
    """Closing in the same turn of the loop takes nothing back, and comes after it."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            last = asyncio.create_task(writer.append(Line("admin.note", {"text": "last"})))
            await asyncio.sleep(0)
            await writer.close()
            place = await last
        *_, note, closed = records(tmp_path)
        assert (note["seq"], note["type"], closed["type"]) == (place.seq, "admin.note", "log.closed")

    run(test())
    verified(tmp_path)


def test_a_failure_between_two_lines_refuses_all_who_wait(tmp_path: Path) -> None:
    """An error nobody thought of while lines are made keeps nobody waiting, leaves no gap, and is over with it."""
    left = [1 << 30]

    def clock() -> float:
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        return 1_795_000_000.0

    async def test() -> None:
        seen: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: seen.append(what["exception"]))
        async with ledger(tmp_path, clock=clock) as writer:
            left[0] = 4
            lines = [Line("admin.note", {"number": number}) for number in range(8)]
            answers = await asyncio.gather(*(writer.append(line) for line in lines), return_exceptions=True)
            assert [each.problem.code for each in answers if isinstance(each, Refusal)] == ["audit_unavailable"] * 8
            assert [type(each) for each in seen] == [MemoryError]
            await writer.append(Line("admin.note", {"number": 8}))
        assert [record["seq"] for record in records(tmp_path)] == list(range(len(list(records(tmp_path)))))

    run(test())
    verified(tmp_path)
