"""Archiving: sealed segments of a shard move to another folder, and their leaf hashes stay, so that the proof stands.

For each segment, in this order: its copy elsewhere, its leaf hashes and what erasing has to know of it beside it, all
durable and read back; then one record says so; only then is it removed. Whatever step it dies at, doing it again ends
it. It writes no record itself, never replaces another file, and never moves what is not proved or not settled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, cast

import orjson

from gateway.audit import query
from gateway.audit.chain import Range
from gateway.audit.disk import Disk, replace_file
from gateway.audit.notes import Key
from gateway.audit.pieces import archived, piece_leaves, segments, whole_lines
from gateway.audit.verify import rotations, verify_shard
from gateway.ledger_ports import Moved
from gateway.tool import Json

LEAST_AGE = 24 * 3600.0  # seconds: policy counts calls for no longer, and reads them back at a start
_BEGINS = frozenset({"call.intent", "call.in_doubt"})
_ENDS = frozenset({"call.outcome", "call.refused", "call.resolved", "call.reconciled"})
_OWNER = ("key", "session_id", "tenant", "agent", "user")


class NotArchived(Exception):
    """Segments cannot be archived, or not there; the text says why. What was there still is."""


class NotKnown(ValueError):
    """What is kept beside the leaf hashes of an archived segment cannot be gone by; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment that may go: the records from `first` to before `end`, written before `until` (unix seconds).

    `before` and `after` are the compact ranges of the tree at its two ends, as the log says them.
    """

    path: Path
    first: int
    end: int
    until: float
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Due:
    """The segments that may go, from the first one on, and the call that keeps the next one here, if one does."""

    shard: Path
    sealed: Sequence[Sealed]
    kept_by: str | None = None


def due(home: Path, before: float) -> Due:
    """What of the newest shard was written before then (unix seconds). Reads the whole log.

    Raises `NotArchived` when the log does not verify, and `OSError`.
    """
    folder = max(query.shards(home), key=lambda shard: (len(shard.name), shard.name), default=None)
    if folder is None:
        raise NotArchived("there is no log")
    try:
        key = Key((home / "audit" / "key.pub").read_text(encoding="ascii"), rotations(home / "audit"))
    except ValueError as error:
        raise NotArchived(f"no key to check with: {error}") from None
    stands = verify_shard(folder, key)
    if not stands.ok:
        raise NotArchived(f"the log does not verify: {stands}")
    unsettled = _unsettled(home, folder.name)
    sealed: list[Sealed] = []
    for path, later in pairwise(segments(folder)):
        segment = _sealed(path, later)
        if segment is None or segment.until >= before or segment.end > stands.covered:
            break
        keeps = [call for call, seq in unsettled.items() if seq < segment.end]
        if keeps:
            return Due(folder, sealed, keeps[0])
        sealed.append(segment)
    return Due(folder, sealed)


def _unsettled(home: Path, shard: str) -> dict[str, int]:
    """The calls whose end is not on record, or was in doubt and is not settled; and their first record here."""
    found: dict[str, int] = {}
    for record in query.records(home):
        call = str(record.get("call_id"))
        if record["type"] in _BEGINS and record["shard"] == shard:
            found.setdefault(call, int(str(record["seq"])))
        elif record["type"] in _ENDS:
            found.pop(call, None)
    return found


def _sealed(path: Path, later: Path) -> Sealed | None:
    begins, ends = _opening(path), _opening(later)
    if begins is None or ends is None:
        return None
    until = (int(str(ends["hlc"]), 16) >> 16) / 1000
    return Sealed(path, int(path.stem), int(later.stem), until, _range(begins), _range(ends))


def _opening(path: Path) -> query.Record | None:
    found = next(query.parsed(islice(whole_lines(path), 1)), None)
    return found if found is not None and found["type"] == "log.opened" else None


def _range(opened: query.Record) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(peak) for peak in cast(list[str], opened["range"]))


def copy(segment: Sealed, to: Path, disk: Disk) -> str:
    """Makes a segment fit to be removed; gives the SHA-256 of its file in hex. `to` is the folder of the archive.

    Raises `NotArchived`, and `OSError`: then the segment is where it was.
    """
    octets = segment.path.read_bytes()
    digest = sha256(octets).hexdigest()
    target = to / segment.path.parent.name / segment.path.name
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        raise NotArchived(f"{to} is not there; a folder that is not mounted is not made") from None
    if not target.exists():
        replace_file(disk, target, octets)
        disk.sync_folder(target.parent)
        disk.sync_folder(to)
    if target.samefile(segment.path):
        raise NotArchived(f"{target} is the segment itself, not a copy of it: {target.parent} leads into the log")
    if sha256(target.read_bytes()).hexdigest() != digest:
        raise NotArchived(f"{target} is there and says something else")
    leaves = b"".join(leaf for leaf, _ in piece_leaves(segment.path))
    _put(disk, segment.path.with_suffix(".leaves"), leaves)
    _put(disk, segment.path.with_suffix(".archived"), orjson.dumps(_told(segment, to, digest)))
    disk.sync_folder(segment.path.parent)
    _check(segment)
    return digest


def _put(disk: Disk, path: Path, octets: bytes) -> None:
    if not path.exists() or path.read_bytes() != octets:
        replace_file(disk, path, octets)


def _check(segment: Sealed) -> None:
    """The leaf hashes that were written lead from one end of the segment to the other."""
    tree = Range(segment.first, segment.before)
    for leaf, _ in piece_leaves(segment.path.with_suffix(".leaves")):
        tree.append(leaf)
    if (tree.size, tuple(tree.peaks)) != (segment.end, segment.after):
        raise NotArchived(f"the leaf hashes of {segment.path.name} are not those of the tree")


def remove(segment: Sealed, disk: Disk) -> None:
    """Takes the segment away, once it is on record that it was archived. Raises `OSError`."""
    disk.unlink(segment.path)
    disk.sync_folder(segment.path.parent)


def still_here(home: Path, moved: Moved) -> bool:
    """Whether segments that are said to have been copied are here as they were copied, with their leaf hashes."""
    folder = home / "audit" / moved.shard
    if folder not in query.shards(home) or not moved.digests:
        return False
    records = 0
    for path in (path for path in segments(folder) if path.name in moved.digests):
        leaves = path.with_suffix(".leaves")
        if not leaves.exists() or sha256(path.read_bytes()).hexdigest() != moved.digests[path.name]:
            return False
        records += leaves.stat().st_size // 32
    return records == moved.last + 1 - moved.first


def _told(segment: Sealed, to: Path, digest: str) -> dict[str, Json]:
    """Whose content is in a segment, and which blobs: what erasing needs to know once it is gone."""
    sessions: set[tuple[str, str, str, str, str]] = set()
    blobs: list[Json] = []
    for record in query.parsed(whole_lines(segment.path)):
        content = record.get("content")
        if isinstance(content, dict):
            who = cast(Mapping[str, Json], record.get("principal") or {})
            owner = (str(record.get("tenant")), str(who.get("agent")), str(who.get("user") or ""))
            sessions.add((str(content["key"]), str(record.get("session_id")), *owner))
            if "blob" in content:
                kept = ("shard", "seq", "call_id", "type", "content")
                blobs.append({name: record[name] for name in kept if name in record})
    return {
        **{"v": 1, "first": segment.first, "last": segment.end - 1, "until": segment.until},
        **{"to": str(to / segment.path.parent.name), "sha256": digest, "blobs": blobs},
        "sessions": [dict(zip(_OWNER, each, strict=True)) for each in sorted(sessions)],
    }


def gone(home: Path) -> Iterator[dict[str, Any]]:
    """What is known of each segment that is not here any more; see `docs/audit.md`. Raises `NotKnown`."""
    for folder in query.shards(home):
        for path in archived(folder):
            yield {"shard": folder.name, **_known(path.with_suffix(".archived"))}


def _known(path: Path) -> dict[str, Any]:
    """What `_told` said. Nothing proves it, so its form is looked at before anybody goes by it."""
    try:
        told: Any = orjson.loads(path.read_bytes())
        numbers = told["first"], told["last"], told["until"]
        named = [said[name] for said in told["sessions"] for name in _OWNER]
        blobs = [blob["content"]["key"] for blob in told["blobs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotKnown(_not_known(path)) from error
    if not all(isinstance(each, int | float) for each in numbers) or int(path.stem) != told["first"]:
        raise NotKnown(_not_known(path))
    if not all(isinstance(each, str) for each in (told["to"], *named, *blobs)):
        raise NotKnown(_not_known(path))
    return cast(dict[str, Any], told)


def _not_known(path: Path) -> str:
    segment = path.with_suffix(".jsonl").name
    return (
        f"{path}, which says whose content was archived, is gone or was altered: copy {segment} back to {path.parent}"
    )


def not_found(home: Path, call_id: str) -> str:
    """What to say of a call that is not on record here: also where records are that were archived."""
    spans: dict[tuple[str, str], list[int]] = {}
    said = f"no record of {call_id}"
    try:
        for each in gone(home):
            spans.setdefault((each["shard"], each["to"]), []).extend((each["first"], each["last"]))
    except NotKnown as why:
        return f"{said} here, and records were archived: {why}"
    if not spans:
        return said
    where = "; ".join(f"{shard}:{min(seqs)} to {shard}:{max(seqs)} in {to}" for (shard, to), seqs in spans.items())
    return f"{said} here, and records were archived: {where}"


def open_folder(path: Path) -> Path:
    """The folder an archive goes to, absolute. Raises `NotArchived` when it is not there or not to be written to."""
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise NotArchived(f"{path} is not a folder that can be written to; a folder that is not mounted is not made")
    return path.resolve()
