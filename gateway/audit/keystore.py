"""Content keys, wrapped, in `state.db`: one per tenant under the master key, one per session under its tenant's.

The master key is 256 random bits in `HOME/master.key` (0600), made at the first start: whoever has that file and
`state.db` can read all content, and a backup of the log without them cannot. Keys are never in the log. Deleting a
row is erasure: nothing else can open what was sealed under it. This module never encrypts content (`content.py`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from time import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.audit.keyfile import secret_file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit_tenant_keys (tenant TEXT PRIMARY KEY, wrapped BLOB NOT NULL, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS audit_session_keys (
    session TEXT PRIMARY KEY, tenant TEXT NOT NULL, wrapped BLOB NOT NULL, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS audit_erased (session TEXT PRIMARY KEY, erased_at REAL NOT NULL);
"""


def master_key(home: Path) -> bytes:
    """The 32 bytes of `HOME/master.key`, made if missing. Raises `ValueError` when the file is not such a key."""
    key = secret_file(home / "master.key", lambda: os.urandom(32))
    if len(key) != 32:
        raise ValueError(f"{home / 'master.key'} is not 32 bytes long")
    return key


class KeyStore:
    """The keys of tenants and sessions, in the clear only in memory. Every method may block on SQLite.

    Safe to use from several threads. Raises `sqlite3.Error` and `OSError` when the database cannot be used, and
    `cryptography.exceptions.InvalidTag` when the master key is not the one the keys were wrapped under.
    """

    def __init__(self, database: Path, master: bytes) -> None:
        self._master = AESGCM(master)
        self._lock = Lock()
        self._db = _connect(database)

    def tenant_key(self, tenant: str) -> bytes:
        """The tenant's key; made, and durable, if there is none."""
        with self._lock:
            return self._tenant_key(tenant)

    def session_key(self, session: str, tenant: str) -> bytes:
        """The session's key; made, and durable, if there is none."""
        with self._lock:
            found = self._find_session(session)
            if found is not None:
                return found
            outer = AESGCM(self._tenant_key(tenant))
            wrapped = _wrap(outer, os.urandom(32), f"session {session}")
            self._db.execute(
                "INSERT OR IGNORE INTO audit_session_keys VALUES (?, ?, ?, ?)", (session, tenant, wrapped, time())
            )
            kept = self._find_session(session)
            if kept is None:
                raise sqlite3.DatabaseError("a session key was deleted while it was made")
            return kept

    def find_session(self, session: str) -> bytes | None:
        """The session's key, or `None` when it was erased or never made here."""
        with self._lock:
            return self._find_session(session)

    def find_tenant(self, tenant: str) -> bytes | None:
        """The tenant's key, or `None` when it was erased or never made here."""
        with self._lock:
            there = self._db.execute("SELECT 1 FROM audit_tenant_keys WHERE tenant = ?", (tenant,)).fetchone()
            return self._tenant_key(tenant) if there else None

    def was_erased(self, session: str) -> bool:
        """Whether a key of this session was deleted; it may have another by now."""
        with self._lock:
            found = self._db.execute("SELECT 1 FROM audit_erased WHERE session = ?", (session,)).fetchone()
            return found is not None

    def made_before(self, at: float) -> set[str]:
        """The sessions whose key was made before then (unix seconds)."""
        with self._lock:
            rows = self._db.execute("SELECT session FROM audit_session_keys WHERE created_at < ?", (at,)).fetchall()
            return {str(session) for (session,) in rows}

    def erase(self, sessions: Iterable[str], tenant: str | None = None) -> set[str]:
        """Deletes the keys of sessions, and all of a tenant's with its own; gives the sessions that had one.

        All or nothing. What was sealed under them can never be read again; `scrub` takes the last copy off the disk.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                gone = self._erase(sessions, tenant)
                self._db.executemany(
                    "INSERT OR REPLACE INTO audit_erased VALUES (?, ?)", [(session, time()) for session in gone]
                )
            except BaseException:  # whatever it was goes on, but nothing is half deleted
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            return gone

    def scrub(self) -> None:
        """Empties the write-ahead log, where a deleted key still stood. Raises `sqlite3.Error` while others read."""
        with self._lock:
            busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("state.db is being read: the deleted keys still stand in its log")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _erase(self, sessions: Iterable[str], tenant: str | None) -> set[str]:
        delete = "DELETE FROM audit_session_keys WHERE session = ?"
        gone = {session for session in sessions if self._db.execute(delete, (session,)).rowcount > 0}
        if tenant is not None:
            rows = self._db.execute("DELETE FROM audit_session_keys WHERE tenant = ? RETURNING session", (tenant,))
            gone |= {str(session) for (session,) in rows.fetchall()}
            self._db.execute("DELETE FROM audit_tenant_keys WHERE tenant = ?", (tenant,))
        return gone

    def _find_session(self, session: str) -> bytes | None:
        row = self._db.execute("SELECT tenant, wrapped FROM audit_session_keys WHERE session = ?", (session,))
        found = row.fetchone()
        if found is None:
            return None
        return _unwrap(AESGCM(self._tenant_key(found[0])), found[1], f"session {session}")

    def _tenant_key(self, tenant: str) -> bytes:
        query = "SELECT wrapped FROM audit_tenant_keys WHERE tenant = ?"
        found = self._db.execute(query, (tenant,)).fetchone()
        if found is None:
            wrapped = _wrap(self._master, os.urandom(32), f"tenant {tenant}")
            self._db.execute("INSERT OR IGNORE INTO audit_tenant_keys VALUES (?, ?, ?)", (tenant, wrapped, time()))
            found = self._db.execute(query, (tenant,)).fetchone()
        return _unwrap(self._master, found[0], f"tenant {tenant}")


def _connect(path: Path) -> sqlite3.Connection:
    """The database with its tables; on a disk that can only be read, as it stands there."""
    try:
        return _begun(sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0))
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        # SQLite would make files beside it, and looks for no change of one that is called immutable.
        return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)


def _begun(db: sqlite3.Connection) -> sqlite3.Connection:
    try:
        # A deleted key must leave no copy in a free page; a new one must survive power loss before it is used.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "busy_timeout=5000"):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(_SCHEMA)
    except BaseException:  # whatever it was goes on, but the file is not left open
        db.close()
        raise
    return db


def _wrap(outer: AESGCM, key: bytes, purpose: str) -> bytes:
    nonce = os.urandom(12)
    return nonce + outer.encrypt(nonce, key, purpose.encode())


def _unwrap(outer: AESGCM, wrapped: bytes, purpose: str) -> bytes:
    return outer.decrypt(wrapped[:12], wrapped[12:], purpose.encode())
