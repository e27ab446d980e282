"""Sessions in memory: by owner and name, in trees, with what they have seen. It writes no record itself.

What one session of a tree sees all of it has seen. Were labels only handed down when a session is opened below another,
what was read in one could be sent out by the other, and nobody would be asked.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from gateway.lifetimes import Change
from gateway.model import Session
from gateway.problems import refuse
from gateway.tool import Json, Labels

Place = tuple[str, str]  # owner and id


class MemorySessions:
    """Sessions by owner and id, at most `most` of one owner: callers name them, and each is kept until it expires."""

    def __init__(self, most: int = 10_000) -> None:
        self._sessions: dict[Place, Session] = {}
        self._places: dict[str, Place] = {}  # by uid
        self._below: dict[str, set[str]] = {}  # uids of the sessions just below one
        self._changes: list[Change] = []
        self._expiring: list[tuple[float, str]] = []  # a heap, by uid
        self._done: set[str] = set()  # uids of those whose end somebody was told, or need not be
        self._most = most
        self.on_close: Callable[[], None] = lambda: None  # told at once when one was closed

    # ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, owner: str, session_id: str) -> Session | None:
        return self._sessions.get((owner, session_id))

    async def seek(self, owner: str, session_id: str) -> Session | None:
        return self.find(owner, session_id)

    def all(self) -> Sequence[Session]:
        return list(self._sessions.values())

    def line(self, uid: str) -> Sequence[Session]:
        found = []
        there = self._of(uid)
        while there is not None:
            found.append(there)
            there = self._of(there.parent) if there.parent else None
        return found

    async def fresh(self, session: Session) -> Session | None:
        there = self._of(session.uid)
        return there if there is not None and there.owner == session.owner else None

    def is_open(self, session: Session) -> bool:
        there = self._of(session.uid)
        return there is not None and there.state == "open"

    # ── opening and ending ───────────────────────────────────────────────────────────────────────────────────────────

    def put(self, session: Session) -> None:
        """Keeps a session as it is, whatever was there."""
        place = (session.owner, session.id)
        there = self._sessions.get(place)
        if there is not None and there.uid != session.uid:
            self._drop(there)
        self._sessions[place] = session
        if session.uid not in self._places:
            self._places[session.uid] = place
            heapq.heappush(self._expiring, (session.expires_at, session.uid))
            if session.parent:
                self._below.setdefault(session.parent, set()).add(session.uid)

    async def open(self, session: Session) -> Session:
        place = (session.owner, session.id)
        if place not in self._sessions:
            await self._make_room(session.owner, session.opened_at)
        there = self._sessions.get(place)
        if there is not None and there.state == "open" and session.opened_at < there.expires_at:
            return there
        if session.parent and not self._open_at(session.parent, session.opened_at):
            raise refuse("session_closed", "The session above was closed, or expired, meanwhile.")
        if there is not None and there.state == "open":
            self._changes += self._end(there, "expired", None)
        self.put(session)
        if session.parent:
            self._spread(session.uid, self.line(session.uid)[-1].labels | session.labels)
        return self._sessions[place]

    async def ask(self, session: Session, words: str) -> Session | None:
        there = self._of(session.uid)
        if there is None or there.state == "closed":
            return None
        asked = replace(there, request=(*there.request, words), version=there.version + 1)
        self.put(asked)
        return asked

    def forget_requests(self, uids: Iterable[str]) -> None:
        """Drops what persons asked for in these sessions: it was erased."""
        for uid in uids:
            there = self._of(uid)
            if there is not None and there.request:
                self.put(replace(there, request=()))

    async def close(
        self, owner: str, session_id: str, why: str = "closed", who: Mapping[str, Json] | None = None
    ) -> Session | None:
        there = self.find(owner, session_id)
        if there is None:
            return None
        self._changes += self._end(there, why, who)
        return self._of(there.uid)

    def _end(self, session: Session, why: str, who: Mapping[str, Json] | None) -> list[Change]:
        """Closes a session and all below it at once; the changes are what has to be put on record."""
        waiting, found = [(session, why, who)], []
        while waiting:
            there, said, by = waiting.pop()
            below = [self._of(uid) for uid in sorted(self._below.get(there.uid, ()))]
            waiting += [(each, "parent", None) for each in below if each is not None]
            if there.state == "open":
                closed = replace(there, state="closed", version=there.version + 1)
                self.put(closed)
                if there.uid not in self._done:
                    self._done.add(there.uid)
                    found.append(Change("closed", closed, said, by))
        self.on_close()
        return found

    def _drop(self, session: Session) -> None:
        """Forgets a session for good."""
        del self._sessions[session.owner, session.id]
        self._places.pop(session.uid, None)
        self._below.pop(session.uid, None)
        self._done.discard(session.uid)
        if session.parent in self._below:
            self._below[session.parent].discard(session.uid)

    async def _make_room(self, owner: str, now: float) -> None:
        """Forgets what has expired when there is no room for one more. Raises `Refusal(rate_limited)`."""
        if len(self._sessions) < self._most:
            return
        owned = [session for place, session in self._sessions.items() if place[0] == owner]
        if len(owned) < self._most:
            return
        expired = [session for session in owned if session.expires_at <= now]
        if not expired:
            wait_ms = math.ceil(1000 * (min(session.expires_at for session in owned) - now))
            raise refuse("rate_limited", "There are too many sessions of this caller: use one.", retry_after_ms=wait_ms)
        for session in expired:
            self._changes += self._end(session, "expired", None)
            self._drop(session)

    # ── what calls do to them ────────────────────────────────────────────────────────────────────────────────────────

    async def spend(self, session: Session, labels: Labels, cost: float) -> None:
        self._spend(session, labels, cost)

    def _spend(self, session: Session, labels: Labels, cost: float) -> Sequence[str]:
        """The uids of those whose labels have grown."""
        place = (session.owner, session.id)
        there = self._sessions.get(place)
        if there is None or there.uid != session.uid:
            return ()
        # Written out: `dataclasses.replace` costs three times as much, and this is every call.
        self._sessions[place] = Session(
            there.id,
            there.uid,
            there.owner,
            there.opened_at,
            there.expires_at,
            there.labels,
            there.state,
            there.calls + 1,
            there.cost + cost,
            there.budget,
            there.request,
            there.parent,
            there.version,
        )
        return () if labels <= there.labels else self._spread(there.uid, labels)

    def _spread(self, uid: str, labels: Labels) -> Sequence[str]:
        """Labels to every session of a tree: the uids of those that had not all of them."""
        waiting, found = [self.line(uid)[-1].uid], []
        while waiting:
            there = self._of(waiting.pop())
            if there is not None:
                waiting += self._below.get(there.uid, ())
                if not labels <= there.labels:
                    self.put(replace(there, labels=there.labels | labels, version=there.version + 1))
                    found.append(there.uid)
        return found

    # ── what has to be put on record ─────────────────────────────────────────────────────────────────────────────────

    def changes(self, now: float) -> Sequence[Change]:
        while self._expiring and self._expiring[0][0] <= now:
            there = self._of(heapq.heappop(self._expiring)[1])
            if there is not None and there.state == "open" and there.uid not in self._done:
                self._done.add(there.uid)
                self._changes.append(Change("closed", there, "expired"))
        found, self._changes = self._changes, []
        return found

    def put_back(self, changes: Sequence[Change]) -> None:
        self._changes = [*changes, *self._changes]

    async def recorded(self, changes: Sequence[Change]) -> None:
        """Nothing outlives the process."""

    def _of(self, uid: str) -> Session | None:
        place = self._places.get(uid)
        return None if place is None else self._sessions.get(place)

    def _open_at(self, uid: str, now: float) -> bool:
        there = self._of(uid)
        return there is not None and there.state == "open" and now < there.expires_at
