"""Calls that wait for a person, in the Redis that gateways share: asked for at one, answered and used at another.

What would be done, and the preview of it, is sealed. Nothing of it outlives an emptied Redis: what was not used by then
is asked for again. It writes no record.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from gateway.parked import Answer, Parked
from gateway.stores.approvals import KEPT, answered, too_many, waits
from gateway.stores.parked import content, parked_of, plain
from gateway.stores.redis_link import Redis, Word
from gateway.stores.redis_sessions import Box

_SCRIPT = Path(__file__).with_name("approvals.lua").read_text(encoding="ascii")
_FIELDS = ("said", "box", "tenant", "state", "answers", "used_by", "until")


class RedisApprovals:
    """The port `Approvals`. Everything raises `Refusal(overloaded)` while Redis is away."""

    def __init__(self, redis: Redis, box: Box) -> None:
        self._redis, self._box = redis, box
        self._erasing: set[asyncio.Task[None]] = set()

    async def bound(self, binding: str, now: float) -> Parked | None:
        ids = await self._redis.do("LRANGE", f"tg:bound:{binding}", 0, -1)
        fitting = (each for each in await self._found(ids) if each.state != "used" and now < each.expires_at)
        return next(fitting, None)

    async def get(self, tenant: str, approval_id: str) -> Parked | None:
        found = await self._found([approval_id.encode(errors="replace")])
        return next((each for each in found if each.tenant == tenant), None)

    async def all(self, tenant: str | None) -> Sequence[Parked]:
        found = await self._found(await self._redis.do("ZRANGE", "tg:approvals", 0, -1))
        return [each for each in found if tenant in (None, each.tenant)]

    async def ask(self, parked: Parked, most: int) -> Parked:
        sealed = self._box.close(content(parked), _place(parked.id))
        fields = ("said", json.dumps(plain(parked)), "box", sealed, "tenant", parked.tenant, "session", parked.session)
        seconds = math.ceil(parked.expires_at - parked.asked_at + KEPT)
        given = (parked.asked_at, parked.id, parked.binding, parked.owner, parked.expires_at, most, KEPT, seconds)
        for _ in range(2):  # the one that is in the way may be gone before it is looked at
            how, *rest = await self._redis.script(_SCRIPT, "ask", *given, *fields)
            if how == b"kept":
                return parked
            if how == b"full":
                raise too_many((float(rest[1]),) if len(rest) > 1 else (), parked.asked_at)
            there = await self._found(rest)
            if there:
                return there[0]
        raise too_many((), parked.asked_at)

    async def answer(self, tenant: str, approval_id: str, answer: Answer) -> Parked | None:
        seen: Parked | None = None
        while True:  # until nobody else has answered between the look and the change
            there = await self.get(tenant, approval_id)
            if there is None or there == seen or not waits(there, answer.at):
                return None  # as it was and not to be changed: it is over by the clock of Redis
            seen, now = there, answered(there, answer)
            if await self._change(there, answer.at, "pending", now.state, was=_answers(there), answers=_answers(now)):
                return now

    async def use(self, tenant: str, approval_id: str, call_id: str, now: float) -> bool:
        there = await self.get(tenant, approval_id)
        return there is not None and await self._change(there, now, "granted", "used", by=call_id)

    async def restore(self, tenant: str, approval_id: str, call_id: str) -> None:
        there = await self.get(tenant, approval_id)
        if there is not None:
            await self._change(there, "", "used", "granted", used=call_id)

    def erased(self, uids: Collection[str]) -> None:
        """Drops the arguments and previews that were content of these sessions: it was erased."""
        task = asyncio.get_running_loop().create_task(self.erase(frozenset(uids)))
        self._erasing.add(task)
        task.add_done_callback(self._erasing.discard)

    async def erase(self, uids: Collection[str]) -> None:
        """The same, at once. Raises `Refusal(overloaded)`."""
        for each in await self.all(None):
            if each.session in uids:
                await self._redis.do("HDEL", f"tg:approval:{each.id}", "box")

    async def _change(
        self,
        parked: Parked,
        now: float | str,
        from_: str,
        state: str,
        *,
        was: str = "",
        used: str = "",
        answers: str = "",
        by: str = "",
    ) -> bool:
        """Changes it from one state to another, unless anybody else did or it has expired."""
        given: tuple[Word, ...] = (parked.id, parked.tenant, parked.owner, now, from_, was, used, state, answers, by)
        return bool(await self._redis.script(_SCRIPT, "change", *given))

    async def _found(self, ids: Sequence[bytes]) -> Sequence[Parked]:
        asked = [("HMGET", f"tg:approval:{each.decode(errors='replace')}", *_FIELDS) for each in ids]
        return [self._parked(row) for row in await self._redis.many(asked) if row[0] is not None]

    def _parked(self, row: Sequence[bytes | None]) -> Parked:
        plainly, box, _, state, answers, used_by, _ = row
        said = json.loads(plainly or b"{}")
        words = None if box is None else self._box.open(box, _place(said["id"]))
        now = {"state": (state or b"").decode(), "answers": json.loads(answers or b"[]")}
        return parked_of({**said, **now, "used_by": (used_by or b"").decode() or None}, words)


def _answers(parked: Parked) -> str:
    return json.dumps(plain(parked)["answers"])


def _place(approval_id: str) -> bytes:
    return b"call that waits " + approval_id.encode()
