"""Sinks for signed heads on this machine: a drop of one file per head, standard output, the system's log.

A folder is never made here (one that is not mounted must not be taken for the real one), a file in it never replaced.
What blocks is done in a thread that nobody waits for longer than they want to.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from gateway.audit.disk import OsDisk, replace_file
from gateway.ledger_ports import NotTaken, SignedHead

LOG_DEVICE = Path("/dev/log")
PRIORITY = 13 * 8 + 5  # facility "log audit", severity "notice" (RFC 5424 §6.2.1)


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


def told(head: SignedHead) -> str:
    """A head as one line of JSON in ASCII: `shard`, `size`, `checkpoint` (the signed note)."""
    return json.dumps({"shard": head.shard, "size": head.size, "checkpoint": head.note.decode()})


def _signed(note: bytes) -> bytes:
    """What a note says, whoever signed it: a key that is being replaced may have signed the same before."""
    return note.rpartition(b"\n\n")[0]


class LineDrop:
    """A descriptor that gets the line of each head."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._aside = OneAside()

    async def take(self, head: SignedHead) -> None:
        await self._aside.run(lambda: self._write(told(head).encode() + b"\n"))

    def _write(self, line: bytes) -> None:
        # Not through sys.stdout: a thread that hangs while it holds that buffer would keep the process from ending.
        if os.write(self._descriptor, line) < len(line):
            raise NotTaken("only a part of the line was taken")


class SystemLog:
    """The system's log, which gets the line of each head in one datagram, as the C library sends it (RFC 3164).

    It says that the log took it, and nothing of where that keeps it or sends it on.
    """

    def __init__(self, name: str, device: Path = LOG_DEVICE) -> None:
        self.name = name
        self._device = device
        self._aside = OneAside()

    async def take(self, head: SignedHead) -> None:
        await self._aside.run(lambda: self._send(told(head)))

    def _send(self, line: str) -> None:
        at = time.strftime("%b %e %H:%M:%S")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            try:
                log.sendto(f"<{PRIORITY}>{at} toolgate[{os.getpid()}]: {line}".encode(), str(self._device))
            except OSError as error:
                raise NotTaken(f"{self._device}: {error.strerror}") from error
