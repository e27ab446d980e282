"""Sessions that survive a restart: read from memory, written through to `state.db`.

Opening, closing and labels are durable before anybody is answered; how many calls there were, and what they cost, is
written by `flush`. What a person asked for is kept sealed under the key of the session's content, so that erasing that
erases this. It writes no record itself.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from gateway.lifetimes import Change
from gateway.model import Refusal, Session
from gateway.problems import refuse
from gateway.stores.sessions import MemorySessions
from gateway.stores.sqlite import State
from gateway.tool import Json, Labels

_COLUMNS = "owner, id, uid, opened_at, expires_at, labels, state, calls, cost, budget, parent, ended"
_SAVE = f"""
INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, id) DO UPDATE SET
  state = CASE WHEN sessions.uid = excluded.uid AND sessions.state = 'closed' THEN 'closed' ELSE excluded.state END,
  ended = CASE WHEN sessions.uid = excluded.uid THEN COALESCE(sessions.ended, excluded.ended) ELSE excluded.ended END,
  recorded = CASE WHEN sessions.uid = excluded.uid THEN sessions.recorded ELSE 0 END,
  uid = excluded.uid, opened_at = excluded.opened_at, expires_at = excluded.expires_at, labels = excluded.labels,
  calls = excluded.calls, cost = excluded.cost, budget = excluded.budget, parent = excluded.parent
"""  # what another process closed stays closed
_CLOSE = "UPDATE sessions SET state = 'closed', ended = COALESCE(ended, ?) WHERE uid = ?"
_RETRY_MS = 500


class Seal(Protocol):
    """What seals under the key of a session's content (`audit/content.Contents`)."""

    async def seal_words(self, session: str, tenant: str, words: str) -> bytes: ...
    def open_words(self, session: str, box: bytes) -> str | None: ...


class SqliteSessions(MemorySessions):
    """Sessions of a home folder. Without a `seal`, as on the command line, what persons asked for is not read."""

    def __init__(self, state: State, most: int = 10_000, seal: Seal | None = None) -> None:
        super().__init__(most)
        self._state, self._seal = state, seal
        self._unsaved: set[str] = set()  # uids of those whose calls or cost are newer here than on disk
        for *row, recorded in state.read(f"SELECT {_COLUMNS}, recorded FROM sessions"):
            self._load(row, bool(recorded))
        if seal is not None:
            self._load_requests(seal)

    def _load(self, row: Sequence[object], recorded: bool) -> None:
        session = _session(row)
        self.put(session)
        if recorded or session.state == "closed":
            self._done.add(session.uid)
        if session.state == "closed" and not recorded:
            self._changes.append(_ended(session, row[11]))

    def _load_requests(self, seal: Seal) -> None:
        self._state.write("DELETE FROM requests WHERE uid NOT IN (SELECT uid FROM sessions)", ())
        for uid, box in self._state.read("SELECT uid, box FROM requests ORDER BY rowid"):
            there, words = self._of(str(uid)), seal.open_words(str(uid), box if isinstance(box, bytes) else b"")
            if there is not None and words is not None:
                self.put(replace(there, request=(*there.request, words)))

    def refresh(self) -> None:
        """Takes over what another process closed."""
        sql = "SELECT uid, ended FROM sessions WHERE state = 'closed' AND recorded = 0"
        for uid, said in self._state.read(sql):
            there = self._of(str(uid))
            if there is not None and there.state == "open":
                how = _ended(there, said)
                closed = self._end(there, how.why, how.who)
                self._unsaved.update(each.session.uid for each in closed)
                self._changes += closed

    async def flush(self) -> None:
        """Writes how many calls there were by now and what they used up; what cannot be written is, the next time."""
        unsaved, self._unsaved = self._unsaved, set()
        try:
            await self._save(unsaved)
        except Refusal:
            self._unsaved |= unsaved

    async def open(self, session: Session) -> Session:
        kept = await super().open(session)
        if kept.uid != session.uid:
            return kept
        try:
            await self._save([each.uid for each in self.line(kept.uid)])
            for words in session.request:
                await self._keep_words(kept, words)
        except Refusal:
            self._changes.append(Change("opened", kept))  # it is open, and on record as soon as that can be
            raise
        return kept

    async def ask(self, session: Session, words: str) -> Session | None:
        if not self.is_open(session):
            return None
        await self._keep_words(session, words)
        return await super().ask(session, words)

    async def close(
        self, owner: str, session_id: str, why: str = "closed", who: Mapping[str, Json] | None = None
    ) -> Session | None:
        there = self.find(owner, session_id)
        if there is None:
            return None
        ended = self._end(there, why, who)
        rows: list[tuple[str | None, str]] = [
            (json.dumps({"why": each.why, "who": each.who}), each.session.uid) for each in ended
        ]
        try:
            await self._durably(self._state.write_all, _CLOSE, lambda: rows or [(None, there.uid)])
        finally:
            self._changes += ended
        return self._of(there.uid)

    async def _make_room(self, owner: str, now: float) -> None:
        before = len(self._sessions)
        await super()._make_room(owner, now)
        if len(self._sessions) < before:
            sql = "DELETE FROM sessions WHERE owner = ? AND expires_at <= ?"
            await self._durably(self._state.write, sql, (owner, now))

    async def spend(self, session: Session, labels: Labels, cost: float) -> None:
        relabelled = self._spend(session, labels, cost)
        self._unsaved.add(session.uid)
        if relabelled:
            await self._save(relabelled)

    async def recorded(self, changes: Sequence[Change]) -> None:
        uids = [(change.session.uid,) for change in changes if change.kind == "closed"]
        if uids:
            await self._durably(self._state.write_all, "UPDATE sessions SET recorded = 1 WHERE uid = ?", lambda: uids)

    async def _keep_words(self, session: Session, words: str) -> None:
        if self._seal is None:
            raise ValueError("what persons asked for is kept sealed, or not at all")
        try:
            box = await self._seal.seal_words(session.uid, session.owner.split("\x1f")[0], words)
        except (sqlite3.Error, OSError):
            raise _not_kept() from None
        await self._durably(self._state.write, "INSERT INTO requests VALUES (?, ?)", (session.uid, box))

    async def _save(self, uids: Collection[str]) -> None:
        """Writes what is true of these sessions by then."""
        if uids:
            await self._durably(self._state.write_all, _SAVE, lambda: [self._row(s) for s in map(self._of, uids) if s])

    def _row(self, now: Session) -> tuple[object, ...]:
        times, labels = (now.opened_at, now.expires_at), " ".join(sorted(now.labels))
        spent = (now.calls, now.cost, json.dumps(dict(now.budget)), now.parent)
        return (now.owner, now.id, now.uid, *times, labels, now.state, *spent, None)

    async def _durably(self, write: Callable[..., object], *given: object) -> None:
        try:
            await asyncio.to_thread(write, *given)
        except sqlite3.Error:
            raise _not_kept() from None


def _not_kept() -> Refusal:
    return refuse("audit_unavailable", "The session cannot be kept.", retry_after_ms=_RETRY_MS)


def _ended(session: Session, said: object) -> Change:
    """How a session ended, as the process that closed it wrote it down."""
    how = json.loads(str(said)) if said is not None else {}
    return Change("closed", session, how.get("why", "closed"), how.get("who"))


def _session(row: Sequence[object]) -> Session:
    owner, session_id, uid, opened, expires, labels, state, calls, cost, budget, parent, *_ = row
    return Session(
        id=str(session_id),
        uid=str(uid),
        owner=str(owner),
        opened_at=float(str(opened)),
        expires_at=float(str(expires)),
        labels=frozenset(str(labels).split()),
        state="closed" if state == "closed" else "open",
        calls=int(str(calls)),
        cost=float(str(cost)),
        budget=json.loads(str(budget)),
        parent=None if parent is None else str(parent),
    )
