"""Sinks for signed heads that are a file descriptor or a folder: standard output, and a drop of one file per head.

A folder is never made here (one that is not mounted must not be taken for the real one), a file in it never replaced.
What blocks is done in a thread that nobody waits for longer than they want to.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from gateway.audit.disk import OsDisk, replace_file
from gateway.ports import NotTaken, SignedHead


class OneAside:
    """Blocking work, one piece at a time, in a daemon thread: what hangs there holds up nothing else, nor a stop."""

    def __init__(self) -> None:
        self._last: asyncio.Future[Exception | None] | None = None

    async def run(self, work: Callable[[], None]) -> None:
        """Returns when `work` has, after what was begun before it. Raises `NotTaken`, also for its `OSError`."""
        while self._last is not None and not self._last.done():
            await asyncio.wait({self._last})
        loop = asyncio.get_running_loop()
        self._last = done = loop.create_future()

        def aside() -> None:
            error: Exception | None = None
            try:
                work()
            except (OSError, NotTaken) as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set_result, error)

        Thread(target=aside, name="heads", daemon=True).start()
        await asyncio.wait({done})  # who stops waiting does not undo it: the next one has to know when it is over
        error = done.result()
        if error is not None:
            raise NotTaken(getattr(error, "strerror", None) or str(error)) from error


class FolderDrop:
    """A folder that gets `<shard>-<size>.checkpoint` for each head, whole and durable before its name appears.

    One folder for one gateway. Another head of the same size is refused, for ever: then the log, or the folder, is not
    what it was.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._aside = OneAside()
        self._disk = OsDisk()

    async def take(self, head: SignedHead) -> None:
        await self._aside.run(lambda: self._keep(head))

    def _keep(self, head: SignedHead) -> None:
        path = self._folder / f"{head.shard}-{head.size}.checkpoint"
        with suppress(FileNotFoundError):
            if _signed(path.read_bytes()) != _signed(head.note):
                raise NotTaken(f"{path.name} is there and says something else: the log was forked or set back")
            return
        replace_file(self._disk, path, head.note)
        self._disk.sync_folder(self._folder)


def _signed(note: bytes) -> bytes:
    """What a note says, whoever signed it: a key that is being replaced may have signed the same before."""
    return note.rpartition(b"\n\n")[0]


class LineDrop:
    """A descriptor that gets one JSON line for each head: `shard`, `size`, `checkpoint` (the signed note)."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._aside = OneAside()

    async def take(self, head: SignedHead) -> None:
        told = {"shard": head.shard, "size": head.size, "checkpoint": head.note.decode()}
        line = json.dumps(told).encode() + b"\n"
        await self._aside.run(lambda: self._write(line))

    def _write(self, line: bytes) -> None:
        # Not through sys.stdout: a thread that hangs while it holds that buffer would keep the process from ending.
        if os.write(self._descriptor, line) < len(line):
            raise NotTaken("only a part of the line was taken")
