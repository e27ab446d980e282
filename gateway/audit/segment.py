"""One segment of a shard: a file of record lines, with its space reserved ahead and trimmed when it is sealed.

Also the reserve, a file that only holds space for the moment the disk is full. Neither knows what a record is.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gateway.audit.disk import Disk, write_all


def segment_path(folder: Path, first_seq: int) -> Path:
    """Where the segment that begins with `first_seq` stands: 20 decimal digits, so names sort as numbers."""
    return folder / f"{first_seq:020d}.jsonl"


class Segment:
    """A segment being written. `length` counts the durable bytes only. Every method raises `OSError` as it comes."""

    def __init__(self, disk: Disk, path: Path, size: int) -> None:
        """`size` is the space to reserve, in bytes; a segment may grow beyond it."""
        self.path = path
        self.length = 0
        self._disk = disk
        self._size = size
        self._fd: int | None = None

    def create(self, *, allocate: bool) -> None:
        """Makes the file. One that stands there already holds nothing that was acknowledged, and is emptied."""
        self._fd = self._disk.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if allocate:
            self.allocate()
        self._disk.sync_folder(self.path.parent)

    def allocate(self) -> None:
        """Reserves the space that is not written yet."""
        self._disk.allocate(self._open(), self._size)

    def write(self, octets: bytes) -> None:
        """Adds whole lines; they are durable when this returns."""
        fd = self._open()
        write_all(self._disk, fd, octets, self.length)
        self._disk.sync(fd)
        self.length += len(octets)

    def reopen(self) -> None:
        """After a failure: a fresh descriptor, and everything that was never acknowledged cut off."""
        self._fd = self._disk.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.trim()

    def trim(self) -> None:
        """Gives back the space after the last line."""
        fd = self._open()
        self._disk.truncate(fd, self.length)
        self._disk.sync(fd)

    def close(self) -> None:
        """Lets go of the file, and says nothing: what had to be durable already is."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                self._disk.close(fd)

    def _open(self) -> int:
        if self._fd is None:
            raise OSError(9, "the segment is closed")
        return self._fd


class Reserve:
    """Space kept for when there is none: given up so that a full disk, and the stop after it, can be recorded."""

    def __init__(self, disk: Disk, path: Path, size: int) -> None:
        self._disk = disk
        self._path = path
        self._size = size

    def restore(self) -> None:
        """Takes the space, unless it is held already. Raises `OSError` (ENOSPC) while there is none."""
        if self._path.exists() and self._path.stat().st_size >= self._size:
            return
        fd = self._disk.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            self._disk.allocate(fd, self._size)
        except OSError:
            self._disk.unlink(self._path)  # a part of it would only make the disk fuller
            raise
        finally:
            self._disk.close(fd)

    def release(self) -> None:
        """Gives the space back to the disk."""
        self._disk.unlink(self._path)
