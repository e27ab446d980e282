"""Revocations of all homes: what is refused, or let in again, by any of them is so for every gateway.

Each stands on record in the home where somebody made or lifted it, and in no other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from gateway.identity.revocations import Revocation, Revocations
from gateway.stores.redis_facts import Fact, Facts, written
from gateway.stores.redis_link import Redis
from gateway.stores.redis_news import News


class SharedRevocations(Facts):
    """The revocations of this home, and how others are told of them."""

    kind = "revocation"

    def __init__(self, redis: Redis, news: News, revocations: Revocations) -> None:
        super().__init__(redis, news)
        self._revocations = revocations

    def here(self) -> Mapping[str, Fact]:
        return {each.id: _fact(each) for each in self._revocations.all()}

    async def keep(self, fact_id: str, fact: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._revocations.take_over, _revocation(fact_id, fact))


def _fact(made: Revocation) -> Fact:
    fact = {"made": written([dict(made.whose), made.at, made.why, dict(made.who), made.earlier_only])}
    if made.lifted_at is not None:
        fact["lifted"] = written([made.lifted_at, dict(made.lifted_by or {})])
    return fact


def _revocation(revocation_id: str, fact: Mapping[str, str]) -> Revocation:
    whose, at, why, who, earlier_only = json.loads(fact["made"])
    lifted_at, lifted_by = json.loads(fact["lifted"]) if "lifted" in fact else (None, None)
    recorded = 1 if lifted_at is None else 2  # by whoever told it
    return Revocation(revocation_id, whose, at, why, who, bool(earlier_only), lifted_at, lifted_by, recorded)
