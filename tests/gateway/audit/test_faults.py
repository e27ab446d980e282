"""A disk that fails: nothing is acknowledged that is not durable, everything else is refused, and it comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.disk import OsDisk
from gateway.audit.ledger import open_ledger
from gateway.audit.query import in_doubt, records
from gateway.audit.writer import Writer
from gateway.model import Position, Refusal
from gateway.ports import Line
from gateway.tool import Json
from tests.gateway.audit.disks import (
    SMALL,
    FaultyDisk,
    code_of,
    intent,
    ledger,
    outcome,
    until,
    until_back,
    verified,
    write_calls,
)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop of its own."""
    asyncio.run(test)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=["ENOSPC", "EROFS", "EIO"])
@pytest.mark.parametrize("step", ["pwrite", "sync", "everything"])
def test_a_failing_disk_refuses_and_comes_back(tmp_path: Path, error: int, step: str) -> None:
    """Whatever step fails, all who wait get `audit_unavailable`, later callers too, and after relief it goes on."""
    disk = FaultyDisk()

    async def test() -> None:
        async with ledger(tmp_path, disk) as writer:
            kept = await write_calls(writer, 5)
            if step != "everything":
                disk.on = (step,)
            disk.error = error
            codes = await asyncio.gather(*(code_of(writer, intent(f"lost{number}")) for number in range(20)))
            assert set(codes) == {"audit_unavailable"}
            with pytest.raises(Refusal, match="audit_unavailable"):
                writer.check()
            assert disk.struck
            disk.error = None
            await until_back(writer)
            after = await writer.append(intent("after"))
            assert after.seq > kept[-1].seq
        calls = {str(record.get("call_id")) for record in records(tmp_path)}
        assert "after" in calls
        assert not {f"lost{number}" for number in range(20)} & calls

    run(test())
    verified(tmp_path)


def test_a_short_write_before_the_error_leaves_no_half_line(tmp_path: Path) -> None:
    """Half a batch on disk and then an error: the half is cut off, its numbers are given again."""
    disk = FaultyDisk()

    async def test() -> None:
        async with ledger(tmp_path, disk) as writer:
            place = await writer.append(intent("kept"))
            disk.short, disk.on, disk.error = True, ("pwrite",), errno.ENOSPC
            assert await code_of(writer, intent("half")) == "audit_unavailable"
            disk.error = None
            await until_back(writer)
            assert (await writer.append(intent("next"))).seq == place.seq + 2  # after the `log.opened` that says why
        assert "half" not in {record.get("call_id") for record in records(tmp_path)}

    run(test())
    verified(tmp_path)


def test_the_failure_is_on_record(tmp_path: Path) -> None:
    """The segment begun after a failure says which error came before it."""
    disk = FaultyDisk()

    async def test() -> None:
        async with ledger(tmp_path, disk) as writer:
            disk.on, disk.error = ("sync",), errno.EIO
            assert await code_of(writer, intent("lost")) == "audit_unavailable"
            disk.error = None
            await until_back(writer)
        after = [record["after"] for record in records(tmp_path) if "after" in record]
        assert after == [str(OSError(errno.EIO, os.strerror(errno.EIO)))]

    run(test())


def test_a_poisoned_descriptor_is_never_used_again(tmp_path: Path) -> None:
    """After a failed flush, the next thing done to its descriptor is to close it."""
    done: list[tuple[str, int]] = []

    class Watching(FaultyDisk):
        def pwrite(self, fd: int, octets: bytes | memoryview, offset: int) -> int:
            done.append(("write", fd))
            return super().pwrite(fd, octets, offset)

        def sync(self, fd: int) -> None:
            done.append(("failed" if self.error else "synced", fd))
            super().sync(fd)

        def close(self, fd: int) -> None:
            done.append(("closed", fd))
            super().close(fd)

    disk = Watching()

    async def test() -> None:
        async with ledger(tmp_path, disk) as writer:
            await writer.append(intent("kept"))
            disk.on, disk.error = ("sync",), errno.EIO
            assert await code_of(writer, intent("lost")) == "audit_unavailable"
            disk.error = None
            await until_back(writer)

    run(test())
    failures = [number for number, (what, _) in enumerate(done) if what == "failed"]
    assert failures
    for number in failures:
        assert next(what for what, fd in done[number + 1 :] if fd == done[number][1]) == "closed"


def test_a_lost_outcome_is_in_doubt(tmp_path: Path) -> None:
    """A call whose intent is durable and whose outcome was refused is recorded as in doubt once writing works."""
    disk = FaultyDisk()
    whose: dict[str, Json] = {"session_id": "s", "tenant": "t1", "principal": {"agent": "a"}, "tool": {"name": "echo"}}

    async def test() -> None:
        async with ledger(tmp_path, disk) as writer:
            place = await writer.append(intent("ran"))
            disk.error = errno.EIO
            ended = outcome("ran")
            assert await code_of(writer, replace(ended, fields={**ended.fields, **whose})) == "audit_unavailable"
            assert await code_of(writer, outcome("never-began")) == "audit_unavailable"
            disk.error = None
            await until_back(writer)
            await writer.append(intent("next"))
            doubtful = in_doubt(tmp_path)
            assert [(record["call_id"], record["intent"]) for record in doubtful] == [("ran", place.seq)]
            assert doubtful[0].items() >= whose.items()  # so that it is found with the rest of its session

    run(test())
    verified(tmp_path)


def test_rotation_on_a_full_disk_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """No room for the next segment: those who wait are refused, those who were answered stay on record."""
    disk = FaultyDisk()
    disk.on, kept = ("allocate",), []

    async def test() -> None:
        async with ledger(tmp_path, disk, replace(SMALL, segment=4096)) as writer:
            disk.error = errno.ENOSPC
            for number in range(100):
                if await code_of(writer, intent(f"c{number}")) is not None:
                    break
                kept.append(f"c{number}")
            else:
                pytest.fail("the segment never rotated")
            disk.error = None
            await until_back(writer)
        assert {str(record["call_id"]) for record in records(tmp_path) if "call_id" in record} == set(kept)

    run(test())
    verified(tmp_path)


def test_stopping_on_a_dead_disk_ends(tmp_path: Path) -> None:
    """A ledger on a disk that never comes back can still be closed, and the next start recovers what is there."""
    disk = FaultyDisk()

    async def test() -> None:
        writer = open_ledger(tmp_path, disk=disk, tuning=SMALL)
        await writer.append(intent("c1"))
        disk.error = errno.EROFS
        assert await code_of(writer, intent("c2")) == "audit_unavailable"
        async with asyncio.timeout(20):
            await writer.close()
        async with ledger(tmp_path) as again:
            await again.append(intent("c3"))
        assert [record["call_id"] for record in in_doubt(tmp_path)] == ["c1"]

    run(test())
    verified(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_fails_unexpectedly_refuses(tmp_path: Path) -> None:
    """An error nobody thought of ends the thread; those who wait are refused, and so is everybody after."""

    class Broken(OsDisk):
        broken = False

        def sync(self, fd: int) -> None:
            if self.broken:
                raise MemoryError
            super().sync(fd)

    disk = Broken()

    async def test() -> None:
        writer = open_ledger(tmp_path, disk=disk, tuning=SMALL)
        disk.broken = True
        assert await code_of(writer, intent("c1")) == "audit_unavailable"
        assert await code_of(writer, intent("c2")) == "audit_unavailable"
        await writer.close()

    run(test())


def test_a_disk_that_comes_and_goes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """16 callers over segments of 8 KiB while the disk fails in any step, again and again: what was acknowledged is at
    its seq, what was refused is nowhere, and the log verifies."""
    disk, dice = FaultyDisk(), random.Random(7)
    kept: dict[int, str] = {}
    refused: set[str] = set()

    async def caller(writer: Writer, name: str) -> None:
        for number in range(60):
            call_id = f"{name}-{number}"
            try:
                kept[(await writer.append(intent(call_id))).seq] = call_id
            except Refusal:
                refused.add(call_id)
                await asyncio.sleep(0.002)

    async def break_and_mend(steps: tuple[str, ...]) -> None:
        while True:
            await asyncio.sleep(dice.random() * 0.01)
            disk.on, disk.short = tuple(dice.sample(steps, dice.randint(1, len(steps)))), dice.random() < 0.3
            disk.error = dice.choice([errno.EIO, errno.ENOSPC, errno.EROFS])
            await asyncio.sleep(dice.random() * 0.01)
            disk.error = None

    async def test() -> None:
        async with ledger(tmp_path, disk, replace(SMALL, segment=8 << 10, retry=0.001)) as writer:
            await writer.append(intent("first"))
            breaking = asyncio.create_task(break_and_mend(disk.on))
            await asyncio.gather(*(caller(writer, f"a{number}") for number in range(16)))
            breaking.cancel()
            disk.error = None
            await until_back(writer)

    run(test())
    verified(tmp_path)
    written = {record["seq"]: str(record["call_id"]) for record in records(tmp_path) if record["type"] == "call.intent"}
    assert kept
    assert refused
    assert {seq: written.get(seq) for seq in kept} == kept
    assert not refused & set(written.values())
    assert len(kept) + len(refused) == 16 * 60


# ── a real full disk ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A 2 MiB file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root; the fault port covers the same errors")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


async def _until_refused(writer: Writer) -> list[Position]:
    places: list[Position] = []
    for number in range(5000):
        try:
            places.append(await writer.append(Line("admin.note", {"n": number, "text": "x" * 400})))
        except Refusal:
            return places
    pytest.fail("a full disk was never noticed")


def test_a_full_disk_is_recorded_in_the_reserve(small_disk: Path) -> None:
    """A really full disk: refused; the reserve takes the record of it and of the stop."""

    async def test() -> None:
        writer = open_ledger(small_disk, tuning=SMALL)
        assert (small_disk / "audit.reserve").stat().st_size == SMALL.reserve
        filler = _fill(small_disk)
        kept = await _until_refused(writer)
        assert await code_of(writer, Line("admin.note", {})) == "audit_unavailable"
        await until(lambda: any("after" in record for record in records(small_disk)))
        await writer.close()
        written = list(records(small_disk))
        assert written[-1]["type"] == "log.closed"
        assert "No space left" in str(next(record["after"] for record in written if "after" in record))
        assert {place.seq for place in kept} <= {record["seq"] for record in written}
        filler.unlink()
        async with ledger(small_disk) as again:
            await again.append(intent("c1"))

    run(test())
    verified(small_disk)


def test_a_full_disk_that_is_freed_is_used_again(small_disk: Path) -> None:
    """Space appears while the ledger is refusing: it takes records again by itself, with its reserve restored."""

    async def test() -> None:
        async with ledger(small_disk) as writer:
            filler = _fill(small_disk)
            await _until_refused(writer)
            filler.unlink()
            await until_back(writer)
            await writer.append(intent("c1"))
            assert (small_disk / "audit.reserve").stat().st_size == SMALL.reserve

    run(test())
    verified(small_disk)


def test_a_disk_remounted_read_only_is_refused_until_it_is_not(small_disk: Path, tmp_path: Path) -> None:
    """The log's file system is full, then read-only, then well again: refused, refused, written."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "audit").symlink_to(small_disk)

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True, timeout=20, capture_output=True)

    async def test() -> None:
        async with ledger(home) as writer:
            filler = _fill(small_disk)
            kept = await _until_refused(writer)
            await _remounted(remount, "ro")
            assert await code_of(writer, Line("admin.note", {})) == "audit_unavailable"
            assert not os.access(small_disk, os.W_OK)
            remount("rw")
            assert await code_of(writer, Line("admin.note", {})) == "audit_unavailable"
            filler.unlink()
            await until_back(writer)
            place = await writer.append(intent("c1"))
            assert place.seq > kept[-1].seq

    run(test())
    verified(home)


async def _remounted(remount: Callable[[str], None], how: str) -> None:
    """The ledger opens the file again and again, for moments, and a file system in use cannot be remounted."""
    async with asyncio.timeout(20):
        while True:
            try:
                remount(how)
            except subprocess.CalledProcessError:
                await asyncio.sleep(0.01)
            else:
                return
