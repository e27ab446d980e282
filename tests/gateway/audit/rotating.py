"""A child that replaces its signing key and is killed on the way: `python rotating.py HOME STEP`.

It is killed before its STEP-th change to the disk since the rotation began; exits 0 when there are not so many.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from gateway.audit.disk import OsDisk
from gateway.upkeep import LedgerUpkeep
from tests.gateway.audit.disks import ledger, write_calls


class Stepping(OsDisk):
    """A disk that does something before the n-th change, counted from when it is told to."""

    def __init__(self) -> None:
        self.left = 0

    def strike(self) -> None:
        """The n-th change: the process is killed."""
        os.kill(os.getpid(), signal.SIGKILL)

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.strike()

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


async def main(home: Path, step: int) -> None:
    """Writes a call, rotates, and ends without closing anything."""
    disk = Stepping()
    async with ledger(home, disk=disk) as writer:
        await write_calls(writer, 1, prefix=f"{step}-")
        disk.left = step
        await LedgerUpkeep(home, writer).rotate_key("It may be known.", {"authn": "local"})
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
