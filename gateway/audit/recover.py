"""What is on disk when a writer starts: how far the shard is, what a crash left behind, which calls are in doubt.

It cuts a torn end off (into a side file, never deleted) and refuses a shard that was altered below its last
checkpoint. It never repairs a record and never writes one: `ledger.py` writes the lines that say what was found.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from gateway.audit.disk import Disk, replace_file
from gateway.audit.lines import NOWHERE, Head, follow
from gateway.audit.notes import Head as SignedHead
from gateway.audit.notes import Key
from gateway.audit.verify import Start, Walk, read_heads, segments, whole_lines

_RECENT = 1 << 20


class TamperedLog(Exception):
    """Records that were signed for are altered or gone: this shard is not written to any more.

    `seq` is the first record that does not stand; `segment` and `line` say where it is or should be.
    """

    def __init__(self, shard: str, seq: int, reason: str, segment: str, line: int) -> None:
        super().__init__(f"the audit log was altered: shard={shard} seq={seq} segment={segment} line={line}: {reason}")
        self.shard = shard
        self.seq = seq
        self.segment = segment
        self.line = line


@dataclass(frozen=True, slots=True)
class Recovered:
    """The state of a shard. `closed`: it ended with `log.closed` and nothing after it, or never had a record.

    `hlc` is the hybrid logical clock of the last record. `dropped` bytes after it were put aside; `dropped_digest` is
    their SHA-256.
    """

    head: Head
    closed: bool
    hlc: int
    dropped: int = 0
    dropped_digest: str = ""


@dataclass(slots=True)
class Found:
    """What was read: `size` records in all, `last` of them the last; `length` bytes of the last segment are theirs."""

    size: int
    length: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    open_calls: dict[str, int] = field(default_factory=dict)


def recover(folder: Path, key: Key, disk: Disk) -> Recovered:
    """Reads a shard from its last signed segment on. Raises `TamperedLog`, and `OSError` of the disk."""
    if not segments(folder) and not (folder / "checkpoint").exists():
        return Recovered(NOWHERE, closed=True, hlc=0)
    heads, fault = read_heads(folder, key, history=_recent(folder / "checkpoints"))
    if fault is not None:
        raise TamperedLog(folder.name, fault.seq, fault.reason, fault.segment, fault.line)
    signed = max(head.size for head in heads)
    start = _start(folder, signed)
    walk = _walk(folder, key, heads, start)
    found = _read(folder, start.size, walk.size)
    dropped = _cut(folder, found, disk)
    if found.size < walk.size:  # a line that continued the chain, and was not JSON
        walk = _walk(folder, key, heads, start)
    head = Head(walk.size, tuple(walk.peaks), walk.leaf, found.open_calls)
    closed = not dropped and found.last.get("type") == "log.closed"
    return Recovered(head, closed, int(found.last.get("hlc", "0"), 16), len(dropped), sha256(dropped).hexdigest())


def _recent(history: Path) -> bytes:
    """The newest signed heads, enough for a segment: the whole history grows with every second of activity."""
    try:
        with history.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _RECENT))
            octets = file.read()
    except FileNotFoundError:
        return b""
    return octets if size <= _RECENT else octets.partition(b"\n")[2]


def _start(folder: Path, signed: int) -> Start:
    """The last segment that begins at or below the signed head and says itself where it is in the tree."""
    for path in reversed(segments(folder)):
        if int(path.stem) <= signed and (start := _opening(path)) is not None:
            return start
    return Start()


def _opening(path: Path) -> Start | None:
    """What the `log.opened` line of a segment says. It is believed because the walk from it must meet the signed
    root."""
    try:
        opened = orjson.loads(next(whole_lines(path), b""))
        peaks = tuple(bytes.fromhex(peak) for peak in opened["range"])
        start = Start(opened["size"], peaks, bytes.fromhex(opened["prev"]))
    except (KeyError, TypeError, ValueError):
        return None
    return start if start.size == int(path.stem) and len(peaks) == start.size.bit_count() else None


def _walk(folder: Path, key: Key, heads: list[SignedHead], start: Start) -> Walk:
    walk = Walk(folder, key, heads, start)
    walk.run()
    if walk.fault is not None:
        at = walk.fault
        raise TamperedLog(folder.name, at.seq, at.reason, at.segment, at.line)
    return walk


def _read(folder: Path, first: int, end: int) -> Found:
    """Reads the records from `first` to `end`, or to the first that is not JSON."""
    found = Found(first)
    for path in segments(folder):
        if int(path.stem) < first:
            continue
        found.length = 0
        for line in islice(whole_lines(path), end - found.size):
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                return found
            if record["type"] == "log.opened":
                found.open_calls = dict(record["open_calls"])
            follow(found.open_calls, record["type"], record.get("call_id"), found.size)
            found.last = record
            found.size += 1
            found.length += len(line) + 1
    return found


def _cut(folder: Path, found: Found, disk: Disk) -> bytes:
    """Ends the last segment after the last record; returns the bytes put aside, without unused space."""
    path = max(segments(folder), default=None)
    if path is None:
        return b""
    if found.size < int(path.stem):
        raise TamperedLog(folder.name, found.size, "not JSON, and records follow", path.name, 0)
    with path.open("rb") as file:
        file.seek(found.length)
        dropped = file.read().rstrip(b"\x00")
    if dropped:
        replace_file(disk, _side_file(folder, found.size), dropped)
        disk.sync_folder(folder)
    fd = disk.open(path, os.O_WRONLY, 0o600)
    try:
        disk.truncate(fd, found.length)
        disk.sync(fd)
    finally:
        disk.close(fd)
    if found.length == 0:
        disk.unlink(path)
        disk.sync_folder(folder)
    return dropped


def _side_file(folder: Path, size: int) -> Path:
    taken = len(list(folder.glob("torn-*.bin")))
    return folder / f"torn-{size:020d}-{taken}.bin"
