"""The index: `HOME/audit-index.db`, an SQLite view of the segments by call, session, tenant, agent, tool and the rest.

Whoever asks brings it up to date first, from where it stopped. It holds nothing that the segments do not: deleting it
loses nothing, and one that is damaged, or that is about another log, is made anew. It is never on the path of a call,
never decrypts, and proves nothing. One process at a time uses it, under a lock file of its own.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gateway.audit.chain import leaf_hash
from gateway.audit.columns import Columns, Place, clocks, columns_of, place_of
from gateway.audit.query import Record, parsed, shards
from gateway.audit.segment import segment_path
from gateway.audit.verify import segments
from gateway.wanted import Wanted

FILE, LOCK = "audit-index.db", "audit-index.lock"
_VERSION = 1
_BATCH = 20_000  # records between two commits
_CACHED = 100_000  # names in memory
_NAMED = ("session", "tenant", "agent", "user", "tool", "type", "effect", "code", "rule", "status")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS cursors (
  shard TEXT PRIMARY KEY, segment INTEGER NOT NULL, last INTEGER NOT NULL, end INTEGER NOT NULL, leaf BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, name));
CREATE TABLE IF NOT EXISTS records (
  hlc INTEGER, shard TEXT, seq INTEGER, segment INTEGER NOT NULL, start INTEGER NOT NULL, call TEXT, parent TEXT,
  {", ".join(f"{name} INTEGER REFERENCES names" for name in _NAMED)}, PRIMARY KEY (hlc, shard, seq)) WITHOUT ROWID;
"""
# Made once the records are in: filling an index as it goes costs twice the time.
_INDEXES = "".join(
    f"CREATE INDEX IF NOT EXISTS records_{name} ON records ({name}) WHERE {name} IS NOT NULL;"
    for name in ("call", "parent", "session", "code")
)
_INSERT = f"INSERT OR REPLACE INTO records VALUES ({', '.join('?' * (7 + len(_NAMED)))})"
# What is wrong with the machine, not with the file: making the index anew would help nobody.
_MACHINE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_NOMEM,
    }
)


class Spot(NamedTuple):
    """Where a record stands: its place in the order, the first seq of its segment, the byte its line starts at."""

    place: Place
    segment: int
    start: int


class Cursor(NamedTuple):
    """How far a shard is indexed: the segment, first and past-the-end byte, and leaf of the last line taken."""

    segment: int = 0
    last: int = 0
    end: int = 0
    leaf: bytes = b""


class Index:
    """The open index of one home; made by `opened`. Raises `sqlite3.Error` and `OSError` as they come."""

    def __init__(self, home: Path, db: sqlite3.Connection) -> None:
        self._home = home
        self._db = db
        self._ids: dict[tuple[str, str], int] = {}

    def update(self) -> None:
        """Takes in what was written since the last time; a torn or unfinished line is left for the next."""
        folders = {folder.name: folder for folder in shards(self._home)}
        for (gone,) in self._db.execute("SELECT shard FROM cursors").fetchall():
            if gone not in folders:
                self._forget(gone)
        for folder in folders.values():
            cursor = self._cursor(folder)
            if cursor is None:
                self._forget(folder.name)
            self._take(folder, cursor or Cursor())
        self._db.executescript(_INDEXES)

    def find(self, wanted: Wanted, limit: int, after: Place | None, *, newest_first: bool) -> list[Spot]:
        """At most `limit` records that are wanted and come after `after` in the order asked for."""
        clauses, values = self._clauses(wanted)
        if after is not None:
            clauses.append(f"(hlc, shard, seq) {'<' if newest_first else '>'} (?, ?, ?)")
            values += after
        down = "DESC" if newest_first else "ASC"
        rows = self._db.execute(
            f"SELECT hlc, shard, seq, segment, start FROM records WHERE {' AND '.join(clauses)} "
            f"ORDER BY hlc {down}, shard {down}, seq {down} LIMIT ?",
            [*values, limit],
        )
        return [Spot(Place(*row[:3]), *row[3:]) for row in rows]

    def _clauses(self, wanted: Wanted) -> tuple[list[str], list[object]]:
        first, end = clocks(wanted)
        clauses, values = ["hlc >= ?", "hlc < ?"], list[object]((first, end))
        for column, value in (("call", wanted.call), ("parent", wanted.parent)):
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        for kind in _NAMED:
            asked: str | None = getattr(wanted, kind)
            if asked is not None:
                found = self._like(kind, asked)
                clauses.append(f"{kind} = ?" if len(found) == 1 else f"{kind} IN ({', '.join('?' * len(found))})")
                values += found
        return clauses, values

    def _like(self, kind: str, asked: str) -> list[int]:
        """The ids of the names that are meant; a name of kind `rule` is all rules of one record, a line each."""
        meant, value = "name = ?", asked
        if kind == "type" and asked.endswith("*"):
            meant, value = "instr(name, ?) = 1", asked[:-1]
        elif kind == "rule":
            meant, value = "instr(char(10) || name || char(10), ?)", f"\n{asked}\n"
        return [row[0] for row in self._db.execute(f"SELECT id FROM names WHERE kind = ? AND {meant}", (kind, value))]

    # ── taking in ────────────────────────────────────────────────────────────────────────────────────────────────

    def _cursor(self, folder: Path) -> Cursor | None:
        """Where the last update stopped; `None` when that line is not there any more: this is another log."""
        row = self._db.execute(
            "SELECT segment, last, end, leaf FROM cursors WHERE shard = ?", (folder.name,)
        ).fetchone()
        if row is None:
            return Cursor()
        cursor = Cursor(*row)
        try:
            with segment_path(folder, cursor.segment).open("rb") as file:
                file.seek(cursor.last)
                line = file.read(cursor.end - cursor.last)
        except FileNotFoundError:
            return None
        return cursor if line[-1:] == b"\n" and leaf_hash(line[:-1]) == cursor.leaf else None

    def _forget(self, shard: str) -> None:
        with self._db:
            self._db.execute("DELETE FROM records WHERE shard = ?", (shard,))
            self._db.execute("DELETE FROM cursors WHERE shard = ?", (shard,))

    def _take(self, folder: Path, cursor: Cursor) -> None:
        """Takes in what follows the cursor; each batch with the cursor after it, or not at all.

        A line is read when it is its turn to be inserted: SQLite gives up the interpreter lock for each row, so that a
        gateway's calls never wait for more than one.
        """
        fresh = _lines_after(folder, cursor)
        while (last := next(fresh, None)) is not None:
            with self._db:
                self._db.execute(_INSERT, self._row(last))
                for last in islice(fresh, _BATCH):
                    self._db.execute(_INSERT, self._row(last))
                at = (last.segment, last.start, last.start + len(last.octets) + 1, leaf_hash(last.octets))
                self._db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?, ?)", (folder.name, *at))
            if len(self._ids) > _CACHED:
                self._ids.clear()

    def _row(self, line: Line) -> tuple[object, ...]:
        has = columns_of(line.record)
        named = (self._id(kind, _name(has, kind)) for kind in _NAMED)
        return (*line.place, line.segment, line.start, has.call, has.parent, *named)

    def _id(self, kind: str, name: str | None) -> int | None:
        if name is None:
            return None
        known = self._ids.get((kind, name))
        if known is None:
            self._db.execute("INSERT OR IGNORE INTO names (kind, name) VALUES (?, ?)", (kind, name))
            (known,) = self._db.execute("SELECT id FROM names WHERE kind = ? AND name = ?", (kind, name)).fetchone()
            self._ids[kind, name] = known
        return known


@contextmanager
def opened(home: Path) -> Iterator[Index]:
    """The index of a home, up to date, for this process alone while it is open; made if missing.

    Raises `sqlite3.Error` and `OSError` when it can neither be used nor made.
    """
    fd = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with closing(_connect(home / FILE)) as db:
            index = Index(home, db)
            index.update()
            yield index
    finally:
        os.close(fd)


def discard(home: Path) -> None:
    """Deletes the index; it is made anew by the next who asks."""
    fd = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for suffix in ("", "-wal", "-shm"):
            (home / f"{FILE}{suffix}").unlink(missing_ok=True)
    finally:
        os.close(fd)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is what is wrong, so that a new one would help."""
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF) not in _MACHINE


class Line(NamedTuple):
    """A line on its way into the index."""

    place: Place
    segment: int
    start: int
    octets: bytes
    record: Record


def read_line(home: Path, spot: Spot) -> Record | None:
    """The record at a spot; `None` when it is not there."""
    try:
        with segment_path(home / "audit" / spot.place.shard, spot.segment).open("rb") as file:
            file.seek(spot.start)
            found = _parsed(file.readline().removesuffix(b"\n"))
    except FileNotFoundError:
        return None
    return found[1] if found is not None and found[0] == spot.place else None


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"an index of version {version}")
        # What power loss takes is read again; the log's disk is not to be flushed for this.
        for pragma in (
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "wal_autocheckpoint=8000",
            "cache_size=-65536",
        ):
            db.execute(f"PRAGMA {pragma}")
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    except BaseException:  # whatever it was goes on, but the file is not left open
        db.close()
        raise
    return db


def _lines_after(folder: Path, cursor: Cursor) -> Iterator[Line]:
    """The lines after the cursor; of a segment, those before the first that is no record: damage, or being written."""
    for path in segments(folder):
        segment = int(path.stem)
        if segment >= cursor.segment:
            for start, octets in _lines(path, cursor.end if segment == cursor.segment else 0):
                found = _parsed(octets)
                if found is None:
                    break
                yield Line(found[0], segment, start, octets, found[1])


def _lines(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """The finished lines of a segment from `start` on, each with the byte it starts at; up to the first NUL."""
    rest = b""
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(1 << 18):
            used, nul, _ = chunk.partition(b"\x00")
            *lines, rest = (rest + used).split(b"\n")
            for line in lines:
                yield start, line
                start += len(line) + 1
            if nul:
                return


def _parsed(line: bytes) -> tuple[Place, Record] | None:
    """The record of a line and its place; `None` when it is none that could be found again."""
    record = next(parsed([line]), None)
    try:
        return None if record is None else (place_of(record), record)
    except ValueError:
        return None


def _name(has: Columns, kind: str) -> str | None:
    if kind == "rule":
        return "\n".join(has.rules) or None
    name: str | None = getattr(has, kind)
    return name
