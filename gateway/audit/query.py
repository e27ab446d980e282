"""Reading the ledger: records in order, the newest few, one call with its content, calls in doubt.

Takes no lock and writes nothing, so it works beside a live writer; a line that is not finished yet is not seen. It
proves nothing: what it reads is only as true as `verify.py` says.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from gateway.audit.content import Contents, Unreadable
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.lines import CLOSES
from gateway.audit.pieces import LEAF, archived
from gateway.audit.verify import Unreadable as NotThere
from gateway.audit.verify import segments, verify, whole_lines
from gateway.tool import Json

Record = dict[str, Json]
SETTLES = CLOSES | {"call.resolved", "call.reconciled"}
_MARKS = {"shard", "seq", "hlc", "ts", "type"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A record with its content in the clear. `unreadable` says why there is none although the record has a box."""

    record: Record
    content: Json
    unreadable: str | None = None


def shards(home: Path) -> list[Path]:
    """The shard folders of a home, or of its audit folder."""
    audit = home / "audit" if (home / "audit").is_dir() else home
    return sorted(path for path in audit.iterdir() if path.is_dir() and segments(path))


def records(home: Path) -> Iterator[Record]:
    """Every record of every shard, by hybrid logical clock: within a shard that is by seq."""
    return heapq.merge(*(_shard_records(folder) for folder in shards(home)), key=_clock)


def since(home: Path, at: float) -> Iterator[Record]:
    """The records written at `at` (unix seconds) or later, in order. Segments that ended before are not read."""
    begin = f"{max(0, int(at * 1000)) << 16:016x}"
    return heapq.merge(*(_shard_since(folder, begin) for folder in shards(home)), key=_clock)


def elsewhere(home: Path, at: float) -> int:
    """How many records may have been written at `at` (unix seconds) or later and are not here: they were archived."""
    folders = [folder for folder in (home / "audit").iterdir() if folder.is_dir()]
    return sum(
        path.stat().st_size // LEAF for folder in folders for path in archived(folder) if _until(folder, path) > at
    )


def _until(folder: Path, archived_: Path) -> float:
    """When the first segment after it that is here began; infinite when there is none."""
    later = next((path for path in segments(folder) if path.stem > archived_.stem), None)
    first = None if later is None else next(parsed(islice(whole_lines(later), 1)), None)
    return math.inf if first is None else written_at(first)


def written_at(record: Record) -> float:
    """Unix seconds, by the hybrid logical clock. Raises `ValueError` or `KeyError` for what is no record."""
    return (int(str(record["hlc"]), 16) >> 16) / 1000


def unverified(home: Path) -> str | None:
    """Why what is on record cannot be gone by: the ledger does not verify, or cannot be read. None when it stands."""
    try:
        return "; ".join(str(each) for each in verify(home / "audit") if not each.ok) or None
    except (NotThere, OSError) as error:
        return f"{home / 'audit'}: {error}"


def tail(home: Path, count: int) -> list[Record]:
    """The newest `count` records, oldest first."""
    newest: list[Record] = []
    for folder in shards(home):
        lines: list[bytes] = []
        for path in reversed(segments(folder)):
            lines = list(whole_lines(path)) + lines
            if len(lines) >= count:
                break
        newest += parsed(lines[-count:])
    return sorted(newest, key=_clock)[-count:] if count > 0 else []


def follow(home: Path, seen: Iterable[Record], every: float = 0.2) -> Iterator[Record]:
    """Records newer than those `seen`, as they come, for ever. Looks each `every` seconds."""
    cursor: dict[str, int] = {}
    for record in seen:
        cursor[str(record["shard"])] = _seq(record)
    while True:
        fresh = [record for folder in shards(home) for record in _after(folder, cursor.get(folder.name, -1))]
        for record in sorted(fresh, key=_clock):
            cursor[str(record["shard"])] = _seq(record)
            yield record
        time.sleep(every)


def find_call(home: Path, call_id: str) -> list[Record]:
    """Every record of one call, in order; empty when there is none."""
    return _naming(home, "call_id", call_id)


def nested(home: Path, call_id: str) -> list[Record]:
    """The newest record of each call that the code of this one made, in the order in which they began."""
    return newest_of_each(_naming(home, "parent_call_id", call_id))


def newest_of_each(found: Iterable[Record]) -> list[Record]:
    """Of records in order, the newest of each call, in the order in which the calls began."""
    newest: dict[Json, Record] = {}
    for record in found:
        newest[record.get("call_id")] = record
    return list(newest.values())


def _naming(home: Path, key: str, call_id: str) -> list[Record]:
    try:
        named = orjson.dumps({key: call_id})[1:-1]
    except TypeError:  # half a surrogate pair, of a command line that is no text: no call has such an id
        return []
    found = [
        record
        for folder in shards(home)
        for path in segments(folder)
        for record in parsed(line for line in whole_lines(path) if named in line)
    ]
    return sorted((record for record in found if record.get(key) == call_id), key=_clock)


def in_doubt(home: Path) -> list[Record]:
    """The `call.in_doubt` record of each call whose outcome, as far as is known, nobody has said."""
    return doubtful(records(home))


def doubtful(found: Iterable[Record]) -> list[Record]:
    """The same among these records, which are in order."""
    unsettled: dict[Json, Record] = {}
    for record in found:
        if record["type"] == "call.in_doubt":
            unsettled[record.get("call_id")] = record
        elif record["type"] in SETTLES:
            unsettled.pop(record.get("call_id"), None)
    return list(unsettled.values())


def show(home: Path, call_id: str) -> list[Shown]:
    """Every record of one call with its content. Raises `OSError`, `ValueError` when the keys cannot be read."""
    return list(reveal(home, find_call(home, call_id)))


def reveal(home: Path, found: Iterable[Record]) -> Iterator[Shown]:
    """These records with their content, one by one. Raises as `show`."""
    with closing(KeyStore(home / "state.db", master_key(home))) as keys:
        contents = Contents(keys, home / "audit", OsDisk())
        for record in found:
            yield opened(contents, record)


def opened(contents: Contents, record: Record) -> Shown:
    """A record with its content, or why that cannot be read."""
    try:
        return Shown(record, contents.open(record))
    except Unreadable as why:
        return Shown(record, None, str(why))


def _shard_records(folder: Path) -> Iterator[Record]:
    for path in segments(folder):
        yield from parsed(whole_lines(path))


def _shard_since(folder: Path, begin: str) -> Iterator[Record]:
    """Those whose clock is at or after `begin`, which is as in a record: 16 hex digits."""
    paths = segments(folder)
    for path, later in zip(paths, [*paths[1:], None], strict=True):
        follows = None if later is None else next(parsed(islice(whole_lines(later), 1)), None)
        if follows is None or str(follows["hlc"]) > begin:
            yield from (record for record in parsed(whole_lines(path)) if str(record["hlc"]) >= begin)


def _after(folder: Path, seq: int) -> Iterator[Record]:
    """The records after `seq`; segments that end before it are not read."""
    paths = segments(folder)
    for path, later in zip(paths, [*paths[1:], None], strict=True):
        if later is None or int(later.stem) > seq + 1:
            yield from parsed(islice(whole_lines(path), max(0, seq + 1 - int(path.stem)), None))


def parsed(lines: Iterable[bytes]) -> Iterator[Record]:
    """Records, of the lines up to the first that is none: a live writer, or damage, is there."""
    for line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        if not isinstance(record, dict) or not record.keys() >= _MARKS:
            return
        yield record


def _clock(record: Mapping[str, Json]) -> tuple[str, str, int]:
    return str(record["hlc"]), str(record["shard"]), _seq(record)


def _seq(record: Mapping[str, Json]) -> int:
    seq = record["seq"]
    return seq if isinstance(seq, int) else -1
