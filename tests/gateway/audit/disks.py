"""A real disk that can be told to fail, and ledgers made small enough to test with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.audit.disk import Disk, OsDisk
from gateway.audit.ledger import open_ledger
from gateway.audit.shard import Tuning
from gateway.audit.verify import ShardResult, verify
from gateway.audit.writer import Writer
from gateway.model import Position, Refusal
from gateway.ports import Line
from gateway.tool import Json

SMALL = Tuning(segment=64 << 10, reserve=64 << 10, retry=0.02)


class FaultyDisk(OsDisk):
    """Does what the real disk does, until `error` is set: then writing to paths that match raises it.

    `short` makes a write accept half of its bytes before the error strikes the rest.
    """

    def __init__(self) -> None:
        self.error: int | None = None
        self.on: tuple[str, ...] = ("pwrite", "sync", "allocate", "truncate", "rename", "open", "unlink")
        self.short = False
        self.halves = False
        self.struck = 0

    def _strike(self, what: str) -> None:
        if self.error is not None and what in self.on:
            self.struck += 1
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Path, flags: int, mode: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._strike("open")
        return super().open(path, flags, mode)

    def pwrite(self, fd: int, octets: bytes | memoryview, offset: int) -> int:
        if (self.short or self.halves) and len(octets) > 1:
            self.short = False
            return super().pwrite(fd, octets[: len(octets) // 2], offset)
        self._strike("pwrite")
        return super().pwrite(fd, octets, offset)

    def sync(self, fd: int) -> None:
        self._strike("sync")
        super().sync(fd)

    def allocate(self, fd: int, size: int) -> None:
        self._strike("allocate")
        super().allocate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._strike("truncate")
        super().truncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        self._strike("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._strike("unlink")
        super().unlink(path)


@asynccontextmanager
async def ledger(
    home: Path, disk: Disk | None = None, tuning: Tuning = SMALL, clock: Callable[[], float] | None = None
) -> AsyncIterator[Writer]:
    """A ledger that is closed at the end."""
    more = {} if clock is None else {"clock": clock}
    writer = open_ledger(home, disk=disk, tuning=tuning, **more)
    try:
        yield writer
    finally:
        await writer.close()


def intent(call_id: str, **fields: Json) -> Line:
    """An intent of a call in session `s1` of tenant `t1`, with content."""
    said = {"call_id": call_id, "session_id": "s", "tenant": "t1", "tool": {"name": "echo"}, **fields}
    return Line("call.intent", said, {"arguments": {"text": f"asked by {call_id}"}}, "s1", "t1")


def outcome(call_id: str) -> Line:
    """The outcome of that call."""
    return Line("call.outcome", {"call_id": call_id, "outcome": {"status": "done"}}, {"text": "ok"}, "s1", "t1")


async def write_calls(writer: Writer, count: int, *, prefix: str = "c") -> list[Position]:
    """So many calls one after another, intent and outcome each."""
    places = []
    for number in range(count):
        places.append(await writer.append(intent(f"{prefix}{number}")))
        places.append(await writer.append(outcome(f"{prefix}{number}")))
    return places


async def until(true: Callable[[], bool]) -> None:
    """Waits until something is so; gives up after 20 s, which is only there to bound a hang."""
    async with asyncio.timeout(20):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


async def until_back(writer: Writer) -> None:
    """Waits until the ledger takes records again."""

    def takes() -> bool:
        with suppress(Refusal):
            writer.check()
            return True
        return False

    await until(takes)


async def code_of(writer: Writer, line: Line) -> str | None:
    """The code of the problem a line is refused with; `None` when it was written."""
    try:
        await writer.append(line)
    except Refusal as refusal:
        return refusal.problem.code
    return None


def verified(home: Path) -> Sequence[ShardResult]:
    """What verification says of every shard; all of them must stand."""
    results = verify(home / "audit")
    assert all(result.ok for result in results), [str(result) for result in results]
    return results


def one(home: Path) -> Path:
    """The folder of the only shard."""
    return home / "audit" / "w1"
