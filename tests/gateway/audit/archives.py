"""Ledgers old enough to be archived, and archiving as the command does it, on a disk that may stop at any step."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from gateway.audit.archive import copy, due, remove
from gateway.audit.content import INLINE
from gateway.audit.disk import Disk, OsDisk
from gateway.ledger_ports import Moved
from gateway.ports import Line
from gateway.upkeep import LedgerUpkeep
from tests.gateway.audit.disks import ledger, write_calls

BEGIN = 1_700_000_000.0
APART = 4000.0  # seconds between two segments of `write_aged`; the hour is over after each
WHO = {"authn": "local", "uid": 1000}


class Killed(Exception):
    """What a process that is killed does: nothing more."""


class MortalDisk(OsDisk):
    """The real disk, for so many steps that change something; then it kills, before the next."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def _step(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def pwrite(self, fd: int, octets: bytes | memoryview, offset: int) -> int:
        self._step()
        return super().pwrite(fd, octets, offset)

    def sync(self, fd: int) -> None:
        self._step()
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self._step()
        super().sync_folder(path)


def write_aged(home: Path, count: int = 5, calls: int = 12) -> None:
    """So many segments, begun an hour and more apart, of calls `p0c0`, `p0c1` …, `p1c0` …; and the one of the stop."""

    async def write() -> None:
        now = BEGIN
        async with ledger(home, clock=lambda: now) as writer:
            for number in range(count):
                await write_calls(writer, calls, prefix=f"p{number}c")
                now += APART
            await write_calls(writer, 2, prefix="last")

    home.mkdir(mode=0o700)
    asyncio.run(write())


def archive(home: Path, to: Path, before: float = BEGIN + 1e6, disk: Disk | None = None) -> Moved | None:
    """Archives what was written before then; what went, `None` for nothing."""
    disk = disk or OsDisk()
    found = due(home, before)
    if not found.sealed:
        return None
    digests = {segment.path.name: copy(segment, to, disk) for segment in found.sealed}
    last = found.sealed[-1].end - 1
    moved = Moved(found.shard.name, found.sealed[0].first, last, digests, str(to / found.shard.name))

    async def note() -> None:
        async with ledger(home) as writer:
            await LedgerUpkeep(home, writer).archived(moved, WHO)

    asyncio.run(note())
    for segment in found.sealed:
        remove(segment, disk)
    return moved


def large(uid: str, call_id: str) -> Line:
    """A refused call of agent `dev` whose content stands in a blob."""
    fields = {"call_id": call_id, "session_id": "s", "tenant": "t1", "principal": {"agent": "dev", "user": None}}
    return Line("call.refused", fields, {"text": "x" * (INLINE + 1)}, uid, "t1")


def dice() -> random.Random:
    """The same throws in every run."""
    return random.Random(9162)
