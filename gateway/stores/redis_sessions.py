"""Sessions that several gateways share: read from memory, kept in Redis, where whoever changes one does it for all.

Opening, closing, labels and turns are in Redis before anybody is answered, and bump the version that taking a lease
compares; how many calls there were, and what they cost, is told by `flush`. What a person asked for is kept sealed. It
writes no record itself.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gateway.lifetimes import Change
from gateway.model import Refusal, Session
from gateway.problems import refuse
from gateway.stores.redis_link import Redis, Word
from gateway.stores.redis_news import TELL, Kind, News
from gateway.stores.sessions import MemorySessions
from gateway.tool import Json, Labels

log = logging.getLogger("toolgate")
_SCRIPT = TELL + Path(__file__).with_name("sessions.lua").read_text(encoding="ascii")
OWED = 30.0  # seconds in which a gateway puts on record that a session ended, before another one is asked to
_MARGIN = 5.0  # of them, so that no two ever do
_AT_ONCE = 500  # sessions read at once


class Box(Protocol):
    """What seals under the secret that all gateways share (`identity/shared.SharedSeal`)."""

    def close(self, text: str, place: bytes) -> bytes: ...
    def open(self, sealed: bytes, place: bytes) -> str | None: ...


class RedisSessions(MemorySessions):
    """The port `Sessions` for gateways that share a Redis. `news` keep the copy in memory as it is there."""

    def __init__(
        self,
        redis: Redis,
        news: News,
        box: Box,
        most: int = 10_000,
        *,
        owed: float = OWED,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`owed` is 0 for one that puts nothing on record itself."""
        super().__init__(most)
        self._redis, self._me, self._box = redis, news.me, box
        self._owed, self._monotonic = owed, monotonic
        self._until: dict[str, float] = {}  # by uid: until when it is for us to record its end
        self._spent: dict[str, tuple[int, float]] = {}  # calls and cost that are not in Redis yet
        self._forgotten: set[str] = set()  # whose words were erased here, and not there yet
        news.about("session", Kind(self._load, self._again))

    # ── as all gateways together have them ───────────────────────────────────────────────────────────────────────────

    async def fresh(self, session: Session) -> Session | None:
        there = self._of(session.uid)
        await self._load([session.uid])
        if there is not None and not await self._redis.do("EXISTS", f"tg:session:{there.uid}"):
            await self._restore([there])  # Redis was emptied
        return await super().fresh(session)

    async def seek(self, owner: str, session_id: str) -> Session | None:
        found = self.find(owner, session_id)
        if found is None:
            uid = await self._redis.do("HGET", f"tg:names:{owner}", session_id)
            if uid is not None:
                await self._load([uid.decode()])
        return self.find(owner, session_id)

    async def _again(self, emptied: bool) -> None:
        """Reads all sessions that have not expired; puts back what is known of them here where Redis lost them."""
        if emptied:
            await self._restore(self.all())
        uids = await self._redis.do("ZRANGE", "tg:ends", 0, -1)
        here = {each.uid for each in self.all()}
        await self._load(sorted(here.union(uid.decode() for uid in uids)))

    async def _load(self, uids: Sequence[str]) -> None:
        """Takes over how sessions are in Redis; of what is not there, nothing."""
        for begin in range(0, len(uids), _AT_ONCE):
            some = uids[begin : begin + _AT_ONCE]
            asked: list[Sequence[Word]] = [("HGETALL", f"tg:session:{uid}") for uid in some]
            asked += [("LRANGE", f"tg:words:{uid}", 0, -1) for uid in some]
            said = await self._redis.many(asked)
            for uid, fields, boxes in zip(some, said, said[len(some) :], strict=False):
                if fields:
                    self._take_over(_session(uid, _pairs(fields), self._opened(uid, boxes)))

    def _take_over(self, now: Session) -> None:
        there = self._of(now.uid)
        if there is not None and there.version > now.version:
            return  # what was asked for earlier came later
        calls, cost = self._spent.get(now.uid, (0, 0.0))
        request = there.request if there is not None and len(there.request) > len(now.request) else now.request
        if now.uid in self._forgotten:
            request = ()
        self.put(replace(now, calls=now.calls + calls, cost=now.cost + cost, request=request))
        if now.state == "closed" and (there is None or there.state == "open"):
            self.on_close()

    def _opened(self, uid: str, boxes: Sequence[bytes]) -> tuple[str, ...]:
        opened = (self._box.open(box, _place(uid)) for box in boxes)
        return tuple(words for words in opened if words is not None)

    async def _restore(self, sessions: Iterable[Session]) -> None:
        for each in sessions:
            fields = _fields(each, self._box)
            given = (each.version, each.state, each.uid, each.id, each.owner, each.expires_at, each.parent or "")
            await self._do(
                "restore", *given, " ".join(sorted(each.labels)), 11 + len(fields.of), *fields.of, *fields.said
            )

    # ── what changes them ────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, session: Session) -> Session:
        if self.find(session.owner, session.id) is None:
            await self._make_room(session.owner, session.opened_at)
        fields = _fields(session, self._box)
        given = (session.opened_at, session.uid, session.id, session.owner, session.expires_at, session.parent or "")
        (how, *rest), _ = await self._do(
            "open", *given, " ".join(sorted(session.labels)), 10 + len(fields.of), *fields.of, *fields.said
        )
        if how == b"above":
            raise refuse("session_closed", "The session above was closed, or expired, meanwhile.")
        uid = rest[0].decode()
        if how != b"fresh":
            await self._load([uid])
        there = self._of(uid)
        if there is None:
            raise refuse("overloaded", "What gateways share was emptied meanwhile.", retry_after_ms=500)
        if how == b"closed":
            raise refuse("session_closed", "This session is closed, has expired, or is not one of yours.")
        return there

    async def ask(self, session: Session, words: str) -> Session | None:
        _, touched = await self._do("ask", session.uid, self._box.close(words, _place(session.uid)))
        return self._of(session.uid) if touched else None

    async def close(
        self, owner: str, session_id: str, why: str = "closed", who: Mapping[str, Json] | None = None
    ) -> Session | None:
        there = await self.seek(owner, session_id)
        if there is None:
            return None
        due = time.time() + self._owed if self._owed else 0
        await self.flush()  # its end says what it used up
        owed, _ = await self._do("close", there.uid, json.dumps({"why": why, "who": who}), due)
        if self._owed:
            await self._owe(owed)
        return self._of(there.uid)

    async def spend(self, session: Session, labels: Labels, cost: float) -> None:
        there = self._of(session.uid)
        if there is None:
            return
        calls, spent = self._spent.get(session.uid, (0, 0.0))
        self._spent[session.uid] = (calls + 1, spent + cost)
        self._spend(session, frozenset(), cost)
        if not labels <= there.labels:
            await self._do("label", session.uid, " ".join(sorted(labels)))

    async def flush(self) -> None:
        """Tells what calls used up by now, and whose words were erased; what cannot be told is, the next time."""
        spent, self._spent = self._spent, {}
        given = [word for uid, (calls, cost) in spent.items() for word in (uid, calls, cost)]
        try:
            if given:
                await self._run("spent", *given)
        except Refusal:
            for uid, (calls, cost) in spent.items():
                more = self._spent.get(uid, (0, 0.0))
                self._spent[uid] = (calls + more[0], cost + more[1])
            return
        forgotten = sorted(self._forgotten)
        with suppress(Refusal):
            if forgotten:
                await self._run("forget", *forgotten)
                self._forgotten.difference_update(forgotten)

    def forget_requests(self, uids: Iterable[str]) -> None:
        gone = list(uids)
        super().forget_requests(gone)
        self._forgotten.update(gone)

    async def _do(self, verb: str, *given: Word) -> tuple[list[bytes], list[bytes]]:
        """Runs the script and takes over what it changed: its answer, and the uids of those."""
        answer, touched = await self._run(verb, *given)
        await self._load(sorted({uid.decode() for uid in touched}))
        return answer, touched

    async def _run(self, verb: str, *given: Word) -> tuple[list[bytes], list[bytes]]:
        answer, touched = await self._redis.script(_SCRIPT, self._me, verb, *given)
        return answer, touched

    async def _make_room(self, owner: str, now: float) -> None:
        await super()._make_room(owner, now)
        self._changes = [each for each in self._changes if each.session.uid in self._until]  # Redis tells who expired

    # ── what has to be put on record ─────────────────────────────────────────────────────────────────────────────────

    async def collect(self, now: float) -> None:
        """Asks for what has ended, by whomever, and is on nobody's record: it is ours to record for some time.

        Raises `Refusal(overloaded)`.
        """
        owed, _ = await self._run("owing", now, now + self._owed)
        await self._owe(owed)

    async def _owe(self, owed: Sequence[bytes]) -> None:
        """It is for us to put on record that these have ended, for some time."""
        due = self._monotonic() + self._owed - _MARGIN
        ended = await self._redis.many([("HGETALL", f"tg:session:{uid.decode()}") for uid in owed]) if owed else []
        for uid, flat in zip((uid.decode() for uid in owed), ended, strict=True):
            if not flat:
                await self._redis.do("ZREM", "tg:owed", uid)
                continue
            fields = _pairs(flat)
            how = json.loads(fields.get("ended", "{}"))
            self._until[uid] = due
            self._changes = [each for each in self._changes if each.session.uid != uid]
            self._changes.append(Change("closed", _session(uid, fields, ()), how.get("why", "closed"), how.get("who")))

    def changes(self, now: float) -> Sequence[Change]:
        found, self._changes = self._changes, []
        moment = self._monotonic()
        return [each for each in found if each.kind == "opened" or self._until.get(each.session.uid, 0.0) > moment]

    async def recorded(self, changes: Sequence[Change]) -> None:
        uids = [change.session.uid for change in changes if change.kind == "closed"]
        if uids:
            await self._redis.do("ZREM", "tg:owed", *uids)
            for uid in uids:
                self._until.pop(uid, None)


class _Fields:
    """A session as a hash says it, beside what the script needs to know by name; and what was said in it, sealed."""

    __slots__ = ("of", "said")

    def __init__(self, of: tuple[Word, ...], said: tuple[bytes, ...]) -> None:
        self.of, self.said = of, said


def _fields(session: Session, box: Box) -> _Fields:
    named: dict[str, Word] = {"opened": repr(session.opened_at), "budget": json.dumps(dict(session.budget))}
    named |= {"state": "open", "calls": session.calls, "cost": repr(session.cost), "v": session.version}
    said = tuple(box.close(words, _place(session.uid)) for words in session.request)
    return _Fields(tuple(word for pair in named.items() for word in pair), said)


def _session(uid: str, fields: Mapping[str, str], request: tuple[str, ...]) -> Session:
    return Session(
        id=fields["id"],
        uid=uid,
        owner=fields["owner"],
        opened_at=float(fields["opened"]),
        expires_at=float(fields["expires"]),
        labels=frozenset(fields["labels"].split()),
        state="closed" if fields["state"] == "closed" else "open",
        calls=int(fields["calls"]),
        cost=float(fields["cost"]),
        budget=json.loads(fields["budget"]),
        request=request,
        parent=fields["parent"] or None,
        version=int(fields["v"]),
    )


def _pairs(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return {name.decode(): value.decode() for name, value in flat.items()}
    return {flat[at].decode(): flat[at + 1].decode() for at in range(0, len(flat), 2)}


def _place(uid: str) -> bytes:
    return b"words of " + uid.encode()
