"""The disk, as the ledger needs it: a small port, so that tests can hand in a disk that fails.

It never retries and never hides an error: every method raises `OSError` as the kernel gave it. Reading is not here:
readers use plain files and take no lock.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """What is done to files in the ledger's folder."""

    def open(self, path: Path, flags: int, mode: int) -> int:
        """A file descriptor."""
        ...

    def pwrite(self, fd: int, octets: bytes | memoryview, offset: int) -> int:
        """Writes some or all of `octets` at `offset`; returns how many."""
        ...

    def sync(self, fd: int) -> None:
        """Returns when what was written is on stable storage, with what is needed to read it back."""
        ...

    def allocate(self, fd: int, size: int) -> None:
        """Reserves space for the first `size` bytes; what is not written yet reads as zeros."""
        ...

    def truncate(self, fd: int, size: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None:
        """Makes names created, renamed or removed in a folder durable."""
        ...


class OsDisk:
    """The real disk."""

    def open(self, path: Path, flags: int, mode: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def pwrite(self, fd: int, octets: bytes | memoryview, offset: int) -> int:
        return os.pwrite(fd, octets, offset)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(disk: Disk, fd: int, octets: bytes, offset: int) -> None:
    """Writes all of `octets` at `offset`: a short write goes on where it stopped; one that writes nothing is EIO."""
    rest = memoryview(octets)
    while rest:
        done = disk.pwrite(fd, rest, offset)
        if done <= 0:
            raise OSError(5, "the disk accepted no bytes")
        rest = rest[done:]
        offset += done


def replace_file(disk: Disk, path: Path, octets: bytes) -> None:
    """Puts a whole file in place of another: a reader, or a crash, sees the old one or the new one."""
    fresh = path.with_name(path.name + ".new")
    fd = disk.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(disk, fd, octets, 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(fresh, path)
