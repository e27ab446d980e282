"""What every home knows for itself and all are to know: keys and revocations, told through Redis.

Each home keeps them in its own `state.db`, so it goes on when Redis is away and gives all back to one that was emptied;
Redis is where they meet. They only become more certain (revoked, lifted, expiring sooner), so they can be told in any
order, twice, and by anybody. It decides nothing.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.stores.redis_link import Redis, Word
from gateway.stores.redis_news import TELL, Kind, News

log = logging.getLogger("toolgate")
_SCRIPT = TELL + Path(__file__).with_name("facts.lua").read_text(encoding="ascii")
_AT_ONCE = 500
Fact = Mapping[str, Word]  # by field; `expires` is the least of what anybody says, all else what was said first


class Facts(ABC):
    """Facts of one kind: those of this home are told, those of others taken over."""

    kind: str

    def __init__(self, redis: Redis, news: News) -> None:
        self._redis, self._me = redis, news.me
        self._told: dict[str, Fact] = {}  # as Redis is known to have them
        news.about(self.kind, Kind(self._take_over, self._again))

    @abstractmethod
    def here(self) -> Mapping[str, Fact]:
        """What this home knows, by id."""

    @abstractmethod
    async def keep(self, fact_id: str, fact: Mapping[str, str]) -> None:
        """Has this home know what another one does, durably. Raises `ValueError` for what is none."""

    async def tell(self) -> None:
        """Tells what this home knows and Redis does not. Raises `Refusal(overloaded)`; what was not told is told next.

        Nothing waits for Redis when nothing is new.
        """
        for fact_id, fact in self.here().items():
            if self._told.get(fact_id) != fact:
                given = [word for name, said in fact.items() for word in (name, said, _how(name))]
                await self._redis.script(_SCRIPT, self._me, self.kind, fact_id, *given)
                self._told[fact_id] = fact

    async def _again(self, emptied: bool) -> None:
        if emptied:
            self._told.clear()
        ids = await self._redis.do("SMEMBERS", f"tg:{self.kind}")
        await self._take_over([fact_id.decode() for fact_id in ids])
        await self.tell()

    async def _take_over(self, ids: Sequence[str]) -> None:
        for begin in range(0, len(ids), _AT_ONCE):
            some = ids[begin : begin + _AT_ONCE]
            found = await self._redis.many([("HGETALL", f"tg:{self.kind}:{fact_id}") for fact_id in some])
            known = self.here()
            for fact_id, flat in zip(some, found, strict=True):
                fact = {flat[at].decode(): flat[at + 1].decode() for at in range(0, len(flat), 2)}
                if fact and {name: str(said) for name, said in known.get(fact_id, {}).items()} != fact:
                    await self._kept(fact_id, fact)

    async def _kept(self, fact_id: str, fact: Mapping[str, str]) -> None:
        try:
            await self.keep(fact_id, fact)
        except (ValueError, KeyError, TypeError):
            log.error("Redis says what is no %s: %r", self.kind, fact_id)


def written(value: Any) -> str:
    """A value as a field has it: always in the same words."""
    return json.dumps(value, sort_keys=True)


def _how(name: str) -> str:
    return "least" if name == "expires" else "once"
