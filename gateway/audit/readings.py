"""Readings by who has the home's keys, on record in a shard of their own, `r1`: that of a gateway is locked by it.

It is opened for one record and closed: a few flushes, no thread, no space reserved, and segments are gone on with. It
makes no key and no folder of a home, and never keeps anybody from reading: who calls it says that it failed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.audit.checkpoint import Checkpoints
from gateway.audit.disk import Disk, OsDisk
from gateway.audit.lines import Lines
from gateway.audit.recover import Recovered, recover
from gateway.audit.rotation import SigningKey
from gateway.audit.segment import Segment, segment_path
from gateway.audit.verify import segments
from gateway.model import Position
from gateway.tool import Json

SHARD = "r1"
_SEGMENT = 256 << 10  # bytes: what has to be read again before the next record
_PATIENCE, _AGAIN = 5.0, 0.01  # seconds: another reading takes a few milliseconds


def note_reading(
    home: Path,
    said: Mapping[str, Json],
    *,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
    segment: int = _SEGMENT,
) -> Position:
    """Writes `admin.read` with these fields; it is durable and signed when this returns.

    Raises `TamperedLog`, and `OSError` or `ValueError` when the home cannot be written, has no signing key, or other
    readings hold the shard for long.
    """
    disk = disk or OsDisk()
    audit, folder = home / "audit", home / "audit" / SHARD
    (home / "signing.key").stat()  # a copy of a home without it gets none: that would be another gateway's log
    with _as_owner(audit):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            disk.sync_folder(audit)
        with _held(folder):
            key = SigningKey(home, disk)
            found = recover(folder, key.key(), disk)
            checkpoints = Checkpoints(disk, folder, key.signer)
            if not found.head.size:  # a shard is never without a checkpoint
                checkpoints.publish(0, found.head.root(), found.head.last_leaf)
            lines = Lines(SHARD, found.head, clock, found.hlc)
            with closing(_segment(disk, folder, lines.seq, segment)) as file:
                made = [] if file.length else [lines.opened(key.signer.gateway)]
                if found.dropped:
                    made.append(lines.add("log.recovered", _torn(found), None))
                made.append(lines.add("admin.read", said, None))
                file.write(b"\n".join(made) + b"\n")
            head = lines.head()
            checkpoints.publish(head.size, head.root(), head.last_leaf)
    return Position(SHARD, head.size - 1)


def _segment(disk: Disk, folder: Path, seq: int, most: int) -> Segment:
    """The last segment, which after recovery ends with its last record, or a fresh one when that is large."""
    last = max(segments(folder), default=None)
    if last is None or last.stat().st_size >= most:
        fresh = Segment(disk, segment_path(folder, seq), 0)
        fresh.create(allocate=False)
        return fresh
    file = Segment(disk, last, 0)
    file.length = last.stat().st_size
    file.reopen()
    return file


def _torn(found: Recovered) -> dict[str, Json]:
    return {"dropped_bytes": found.dropped, "last_seq": found.head.size - 1, "sha256": found.dropped_digest}


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The shard's lock, waited for. Raises `TimeoutError`."""
    fd = os.open(folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"another process writes to {folder}") from None
                time.sleep(_AGAIN)
        yield
    finally:
        os.close(fd)


@contextmanager
def _as_owner(folder: Path) -> Iterator[None]:
    """For the superuser: as the folder's owner, whose gateway has to be able to read what is written there."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    group = os.getegid()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
