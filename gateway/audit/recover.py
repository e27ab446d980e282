"""What is on disk when a writer starts: how far the shard is, what a crash left behind, which calls are in doubt.

It cuts a torn end off (into a side file, never deleted) and refuses a shard that was altered below its last
checkpoint. It never repairs a record and never writes one: `ledger.py` writes the lines that say what was found.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from gateway.audit.disk import Disk, replace_file
from gateway.audit.lines import NOWHERE, Head, follow
from gateway.audit.verify import Head as SignedHead
from gateway.audit.verify import Key, Start, Walk, read_heads, segments, whole_lines


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

    `dropped` bytes after the last record that stands were put aside; `dropped_digest` is their SHA-256.
    """

    head: Head
    closed: bool
    dropped: int = 0
    dropped_digest: str = ""


def recover(folder: Path, key: Key, disk: Disk) -> Recovered:
    """Reads a shard from its last signed segment on. Raises `TamperedLog`, and `OSError` of the disk."""
    if not segments(folder) and not (folder / "checkpoint").exists():
        return Recovered(NOWHERE, closed=True)
    heads, fault = read_heads(folder, key)
    if fault is not None:
        raise TamperedLog(folder.name, fault.seq, fault.reason, fault.segment, fault.line)
    signed = max(head.size for head in heads)
    start = _start(folder, signed)
    walk = _walk(folder, key, heads, start, None)
    open_calls, last, good = _read(folder, start.size, walk.size)
    if good < walk.size:  # a line that continues the chain, and is not JSON
        walk = _walk(folder, key, heads, start, good)
    dropped = _cut(folder, walk.size, disk)
    head = Head(walk.size, tuple(walk.peaks), walk.leaf, open_calls)
    return Recovered(head, not dropped and last == "log.closed", len(dropped), sha256(dropped).hexdigest())


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
        opened = orjson.loads(whole_lines(path)[0])
        peaks = tuple(bytes.fromhex(peak) for peak in opened["range"])
        start = Start(opened["size"], peaks, bytes.fromhex(opened["prev"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return start if start.size == int(path.stem) and len(peaks) == start.size.bit_count() else None


def _walk(folder: Path, key: Key, heads: list[SignedHead], start: Start, limit: int | None) -> Walk:
    walk = Walk(folder, key, heads, start)
    walk.limit = limit
    walk.run()
    if walk.fault is not None:
        at = walk.fault
        raise TamperedLog(folder.name, at.seq, at.reason, at.segment, at.line)
    return walk


def _read(folder: Path, first: int, end: int) -> tuple[dict[str, int], str, int]:
    """The records from `first` to `end`: calls left open, the type of the last one, and where the JSON ends."""
    open_calls: dict[str, int] = {}
    last = ""
    seq = first
    for path in segments(folder):
        if int(path.stem) < first:
            continue
        for line in whole_lines(path):
            if seq == end:
                break
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                return open_calls, last, seq
            last = record["type"]
            if last == "log.opened":
                open_calls = dict(record["open_calls"])
            follow(open_calls, last, record.get("call_id"), seq)
            seq += 1
    return open_calls, last, seq


def _cut(folder: Path, size: int, disk: Disk) -> bytes:
    """Ends the last segment after record `size - 1`; returns the bytes put aside, without unused space."""
    path = segments(folder)[-1] if segments(folder) else None
    if path is None:
        return b""
    octets = path.read_bytes()
    length = sum(len(line) + 1 for line in whole_lines(path)[: size - int(path.stem)])
    dropped = octets[length:].rstrip(b"\x00")
    if dropped:
        replace_file(disk, _side_file(folder, size), dropped)
        disk.sync_folder(folder)
    fd = disk.open(path, os.O_WRONLY, 0o640)
    try:
        disk.truncate(fd, length)
        disk.sync(fd)
    finally:
        disk.close(fd)
    if length == 0:
        disk.unlink(path)
        disk.sync_folder(folder)
    return dropped


def _side_file(folder: Path, size: int) -> Path:
    taken = len(list(folder.glob("torn-*.bin")))
    return folder / f"torn-{size:020d}-{taken}.bin"
