"""`state.db`: keys, sessions and pins that survive a restart, in SQLite, with a copy in memory for the call path.

Reads of those never touch the disk; the list of artifacts, which few calls need, is read from it. Another process (the
CLI) may write the same file: `refresh` notices and reads again. It never holds a secret in plain: keys are kept as
SHA-256 digests.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.model import Artifact
from gateway.ports import Key
from gateway.stores.memory import MemoryKeys, MemoryPins

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, agent TEXT NOT NULL, tenant TEXT NOT NULL, user TEXT,
  scopes TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, revoked_at REAL);
CREATE TABLE IF NOT EXISTS sessions (
  owner TEXT NOT NULL, id TEXT NOT NULL, uid TEXT NOT NULL, opened_at REAL NOT NULL, expires_at REAL NOT NULL,
  labels TEXT NOT NULL, state TEXT NOT NULL, calls INTEGER NOT NULL, cost REAL NOT NULL, PRIMARY KEY (owner, id));
CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, type TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (uid TEXT NOT NULL, box BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pins (
  server TEXT NOT NULL, tool TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (server, tool));
CREATE TABLE IF NOT EXISTS artifacts (
  owner TEXT NOT NULL, handle TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL,
  labels TEXT NOT NULL, action TEXT NOT NULL, call_id TEXT NOT NULL, kept_at REAL NOT NULL,
  PRIMARY KEY (owner, handle));
CREATE TABLE IF NOT EXISTS revocations (
  id TEXT PRIMARY KEY, token TEXT, agent TEXT, user TEXT, tenant TEXT, issuer TEXT, at REAL NOT NULL,
  earlier_only INTEGER NOT NULL, why TEXT NOT NULL, who TEXT NOT NULL, lifted_at REAL, lifted_by TEXT,
  recorded INTEGER NOT NULL);
"""
_KEYS = "SELECT id, digest, agent, tenant, user, scopes, created_at, expires_at, revoked_at FROM keys"
_TAKE_OVER = """
INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
  expires_at = MIN(COALESCE(keys.expires_at, excluded.expires_at), COALESCE(excluded.expires_at, keys.expires_at)),
  revoked_at = COALESCE(keys.revoked_at, excluded.revoked_at)
"""
# What tables had not from the beginning: a home of an earlier version gets it when it is opened.
_ADDED = {
    "sessions": (
        "budget TEXT NOT NULL DEFAULT '{}'",
        "parent TEXT",
        "ended TEXT",
        "recorded INTEGER NOT NULL DEFAULT 0",
    )
}


class State:
    """The open database file. Writes are serialised and durable (`synchronous=FULL`) when they return."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._add_columns()
        self._version = -1
        # Reads have a connection of their own: in WAL mode they wait for no writer, of this process or another.
        self._reading = threading.Lock()
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)

    def write(self, sql: str, values: Sequence[object]) -> int:
        """Runs one statement; returns the number of rows it changed."""
        with self._lock:
            return self._db.execute(sql, values).rowcount

    def write_latest(self, sql: str, values: Callable[[], Sequence[object]]) -> None:
        """As `write`, with values asked for when it is their turn: what is written last is what was true last."""
        with self._lock:
            self._db.execute(sql, values())

    def write_all(self, sql: str, rows: Callable[[], Sequence[Sequence[object]]]) -> None:
        """As `write_latest`, for many rows: all of them or none."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(sql, rows())
            except BaseException:  # whatever it was goes on, but nothing is half written
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._reading:
            return self._reader.execute(sql, values).fetchall()

    def _add_columns(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for table, columns in _ADDED.items():
            there = {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}
            for column in columns:
                if column.split()[0] not in there:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        self._db.execute("COMMIT")

    def changed(self) -> bool:
        """True when another connection committed since the last time this was asked (and the first time)."""
        with self._lock:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        was, self._version = self._version, version
        return bool(was != version)

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()


class SqliteKeys(MemoryKeys):
    """API keys, read from memory, written through."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self.refresh()

    def refresh(self) -> None:
        """Reads the table again."""
        self._by_digest = {str(row[1]): _key(row) for row in self._state.read(_KEYS)}

    def look(self, digest: str) -> None:
        """Reads one key again, which another process may have made; quick, because anybody can ask for it."""
        for row in self._state.read(f"{_KEYS} WHERE digest = ?", (digest,)):
            self._by_digest[digest] = _key(row)

    async def add(self, key: Key) -> None:
        values = (key.id, key.digest, key.agent, key.tenant, key.user, " ".join(sorted(key.scopes)))
        times = (key.created_at, key.expires_at, key.revoked_at)
        await asyncio.to_thread(
            self._state.write, "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values + times
        )
        await super().add(key)

    async def revoke(self, key_id: str, at: float) -> bool:
        sql = "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
        changed = await asyncio.to_thread(self._state.write, sql, (at, key_id))
        return bool(changed) and await super().revoke(key_id, at)

    def take_over(self, key: Key) -> None:
        """Keeps what another home knows of a key, which ends no later and is no less revoked by that. Blocks."""
        times = (key.created_at, key.expires_at, key.revoked_at)
        values = (key.id, key.digest, key.agent, key.tenant, key.user, " ".join(sorted(key.scopes)), *times)
        self._state.write(_TAKE_OVER, values)
        self.look(key.digest)

    async def expire(self, key_id: str, at: float) -> bool:
        sql = "UPDATE keys SET expires_at = MIN(?, COALESCE(expires_at, ?)) WHERE id = ? AND revoked_at IS NULL"
        changed = await asyncio.to_thread(self._state.write, sql, (at, at, key_id))
        return bool(changed) and await super().expire(key_id, at)


def sessions_in_use(state: State, now: float) -> set[str]:
    """The `uid` of each session that is open at `now` (unix seconds). Blocks; raises `sqlite3.Error`."""
    return {str(uid) for (uid,) in state.read("SELECT uid FROM sessions WHERE state='open' AND expires_at > ?", (now,))}


class Rows:
    """Rows of one kind in `state.db`. Blocks; raises `OSError` when the file cannot be used."""

    def __init__(self, state: State) -> None:
        self._state = state

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        try:
            return self._state.read(sql, values)
        except sqlite3.Error as error:
            raise OSError(f"state.db cannot be read: {error}") from None

    def _write(self, sql: str, values: Sequence[object] = ()) -> int:
        try:
            return self._state.write(sql, values)
        except sqlite3.Error as error:
            raise OSError(f"state.db cannot be written: {error}") from None


class SqliteArtifactRows(Rows):
    """What is known of each artifact, without its bytes. Blocks; raises OSError when the file cannot be used."""

    def find(self, owner: str, handle: str) -> Artifact | None:
        sql = "SELECT * FROM artifacts WHERE owner = ? AND handle = ?"
        return next(map(_artifact, self._read(sql, (owner, handle))), None)

    def all(self) -> list[Artifact]:
        return [_artifact(row) for row in self._read("SELECT * FROM artifacts")]

    def used(self, owner: str, *, beside: str, since: float, least: int) -> int:
        """Bytes of what the owner keeps since then, `beside` one handle; each counts for `least` at least."""
        sql = "SELECT TOTAL(MAX(size, ?)) FROM artifacts WHERE owner = ? AND handle <> ? AND kept_at > ?"
        ((total,),) = self._read(sql, (least, owner, beside, since))
        return int(_time(total) or 0)

    def put(self, artifact: Artifact) -> None:
        a = artifact
        labels = " ".join(sorted(a.labels))
        values = (a.owner, a.handle, a.name, a.size, a.media_type, labels, a.action, a.call_id, a.kept_at)
        self._write("INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, kept_until: float) -> None:
        """Drops the rows of what was last kept then or earlier."""
        self._write("DELETE FROM artifacts WHERE kept_at <= ?", (kept_until,))


class SqlitePins(MemoryPins):
    """Pinned digests of upstream tool definitions."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        for server, tool, digest in state.read("SELECT server, tool, digest FROM pins"):
            self._pins[str(server), str(tool)] = str(digest)

    async def pin(self, server: str, tool: str, digest: str) -> None:
        sql = "INSERT OR REPLACE INTO pins VALUES (?, ?, ?)"
        await asyncio.to_thread(self._state.write, sql, (server, tool, digest))
        await super().pin(server, tool, digest)


def _key(row: tuple[object, ...]) -> Key:
    key_id, digest, agent, tenant, user, scopes, created, expires, revoked = row
    return Key(
        id=str(key_id),
        digest=str(digest),
        agent=str(agent),
        tenant=str(tenant),
        user=None if user is None else str(user),
        scopes=frozenset(str(scopes).split()),
        created_at=_time(created) or 0.0,
        expires_at=_time(expires),
        revoked_at=_time(revoked),
    )


def _artifact(row: tuple[object, ...]) -> Artifact:
    owner, handle, name, size, media_type, labels, action, call_id, kept_at = row
    return Artifact(
        handle=str(handle),
        owner=str(owner),
        name=str(name),
        size=int(str(size)),
        media_type=str(media_type),
        labels=frozenset(str(labels).split()),
        action=str(action),
        call_id=str(call_id),
        kept_at=_time(kept_at) or 0.0,
    )


def _time(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
