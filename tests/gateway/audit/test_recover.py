"""After a crash: what was acknowledged is there, what was torn is put aside, calls in doubt are listed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.ledger import open_ledger
from gateway.audit.query import in_doubt, records
from gateway.audit.recover import TamperedLog
from gateway.audit.verify import segments
from gateway.model import Refusal
from tests.gateway.audit import crashing
from tests.gateway.audit.disks import SMALL, FaultyDisk, intent, ledger, one, outcome, verified, write_calls

ROOT = Path(__file__).parents[3]


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop of its own."""
    asyncio.run(test)


def _killed_in_the_middle(home: Path, lines: int) -> list[tuple[int, str, str]]:
    """Runs the child until it reported so many appends, kills it with SIGKILL; returns everything it reported."""
    command = [sys.executable, str(Path(str(crashing.__file__))), str(home), "32"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    said += child.stdout.readlines()
    child.wait(timeout=20)
    whole = [line.decode().split() for line in said if line.endswith(b"\n")]
    return [(int(seq), type_, call_id) for seq, type_, call_id in whole]


def test_kill_minus_nine_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Three SIGKILLs at 32 callers: every acknowledged record is at its seq, every intent without an outcome is listed
    as in doubt and no other call is, and the log verifies."""
    acknowledged: list[tuple[int, str, str]] = []
    for _ in range(3):
        acknowledged += _killed_in_the_middle(tmp_path, 1500)

    async def restart() -> None:
        async with ledger(tmp_path):
            pass

    run(restart())
    verified(tmp_path)
    by_seq = {record["seq"]: (record["type"], record.get("call_id")) for record in records(tmp_path)}
    assert all(by_seq[seq] == (type_, call_id) for seq, type_, call_id in acknowledged)
    assert len(acknowledged) >= 4500
    begun = {call_id for type_, call_id in by_seq.values() if type_ == "call.intent"}
    ended = {call_id for type_, call_id in by_seq.values() if type_ == "call.outcome"}
    assert {record["call_id"] for record in in_doubt(tmp_path)} == begun - ended
    assert sum(type_ == "log.recovered" for type_, _ in by_seq.values()) == 3


def _crash(home: Path, calls: int = 6) -> None:
    """A log as a crash leaves it: copied away from under a live writer, space reserved and all."""

    async def write() -> None:
        async with ledger(home / "live", tuning=replace(SMALL, checkpoint_every=3600.0)) as writer:
            await write_calls(writer, calls)
            await writer.append(intent("open"))
            shutil.copytree(home / "live", home, dirs_exist_ok=True)

    run(write())
    shutil.rmtree(home / "live")


def _restart(home: Path) -> list[dict[str, Any]]:
    """Starts once more; returns the records of that start."""

    async def again() -> None:
        async with ledger(home):
            pass

    before = len(list(records(home)))
    run(again())
    return list(records(home))[before:]


def test_unused_space_is_no_damage(tmp_path: Path) -> None:
    """After a crash without a torn record nothing is put aside; the call left open is in doubt, with who made it."""
    _crash(tmp_path)
    opened, recovered, doubtful, closed = _restart(tmp_path)
    assert [opened["type"], closed["type"]] == ["log.opened", "log.closed"]
    assert (recovered["type"], recovered["dropped_bytes"]) == ("log.recovered", 0)
    assert recovered["last_seq"] == recovered["seq"] - 2
    assert (doubtful["type"], doubtful["call_id"], doubtful["tool"]) == ("call.in_doubt", "open", {"name": "echo"})
    assert not list(one(tmp_path).glob("torn-*"))
    verified(tmp_path)
    assert [record["type"] for record in _restart(tmp_path)] == ["log.opened", "log.closed"]


@pytest.mark.parametrize(
    "rest", [b'{"v":1,"shard":"w1","seq":14,"pr', b"no record\n", b'{"v":1}\n{"v":2}\n', b"\xff" * 9]
)
def test_a_torn_tail_is_put_aside(tmp_path: Path, rest: bytes) -> None:
    """Bytes after the last record that stands go to a side file, whole; `log.recovered` has their number and hash."""
    _crash(tmp_path)
    path = segments(one(tmp_path))[0]
    octets = bytearray(path.read_bytes())
    end = octets.index(0)
    octets[end : end + len(rest)] = rest
    path.write_bytes(octets)
    recovered = _restart(tmp_path)[1]
    assert recovered["dropped_bytes"] == len(rest)
    assert recovered["sha256"] == hashlib.sha256(rest).hexdigest()
    assert [side.read_bytes() for side in one(tmp_path).glob("torn-*.bin")] == [rest]
    assert path.read_bytes() == bytes(octets[:end])
    verified(tmp_path)


def test_a_tail_that_is_chained_but_not_json_is_put_aside(tmp_path: Path) -> None:
    """A last line that begins as it must and then breaks off in garbage is no record."""
    _crash(tmp_path)
    path = segments(one(tmp_path))[0]
    octets = bytearray(path.read_bytes())
    end = octets.index(0)
    octets[end - 3 : end - 1] = b"\xff\xff"
    path.write_bytes(octets)
    new = _restart(tmp_path)
    assert new[1]["type"] == "log.recovered"
    assert "call.in_doubt" not in [record["type"] for record in new]  # the intent was the line that broke
    verified(tmp_path)


def test_a_new_segment_without_a_record_is_passed_over(tmp_path: Path) -> None:
    """A crash just after a segment was made, before its first line: the log goes on at the same seq."""
    _crash(tmp_path)
    size = len(list(records(tmp_path)))
    first = segments(one(tmp_path))[0]
    first.write_bytes(first.read_bytes().rstrip(b"\0"))
    (one(tmp_path) / f"{size:020d}.jsonl").write_bytes(bytes(4096))
    assert _restart(tmp_path)[0]["seq"] == size
    verified(tmp_path)


def test_calls_left_open_before_a_rotation_are_in_doubt(tmp_path: Path) -> None:
    """An intent several segments back, in a run that crashed, is still listed, with its tool."""

    async def write() -> None:
        writer = open_ledger(tmp_path / "live", tuning=replace(SMALL, segment=5000, checkpoint_records=5))
        await writer.append(intent("old"))
        await write_calls(writer, 40)
        shutil.copytree(tmp_path / "live", tmp_path, dirs_exist_ok=True)
        await writer.close()

    run(write())
    assert len(segments(one(tmp_path))) > 3
    _restart(tmp_path)
    assert [(record["call_id"], record["tool"]) for record in in_doubt(tmp_path)] == [("old", {"name": "echo"})]
    verified(tmp_path)


def test_a_later_outcome_takes_a_call_out_of_doubt(tmp_path: Path) -> None:
    """A call in doubt whose outcome is recorded afterwards is not listed any more."""
    _crash(tmp_path)

    async def write() -> None:
        async with ledger(tmp_path) as writer:
            assert [record["call_id"] for record in in_doubt(tmp_path)] == ["open"]
            await writer.append(outcome("open"))

    run(write())
    assert in_doubt(tmp_path) == []


def test_damage_before_the_last_segment_is_not_cut_off(tmp_path: Path) -> None:
    """A segment that lost its end while another follows was not torn by a crash: the start is refused."""

    async def write() -> None:
        tuning = replace(SMALL, segment=5000, checkpoint_every=3600.0)
        async with ledger(tmp_path / "live", tuning=tuning) as writer:
            await write_calls(writer, 20)
            shutil.copytree(tmp_path / "live", tmp_path, dirs_exist_ok=True)

    run(write())
    path = segments(one(tmp_path))[1]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TamperedLog) as caught:
        open_ledger(tmp_path, tuning=SMALL)
    assert caught.value.segment == path.name
    assert len(segments(one(tmp_path))) > 2


def test_a_lost_log_under_a_checkpoint_is_tampering(tmp_path: Path) -> None:
    """All segments gone and a checkpoint left: not a fresh start."""
    _crash(tmp_path)
    (one(tmp_path) / "checkpoint").write_text((one(tmp_path) / "checkpoint").read_text())

    async def write() -> None:
        async with ledger(tmp_path):
            pass

    run(write())
    for path in segments(one(tmp_path)):
        path.unlink()
    with pytest.raises(TamperedLog) as caught:
        open_ledger(tmp_path, tuning=SMALL)
    assert caught.value.seq == 0


def test_a_failed_start_gives_the_lock_back(tmp_path: Path) -> None:
    """A start that fails on the disk leaves nothing behind that stops the next one."""
    disk = FaultyDisk()
    disk.on, disk.error = ("allocate",), 28
    with pytest.raises(OSError, match="No space"):
        open_ledger(tmp_path, disk=disk, tuning=SMALL)

    async def write() -> None:
        async with ledger(tmp_path) as writer:
            with suppress(Refusal):
                await writer.append(intent("c1"))

    run(write())
    assert "c1" in {record.get("call_id") for record in records(tmp_path)}
    verified(tmp_path)


def test_what_a_segment_says_of_itself_is_checked(tmp_path: Path) -> None:
    """Recovery starts from the compact range a segment's first line has; a false one does not meet the signed root."""

    async def write() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, segment=5000, checkpoint_records=5)) as writer:
            await write_calls(writer, 20)

    run(write())
    path = segments(one(tmp_path))[-1]
    lines = path.read_bytes().split(b"\n")
    first = json.loads(lines[0])
    lines[0] = lines[0].replace(first["range"][0].encode(), b"0" * 64)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(TamperedLog):
        open_ledger(tmp_path, tuning=SMALL)
