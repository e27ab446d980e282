"""A shard on disk, as its writer sees it: the segment being written, the durable head, checkpoints, the reserve.

Used by one thread at a time. It never makes a line and never decides what to do about a failure: every method raises
`OSError` as the disk gave it, and `Shard.head` then still says what is durable.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from gateway.audit.checkpoint import Checkpoints, Signer
from gateway.audit.disk import Disk
from gateway.audit.lines import NOWHERE, Head
from gateway.audit.segment import Reserve, Segment, segment_path


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes in bytes, times in seconds. The defaults are for production; tests use small ones.

    `queue` bounds the lines that wait for the disk; `retry` is how often a failed disk is tried again.
    """

    segment: int = 64 << 20
    segment_age: float = 3600.0
    reserve: int = 8 << 20
    queue: int = 32 << 20
    checkpoint_every: float = 1.0
    checkpoint_records: int = 1000
    retry: float = 0.5


class Shard:
    """See the module. `lock` is the descriptor that holds the shard's lock; it is closed with the shard."""

    def __init__(self, disk: Disk, folder: Path, lock: int, signer: Signer, tuning: Tuning) -> None:
        self.name = folder.name
        self.gateway = signer.gateway
        self.head = NOWHERE
        self._disk = disk
        self._folder = folder
        self._lock = lock
        self._tuning = tuning
        self._checkpoints = Checkpoints(disk, folder, signer)
        self._reserve = Reserve(disk, folder.parent.parent / "audit.reserve", tuning.reserve)
        self._segment: Segment | None = None
        self._signed_size = 0
        self._signed_at = monotonic()

    def begin(self, head: Head) -> None:
        """Takes up after `head`, which recovery found on disk. A shard is never without a checkpoint."""
        self._reserve.restore()
        self.head = head
        self.sign()

    def write(self, lines: Sequence[bytes], head: Head, begins: int | None) -> None:
        """Makes lines durable, and with them `head`; first seals the segment and begins another when asked to."""
        if begins is not None:
            self._next_segment(begins, allocate=True)
        self._write(lines, head)

    def until_checkpoint(self) -> float | None:
        """Seconds until a checkpoint is due, at least 0; `None` when the newest record is signed."""
        if self._signed_size == self.head.size:
            return None
        if self.head.size - self._signed_size >= self._tuning.checkpoint_records:
            return 0.0
        return max(0.0, self._signed_at + self._tuning.checkpoint_every - monotonic())

    def sign(self) -> None:
        """Signs the durable head, and keeps the checkpoint."""
        self._checkpoints.publish(self.head.size, self.head.root(), self.head.last_leaf)
        self._signed_size = self.head.size
        self._signed_at = monotonic()

    def change_key(self, signer: Signer) -> None:
        """From now on heads are signed with this."""
        self._checkpoints = Checkpoints(self._disk, self._folder, signer)

    def let_go(self) -> None:
        """Closes the segment's descriptor, which a failure poisoned: what it wrote may never reach the disk."""
        if self._segment is not None:
            self._segment.close()

    def cut(self) -> None:
        """Opens the segment again, by name, and cuts off everything that was never acknowledged."""
        if self._segment is not None:
            self._segment.reopen()

    def note(self, line: bytes, head: Head, error: OSError) -> None:
        """Begins a segment with the line that says why; on a full disk, in the space of the reserve."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._reserve.release()
        self._next_segment(head.size - 1, allocate=False)
        self._write([line], head)

    def regain(self) -> None:
        """Takes back the space a running shard needs, and signs. Raises `OSError` while there is not enough."""
        if self._segment is not None:
            self._segment.allocate()
        self._reserve.restore()
        self.sign()

    def close(self) -> None:
        """Seals the segment, signs, gives up the lock; the lock also when the disk fails."""
        try:
            if self._segment is not None:
                self._segment.trim()
            self.sign()
        finally:
            self.let_go()
            os.close(self._lock)

    def _next_segment(self, first_seq: int, *, allocate: bool) -> None:
        if self._segment is not None:
            self._segment.trim()
            self._segment.close()
        fresh = Segment(self._disk, segment_path(self._folder, first_seq), self._tuning.segment)
        try:
            fresh.create(allocate=allocate)
        except OSError:
            fresh.close()
            self._disk.unlink(fresh.path)
            raise
        self._segment = fresh

    def _write(self, lines: Sequence[bytes], head: Head) -> None:
        if self._segment is None:
            raise OSError(errno.EBADF, "no segment is open")
        self._segment.write(b"\n".join((*lines, b"")))
        self.head = head
