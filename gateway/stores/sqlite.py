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
from dataclasses import replace
from pathlib import Path

from gateway.model import Artifact, Session
from gateway.ports import Key
from gateway.problems import refuse
from gateway.stores.memory import MemoryKeys, MemoryPins, MemorySessions
from gateway.tool import Labels

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, agent TEXT NOT NULL, tenant TEXT NOT NULL, user TEXT,
  scopes TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, revoked_at REAL);
CREATE TABLE IF NOT EXISTS sessions (
  owner TEXT NOT NULL, id TEXT NOT NULL, uid TEXT NOT NULL, opened_at REAL NOT NULL, expires_at REAL NOT NULL,
  labels TEXT NOT NULL, state TEXT NOT NULL, calls INTEGER NOT NULL, cost REAL NOT NULL, PRIMARY KEY (owner, id));
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
_SAVE = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, id) DO UPDATE SET
  state = CASE WHEN sessions.uid = excluded.uid AND sessions.state = 'closed' THEN 'closed' ELSE excluded.state END,
  uid = excluded.uid, opened_at = excluded.opened_at, expires_at = excluded.expires_at,
  labels = excluded.labels, calls = excluded.calls, cost = excluded.cost
"""
_RETRY_MS = 500


class State:
    """The open database file. Writes are serialised and durable (`synchronous=FULL`) when they return."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
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

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._reading:
            return self._reader.execute(sql, values).fetchall()

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


class SqliteSessions(MemorySessions):
    """Sessions, read from memory, written through when they open, close or gain a label.

    The number of calls and their cost are written with the next such change; a crash may forget the last of them.
    """

    def __init__(self, state: State, most: int = 10_000) -> None:
        super().__init__(most)
        self._state = state
        for row in state.read("SELECT owner, id, uid, opened_at, expires_at, labels, state, calls, cost FROM sessions"):
            session = _session(row)
            self._sessions[session.owner, session.id] = session

    def refresh(self) -> None:
        """Takes over what another process closed."""
        for owner, session_id in self._state.read("SELECT owner, id FROM sessions WHERE state = 'closed'"):
            place = (str(owner), str(session_id))
            there = self._sessions.get(place)
            if there is not None and there.state == "open":
                self._sessions[place] = replace(there, state="closed")

    async def open(self, session: Session) -> Session:
        kept = await super().open(session)
        if kept is session:
            await self._save(session)
        return kept

    async def _make_room(self, owner: str, now: float) -> None:
        before = len(self._sessions)
        await super()._make_room(owner, now)
        if len(self._sessions) < before:
            sql = "DELETE FROM sessions WHERE owner = ? AND expires_at <= ?"
            await self._durably(self._state.write, sql, (owner, now))

    async def close(self, owner: str, session_id: str) -> Session | None:
        closed = await super().close(owner, session_id)
        if closed is not None:
            sql = "UPDATE sessions SET state = 'closed' WHERE owner = ? AND id = ?"
            await self._durably(self._state.write, sql, (owner, session_id))
        return closed

    async def spend(self, session: Session, labels: Labels, cost: float) -> None:
        before = self.find(session.owner, session.id)
        await super().spend(session, labels, cost)
        after = self.find(session.owner, session.id)
        if before is not None and after is not None and after.labels != before.labels:
            await self._save(after)

    async def _save(self, session: Session) -> None:
        """Writes what is true of the session by then. What another process closed stays closed."""

        def values() -> tuple[object, ...]:
            now = self.find(session.owner, session.id) or session
            times = (now.opened_at, now.expires_at)
            return (now.owner, now.id, now.uid, *times, " ".join(sorted(now.labels)), now.state, now.calls, now.cost)

        await self._durably(self._state.write_latest, _SAVE, values)

    async def _durably(self, write: Callable[..., object], *given: object) -> None:
        try:
            await asyncio.to_thread(write, *given)
        except sqlite3.Error:
            raise refuse("audit_unavailable", "The session cannot be kept.", retry_after_ms=_RETRY_MS) from None


def sessions_in_use(state: State, now: float) -> set[str]:
    """The `uid` of each session that is open at `now` (unix seconds). Blocks; raises `sqlite3.Error`."""
    return {str(uid) for (uid,) in state.read("SELECT uid FROM sessions WHERE state='open' AND expires_at > ?", (now,))}


class SqliteArtifactRows:
    """What is known of each artifact, without its bytes. Blocks; raises OSError when the file cannot be used."""

    def __init__(self, state: State) -> None:
        self._state = state

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

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        try:
            return self._state.read(sql, values)
        except sqlite3.Error as error:
            raise OSError(f"state.db cannot be read: {error}") from None

    def _write(self, sql: str, values: Sequence[object]) -> None:
        try:
            self._state.write(sql, values)
        except sqlite3.Error as error:
            raise OSError(f"state.db cannot be written: {error}") from None


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


def _session(row: tuple[object, ...]) -> Session:
    owner, session_id, uid, opened, expires, labels, state, calls, cost = row
    return Session(
        id=str(session_id),
        uid=str(uid),
        owner=str(owner),
        opened_at=_time(opened) or 0.0,
        expires_at=_time(expires) or 0.0,
        labels=frozenset(str(labels).split()),
        state="closed" if state == "closed" else "open",
        calls=int(str(calls)),
        cost=_time(cost) or 0.0,
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
