"""API keys of all homes: one that is made, revoked or rotated in any of them is so for every gateway.

Redis has what `state.db` has: digests, never a secret.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from gateway.ports import Key
from gateway.stores.redis_facts import Fact, Facts, written
from gateway.stores.redis_link import Redis
from gateway.stores.redis_news import News
from gateway.stores.sqlite import SqliteKeys


class SharedKeys(Facts):
    """The keys of this home, and how others are told of them."""

    kind = "key"

    def __init__(self, redis: Redis, news: News, keys: SqliteKeys) -> None:
        super().__init__(redis, news)
        self._keys = keys

    def here(self) -> Mapping[str, Fact]:
        return {key.id: _fact(key) for key in self._keys.all()}

    async def keep(self, fact_id: str, fact: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._keys.take_over, _key(fact_id, fact))


def _fact(key: Key) -> Fact:
    made = [key.digest, key.agent, key.tenant, key.user, sorted(key.scopes), key.created_at]
    fact = {"made": written(made)}
    if key.expires_at is not None:
        fact["expires"] = repr(key.expires_at)
    if key.revoked_at is not None:
        fact["revoked"] = repr(key.revoked_at)
    return fact


def _key(key_id: str, fact: Mapping[str, str]) -> Key:
    digest, agent, tenant, user, scopes, created_at = json.loads(fact["made"])
    expires, revoked = (float(fact[name]) if name in fact else None for name in ("expires", "revoked"))
    return Key(key_id, digest, agent, tenant, user, frozenset(scopes), float(created_at), expires, revoked)
