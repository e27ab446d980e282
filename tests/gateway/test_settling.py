"""A key in doubt is settled, and content erased, by a command beside the gateways that share a Redis: it asks none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest

from gateway.admission import Claimed
from gateway.audit.ledger import open_ledger
from gateway.home import Home
from gateway.settling import TOLD, claims_of, settle_claim
from gateway.sharing import erase_shared
from gateway.stages.kept import read
from gateway.tool import Json
from tests.gateway.stores.redis_life import ask, opened
from tests.gateway.stores.shared import side
from tests.redisserver import RedisServer

INTENT: dict[str, Json] = {
    "call_id": "c1",
    "tool": {"name": "pay"},
    "tenant": "default",
    "session_id": "s",
    "idempotency_key": {"claim": "k1", "fingerprint": "print", "ttl": 3600.0},
}


async def settled(server: RedisServer, folder: Path, ended: Literal["done", "not-done"]) -> Claimed | None:
    """What another gateway knows of the key by then."""
    ledger, one = open_ledger(folder), ask("c1", claim="k1")
    assert one.claim is not None
    async with side(server) as other, other.listening(), opened(server, box=other.box) as counters:
        await counters.take(one)
        await counters.doubt(one.claim, "c1")
        with claims_of(Home(folder), f"{server.url}?deadline=2", ledger) as claims:
            assert claims is not None
            await settle_claim(claims, INTENT, ended)
        found = await counters.find("k1")
    await ledger.close()
    return found


@pytest.mark.parametrize("ended", ["done", "not-done"])
def test_a_key_in_doubt_is_settled_in_redis(
    redis_server: RedisServer, tmp_path: Path, ended: Literal["done", "not-done"]
) -> None:
    """Done: every gateway tells repeats so. Not done: the key is free."""
    found = asyncio.run(settled(redis_server, tmp_path, ended))
    if ended == "not-done":
        assert found is None
        return
    assert found is not None
    told = read("c1", "k1", found.kept)
    assert (found.state, told.status, told.text) == ("done", "done", TOLD)


def test_what_was_erased_is_told_by_no_gateway(redis_server: RedisServer) -> None:
    """Of a session's content no repeat is told any more; that there was a call stays known, and other content too."""

    async def go() -> list[Claimed | None]:
        async with side(redis_server) as other, other.listening(), opened(redis_server, box=other.box) as counters:
            for key, session in (("k1", "mine"), ("k2", "other")):
                one = ask(f"c {key}", claim=key)
                assert one.claim is not None
                await counters.take(one)
                await counters.close(one.claim, one.call_id, b"kept", session, "default")
            await erase_shared(f"{redis_server.url}?deadline=2", {"mine"})
            return [await counters.find(key) for key in ("k1", "k2")]

    mine, others = asyncio.run(go())
    assert mine is not None
    assert others is not None
    assert [(each.state, each.kept) for each in (mine, others)] == [("done", None), ("done", b"kept")]
