"""A gateway whose disk fails on command: `python -m tests.e2e.faulty FILE serve …` is `toolgate serve …` with it.

While FILE is there, it says what the system calls do that write the log and flush it: `pwrite EIO`, `fdatasync ENOSPC`,
or `short EIO`, which takes half of what is written and then fails. Nothing of the gateway is replaced.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from gateway.cli import main


class Faults:
    """Stands in for the two system calls. A write that is cut short is followed by one that fails, as a full disk's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pwrite, self._fdatasync = os.pwrite, os.fdatasync
        self._cut = False

    def pwrite(self, fd: int, octets: bytes | memoryview, offset: int) -> int:
        call, error = self._ordered()
        if call == "short" and not self._cut and len(octets) > 1:
            self._cut = True
            return self._pwrite(fd, octets[: len(octets) // 2], offset)
        self._cut = False
        if call in ("pwrite", "short"):
            raise OSError(error, os.strerror(error))
        return self._pwrite(fd, octets, offset)

    def fdatasync(self, fd: int) -> None:
        call, error = self._ordered()
        if call == "fdatasync":
            raise OSError(error, os.strerror(error))
        self._fdatasync(fd)

    def _ordered(self) -> tuple[str, int]:
        try:
            call, name = self._file.read_text().split()
        except FileNotFoundError:
            return "", 0
        return call, int(getattr(errno, name))


if __name__ == "__main__":
    faults = Faults(Path(sys.argv[1]))
    os.pwrite, os.fdatasync = faults.pwrite, faults.fdatasync  # type: ignore[assignment]  # the calls of this process
    sys.exit(main(sys.argv[2:]))
