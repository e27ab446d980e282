"""`limits.db`: rows by kind and key, and boxes by number, written by one thread, many calls to a transaction.

What was committed survives the end of the process, however it ends (`synchronous=NORMAL`); of what the machine loses
with its power, `synced` says from when on it may be missing. It never knows what a row means.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import orjson

from gateway.tool import Json

log = logging.getLogger("toolgate")
Row = tuple[str, str, Json, float]  # kind, key, value, and the unix time until which it says something
Waiting = dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]
Box = tuple[int, float, bytes]  # number, the unix time until which it is wanted, what is in it
GONE = None  # the value of a row that is to be dropped
_SCHEMA = """
CREATE TABLE IF NOT EXISTS limits (
  kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (kind, key))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boxes (number INTEGER PRIMARY KEY, until REAL NOT NULL, box BLOB NOT NULL);
"""
# One statement for however many rows: SQLite gives the interpreter lock up once, and not for each of them.
_PUT = """
INSERT INTO limits SELECT value->>0, value->>1, value->2, value->>3 FROM json_each(?) WHERE true
ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, until = excluded.until
"""
_DROP = "DELETE FROM limits WHERE (kind, key) IN (SELECT value->>0, value->>1 FROM json_each(?))"
_DROP_BOXES = "DELETE FROM boxes WHERE number IN (SELECT value FROM json_each(?))"
_AT_ONCE = 64  # boxes in a statement
_SYNC = 30.0  # seconds of activity between two times at which all that was committed is made safe from power loss
_MARK = ("mark", "synced")
ALWAYS = 1e18  # the end of a row that is dropped by whoever wrote it


@dataclass(slots=True)
class _Batch:
    """What is to be written together."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def statements(self) -> Iterator[tuple[str, Sequence[object]]]:
        """With their values."""
        there = [row for row in self.rows.values() if row[2] is not GONE]
        gone = [row[:2] for row in self.rows.values() if row[2] is GONE]
        for begin in range(0, len(self.boxes), _AT_ONCE):
            some = self.boxes[begin : begin + _AT_ONCE]
            places = ",".join(["(?, ?, ?)"] * len(some))
            yield f"INSERT OR REPLACE INTO boxes VALUES {places}", list(chain.from_iterable(some))
        for sql, rows in ((_PUT, there), (_DROP, gone), (_DROP_BOXES, self.dropped)):
            if rows:
                yield sql, (_document(rows),)


class Commits:
    """The open file. Everything may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises `sqlite3.Error` or `OSError` when the file cannot be used."""
        self._path = path
        self._db = _opened(path)
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
        self._reading, self._lock = Lock(), Lock()
        self._next = _Batch()
        self._number = int(self._db.execute("SELECT COALESCE(MAX(number), 0) FROM boxes").fetchone()[0])
        self._waiting: Waiting = {}
        self._idle, self._ending, self._marking = True, False, False
        self._synced_at = -_SYNC
        self._go: SimpleQueue[None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="limits", daemon=True)
        self._thread.start()

    def forget(self, now: float) -> None:
        """Drops every row that says nothing any more at `now` (unix seconds). Blocks; raises `sqlite3.Error`."""
        with self._reading:
            self._reader.execute("DELETE FROM limits WHERE until <= ?", (now,))
            self._reader.execute("DELETE FROM boxes WHERE until <= ?", (now,))

    def all(self, kind: str) -> Iterator[tuple[str, Any, float]]:
        """Key, value and end of every row of a kind. Blocks; raises `sqlite3.Error`."""
        with self._reading:
            for key, value, until in self._reader.execute("SELECT key, value, until FROM limits WHERE kind=?", (kind,)):
                yield key, orjson.loads(value), until

    def find(self, kind: str, key: str) -> Any:
        """The value of one row as it was committed; None when there is none. Blocks; raises `sqlite3.Error`."""
        with self._reading:
            found = self._reader.execute("SELECT value FROM limits WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if found is None else orjson.loads(found[0])

    def put_box(self, box: bytes, until: float) -> int:
        """Gives a box a number; it is committed with the rows of the next `keep`."""
        with self._lock:
            self._number += 1
            self._next.boxes.append((self._number, until, box))
            return self._number

    def box(self, number: int) -> bytes | None:
        """What is in a box, as it was committed. Blocks; raises `sqlite3.Error`."""
        with self._reading:
            found = self._reader.execute("SELECT box FROM boxes WHERE number = ?", (number,)).fetchone()
        return None if found is None else bytes(found[0])

    def drop(self, boxes: Sequence[int]) -> None:
        """Has boxes dropped with the next rows."""
        with self._lock:
            self._next.dropped += boxes

    def synced(self) -> float | None:
        """Unix time before which nothing can be missing; None when that is not known."""
        found = self.find(*_MARK)
        return None if found is None else float(found)

    def whole(self) -> None:
        """Nothing is missing by now: from here on `synced` says more than before."""
        self._marking = True

    def note(self, rows: Iterable[Row]) -> None:
        """Has rows written soon; what cannot be written is, with the next."""
        self._put(rows, None)

    async def keep(self, rows: Iterable[Row]) -> None:
        """Rows that are committed when this returns. Raises `sqlite3.Error`; they are then written with the next."""
        done = asyncio.get_running_loop().create_future()
        self._put(rows, done)
        await done

    def close(self) -> None:
        """Writes what is left. Blocks."""
        with self._lock:
            self._ending = True
        self._go.put(None)
        self._thread.join()
        with self._reading:
            self._reader.close()
        with closing(self._db), suppress(sqlite3.Error):  # it is read back to the mark before, then
            if self._marking:
                self._db.execute(_PUT, (_document([(*_MARK, self._sync(), ALWAYS)]),))

    def _put(self, rows: Iterable[Row], done: asyncio.Future[None] | None) -> None:
        with self._lock:
            for row in rows:
                self._next.rows[row[0], row[1]] = row
            if done is not None:
                self._waiting.setdefault(done.get_loop(), []).append(done)
            wake, self._idle = self._idle, False
        if wake:
            self._go.put(None)

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while True:
            with self._lock:
                batch, self._next = self._next, _Batch()
                waiting, self._waiting = self._waiting, {}
                self._idle = not (batch.rows or waiting)
                if self._idle:
                    self._next = batch
                ending = self._ending
            if self._idle:
                if ending:
                    return
                self._go.get()
                continue
            failed = self._tried(batch)
            _tell(waiting, failed)
            if failed is not None:
                self._put_back(batch, ending)
                if ending:
                    return
                self._go.get()

    def _put_back(self, batch: _Batch, ending: bool) -> None:
        """What could not be written, beside what came meanwhile, which is newer."""
        if ending:
            log.error("%s: %d counts could not be written", self._path.name, len(batch.rows))
        with self._lock:
            batch.rows.update(self._next.rows)
            self._next = _Batch(batch.rows, batch.boxes + self._next.boxes, batch.dropped + self._next.dropped)
            self._idle = not self._waiting
            if self._waiting:
                self._go.put(None)

    def _tried(self, batch: _Batch) -> sqlite3.Error | None:
        try:
            self._write(batch)
        except sqlite3.Error as error:
            return error
        except Exception as error:  # a background loop must outlive one bad row; whoever waits is told
            log.exception("counts could not be written")
            return sqlite3.InterfaceError(str(error))
        return None

    def _write(self, batch: _Batch) -> None:
        if self._marking and time.monotonic() - self._synced_at >= _SYNC:
            batch.rows[_MARK] = (*_MARK, self._sync(), ALWAYS)
        found = list(batch.statements())
        if len(found) == 1:  # is a transaction by itself
            self._db.execute(*found[0])
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in found:
                self._db.execute(statement, values)
            self._db.execute("COMMIT")
        except BaseException:  # whatever it was goes on, but nothing is half written
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _sync(self) -> float:
        """Makes what was committed by now safe from power loss; the time of that."""
        self._synced_at, now = time.monotonic(), time.time()
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return now


def look(path: Path, kind: str, keys: Iterable[str]) -> dict[str, Any]:
    """The values of rows of a file that another process may be writing: nothing where it cannot be read."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
    except sqlite3.Error:
        return {}
    try:
        sql = "SELECT key, value FROM limits WHERE kind = ? AND key IN (SELECT value FROM json_each(?))"
        return {key: orjson.loads(value) for key, value in db.execute(sql, (kind, _document(list(keys))))}
    except sqlite3.Error:
        return {}
    finally:
        db.close()


def _opened(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except BaseException:  # whatever it was goes on, but the file is not left open
        db.close()
        raise
    return db


def _document(rows: Sequence[object]) -> str:
    try:
        return orjson.dumps(rows).decode()
    except TypeError:  # half a surrogate pair in a key
        return json.dumps(rows)


def _tell(waiting: Waiting, failed: sqlite3.Error | None) -> None:
    for loop, futures in waiting.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_end, futures, failed)


def _end(futures: Sequence[asyncio.Future[None]], failed: sqlite3.Error | None) -> None:
    for future in futures:
        if future.done():  # its caller went away
            continue
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(sqlite3.OperationalError(str(failed)))
