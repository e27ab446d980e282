"""Outcomes at the gateway that did not make the call: for their owner only, sealed, and bounded."""

from __future__ import annotations

import asyncio

from gateway.model import Outcome, Position, Verdict
from gateway.stages import kept
from gateway.stages.record import remembered
from gateway.stores.redis_outcomes import RedisOutcomes
from tests.gateway.stores.shared import Side, side, until_so
from tests.redisserver import RedisServer

OWNER = "t\x1fa\x1f"
DONE = Verdict("allow", frozenset({"untrusted"}))


def outcome(call_id: str, text: str) -> Outcome:
    """One as the record stage gives it, through the form in which it is kept."""
    return remembered(
        kept.read(call_id, "", kept.write_done("echo", text, {"n": 1.5}, DONE)), call_id, None, repeat=False
    )


def outcomes(of: Side) -> RedisOutcomes:
    """The outcomes of one gateway."""

    def read(call_id: str, octets: bytes, position: Position | None) -> Outcome:
        return remembered(kept.read(call_id, "", octets), call_id, position, repeat=False)

    return RedisOutcomes(of.redis, of.box, kept.write, read)


def test_the_owner_finds_it_at_the_other_gateway(redis_server: RedisServer) -> None:
    """All of it, when it was written; nobody else does, and Redis does not have the text."""

    async def run() -> None:
        async with side(redis_server) as a, side(redis_server) as b:
            await a.news.start()
            await b.news.start()
            ours, theirs = outcomes(a), outcomes(b)
            writing = asyncio.create_task(ours.write_always())
            ours.keep(OWNER, outcome("c_1", "hello there"))
            ours.keep(OWNER, outcome("c_2", "x" * 70_000))
            ours.keep(OWNER, outcome("c_3", "last"))
            await until_so(lambda: theirs.find(OWNER, "c_3"))
            writing.cancel()
            assert await theirs.find(OWNER, "c_1") == outcome("c_1", "hello there")
            assert await theirs.find("t\x1fother\x1f", "c_1") is None
            assert await theirs.find(OWNER, "c_2") is None  # too large for that
            assert await ours.find(OWNER, "c_2") is not None
            sealed = await a.redis.do("GET", "tg:outcome:c_1")
            assert b"hello" not in sealed
            assert 0 < await a.redis.do("TTL", "tg:outcome:c_1") <= 900
            await a.redis.do("SET", "tg:outcome:c_4", sealed)  # a box that was moved does not open
            assert await theirs.find(OWNER, "c_4") is None

    asyncio.run(run())


def test_without_redis_its_own_gateway_knows_it(redis_server: RedisServer) -> None:
    """Keeping never waits and never fails."""

    async def run() -> None:
        async with side(redis_server) as a:
            await a.news.start()
            ours = outcomes(a)
            writing = asyncio.create_task(ours.write_always())
            redis_server.stop()
            ours.keep(OWNER, outcome("c_1", "hello"))
            assert await ours.find(OWNER, "c_1") is not None
            await asyncio.sleep(0.05)
            assert not writing.done()
            writing.cancel()

    asyncio.run(run())
