"""The shard of readings: one record at a time, durable and signed, beside a writer that holds its own shard."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
from pathlib import Path

import pytest

from gateway.audit.heads import newest_heads
from gateway.audit.ledger import open_ledger
from gateway.audit.query import records, tail
from gateway.audit.readings import SHARD, note_reading
from gateway.audit.recover import TamperedLog
from gateway.audit.verify import segments
from gateway.model import Position
from gateway.tool import Json
from tests.gateway.audit.disks import SMALL, FaultyDisk, ledger, verified, write_calls

SAID: dict[str, Json] = {"who": {"authn": "local", "uid": 1000}, "verb": "audit show", "filter": {"call": "c1"}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two calls on record, and no gateway."""

    async def write() -> None:
        async with ledger(tmp_path) as writer:
            await write_calls(writer, 2)

    asyncio.run(write())
    return tmp_path


def readings(home: Path) -> list[dict[str, Json]]:
    """The records of readings, in order."""
    return [record for record in records(home) if record["type"] == "admin.read"]


def many(home: Path, count: int) -> None:
    """Readings of one process, one after another."""
    for _ in range(count):
        note_reading(home, SAID)


def test_a_reading_is_a_record_that_verifies(home: Path) -> None:
    """The first begins the shard, the next goes on in the same segment; each is signed; the files are small."""
    assert note_reading(home, SAID) == Position(SHARD, 1)
    assert note_reading(home, SAID | {"count": 2}) == Position(SHARD, 2)
    first, second = readings(home)
    assert {name: second[name] for name in (*SAID, "count")} == {**SAID, "count": 2}
    assert "count" not in first
    (segment,) = segments(home / "audit" / SHARD)
    assert segment.stat().st_size == len(segment.read_bytes().rstrip(b"\0")) < 2000
    assert newest_heads(home / "audit")[SHARD].size == 3
    assert [result.covered for result in verified(home)] == [3, 6]
    assert tail(home, 1) == [second]


def test_a_gateway_that_holds_its_shard_is_not_waited_for(home: Path) -> None:
    """Readings are written beside a live writer, which takes up its own shard again, not theirs."""

    async def beside() -> None:
        async with ledger(home) as writer:
            note_reading(home, SAID)
            await write_calls(writer, 1, prefix="d")

    asyncio.run(beside())
    assert len(readings(home)) == 1
    asyncio.run(_opened_again(home))
    assert {path.name for path in (home / "audit").iterdir() if path.is_dir()} == {SHARD, "w1"}
    verified(home)


async def _opened_again(home: Path) -> None:
    async with ledger(home) as writer:
        (place, *_) = await write_calls(writer, 1, prefix="e")
        assert place.shard == "w1"


def test_several_readers_at_once_wait_for_one_another(home: Path) -> None:
    """Each of them is on record, in one chain."""
    started = [multiprocessing.get_context("spawn").Process(target=many, args=(home, 10)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert len(readings(home)) == 30
    verified(home)


def test_a_full_segment_is_followed_by_another(home: Path) -> None:
    """Each begins with `log.opened`, and says itself where it is in the tree."""
    for _ in range(12):
        note_reading(home, SAID, segment=1500)
    paths = segments(home / "audit" / SHARD)
    assert len(paths) > 2
    assert all(b'"type":"log.opened"' in path.read_bytes().split(b"\n")[0] for path in paths)
    assert len(readings(home)) == 12
    verified(home)


@pytest.mark.parametrize("strikes", ["pwrite", "sync", "rename", "open"])
def test_a_reading_that_a_disk_broke_off_leaves_a_shard_that_goes_on(home: Path, strikes: str) -> None:
    """Who reads is told, and what was signed is not lost."""
    note_reading(home, SAID)
    disk = FaultyDisk()
    disk.on, disk.error = (strikes,), errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        note_reading(home, SAID, disk=disk)
    note_reading(home, SAID)
    assert len(readings(home)) in (2, 3)
    verified(home)


def test_half_a_reading_is_put_aside(home: Path) -> None:
    """What a crash left behind the last record goes to a side file, and the next reading says so."""
    note_reading(home, SAID)
    (path,) = segments(home / "audit" / SHARD)
    with path.open("ab") as file:
        file.write(b'{"v":1,"shard":"r1","se')
    note_reading(home, SAID)
    (recovered,) = [record for record in records(home) if record["type"] == "log.recovered"]
    assert (recovered["shard"], recovered["seq"], recovered["dropped_bytes"]) == (SHARD, 2, 23)
    assert len(list((home / "audit" / SHARD).glob("torn-*.bin"))) == 1
    assert len(readings(home)) == 2
    verified(home)


def test_a_home_that_cannot_be_written_is_said(home: Path) -> None:
    """No folder, no key: an error, and no key is made."""
    (home / "audit" / SHARD).write_text("in the way")
    with pytest.raises(FileExistsError):
        note_reading(home, SAID)
    (home / "signing.key").unlink()
    with pytest.raises(FileNotFoundError):
        note_reading(home, SAID)
    assert not (home / "signing.key").exists()


def test_altered_readings_are_not_gone_on_with(home: Path) -> None:
    """As with every shard: who reads is told, and the gateway's own shard is not touched by it."""
    note_reading(home, SAID)
    (path,) = segments(home / "audit" / SHARD)
    path.write_bytes(path.read_bytes().replace(b'"uid":1000', b'"uid":1001'))
    with pytest.raises(TamperedLog):
        note_reading(home, SAID)
    asyncio.run(open_ledger(home, tuning=SMALL).close())


def test_readings_go_on_under_another_key(home: Path) -> None:
    """Once the signing key was rotated they are signed with the new one, in the same chain."""
    note_reading(home, SAID)

    async def rotate() -> None:
        async with ledger(home) as writer:
            await writer.between(lambda shard: writer.key.change(shard, "The old one was seen.", {"authn": "local"}))
            note_reading(home, SAID)
            await writer.between(writer.key.finish)

    asyncio.run(rotate())
    note_reading(home, SAID)
    assert [record["seq"] for record in readings(home)] == [1, 2, 3]
    verified(home)
