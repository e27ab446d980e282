"""`limits.db`: rows by kind and key, written by one thread, many calls to a transaction.

What was committed survives the end of the process, however it ends (`synchronous=NORMAL`); of what the machine loses
with its power, `synced` says from when on it may be missing. It never knows what a row means.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import orjson

from gateway.tool import Json

log = logging.getLogger("toolgate")
Row = tuple[str, str, Json, float]  # kind, key, value, and the unix time until which it says something
Waiting = dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]
GONE = None  # the value of a row that is to be dropped
_SCHEMA = """
CREATE TABLE IF NOT EXISTS limits (
  kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (kind, key))
  WITHOUT ROWID;
"""
# One statement for however many rows: SQLite gives the interpreter lock up once, and not for each of them.
_PUT = """
INSERT INTO limits SELECT value->>0, value->>1, value->2, value->>3 FROM json_each(?) WHERE true
ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, until = excluded.until
"""
_DROP = "DELETE FROM limits WHERE (kind, key) IN (SELECT value->>0, value->>1 FROM json_each(?))"
_SYNC = 30.0  # seconds of activity between two times at which all that was committed is made safe from power loss
_MARK = ("mark", "synced")
ALWAYS = 1e18  # the end of a row that is dropped by whoever wrote it


class Commits:
    """The open file. Everything may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises `sqlite3.Error` or `OSError` when the file cannot be used."""
        self._path = path
        self._db = _opened(path)
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
        self._reading, self._lock = Lock(), Lock()
        self._rows: dict[tuple[str, str], Row] = {}
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
                self._rows[row[0], row[1]] = row
            if done is not None:
                self._waiting.setdefault(done.get_loop(), []).append(done)
            wake, self._idle = self._idle, False
        if wake:
            self._go.put(None)

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while True:
            with self._lock:
                rows, self._rows = self._rows, {}
                waiting, self._waiting = self._waiting, {}
                self._idle = not (rows or waiting)
                ending = self._ending
            if self._idle:
                if ending:
                    return
                self._go.get()
                continue
            failed = self._tried(rows)
            _tell(waiting, failed)
            if failed is not None:
                self._put_back(rows, ending)
                if ending:
                    return
                self._go.get()

    def _put_back(self, rows: Mapping[tuple[str, str], Row], ending: bool) -> None:
        """Rows that could not be written, beside those that came meanwhile, which are newer."""
        if ending:
            log.error("%s: %d counts could not be written", self._path.name, len(rows))
        with self._lock:
            self._rows = {**rows, **self._rows}
            self._idle = not self._waiting
            if self._waiting:
                self._go.put(None)

    def _tried(self, rows: Mapping[tuple[str, str], Row]) -> sqlite3.Error | None:
        try:
            self._write(rows)
        except sqlite3.Error as error:
            return error
        except Exception as error:  # a background loop must outlive one bad row; whoever waits is told
            log.exception("counts could not be written")
            return sqlite3.InterfaceError(str(error))
        return None

    def _write(self, rows: Mapping[tuple[str, str], Row]) -> None:
        there = [row for row in rows.values() if row[2] is not GONE]
        gone = [row[:2] for row in rows.values() if row[2] is GONE]
        if self._marking and time.monotonic() - self._synced_at >= _SYNC:
            there.append((*_MARK, self._sync(), ALWAYS))
        if not gone:
            self._db.execute(_PUT, (_document(there),))
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute(_DROP, (_document(gone),))
            if there:
                self._db.execute(_PUT, (_document(there),))
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
