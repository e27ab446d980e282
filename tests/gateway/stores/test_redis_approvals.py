"""Calls that wait for a person at two gateways: asked for at one, answered at another, used once at any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.model import Refusal
from gateway.obligations import Approval
from gateway.parked import Answer, Parked
from gateway.stores.redis_approvals import RedisApprovals
from tests.gateway.stores.shared import side, until_so
from tests.redisserver import RedisServer


@asynccontextmanager
async def two(server: RedisServer) -> AsyncIterator[tuple[RedisApprovals, RedisApprovals]]:
    """What waits, as two gateways see it."""
    async with side(server) as a, side(server) as b:
        await a.news.start()
        await b.news.start()
        yield RedisApprovals(a.redis, a.box), RedisApprovals(b.redis, b.box)


def parked(number: int = 1) -> Parked:
    """One that waits for two people, for a minute."""
    now = time.time()
    needs = (Approval("amount", ("lead",), 60.0), Approval("four-eyes", ("ops",), 60.0))
    return Parked(
        id=f"ap_{number}",
        binding=f"b{number}",
        call_id=f"c_{number}",
        tool="pay",
        tool_digest="sha256:1",
        tenant="t",
        owner="t\x1fa\x1f",
        agent="a",
        user=None,
        token_id="k_1",
        session="u_1",
        needs=needs,
        asked_at=now,
        expires_at=now + 60.0,
        arguments={"to": "mallory"},
    )


def yes(rule: str) -> Answer:
    """A yes to one rule."""
    return Answer(True, (rule,), "eve", "k_2", time.time(), "rest")


def test_it_is_asked_here_answered_there_and_used_once(redis_server: RedisServer) -> None:
    """Answers that come at once at both gateways both count, and of many uses at both just one succeeds."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            for number in range(10):
                asked = replace(parked(number), asked_at=time.time())
                assert await ours.ask(asked, 20) == asked
                again = replace(asked, id=f"ap_other_{number}")
                assert (await theirs.ask(again, 20)).id == asked.id
                said = (ours.answer("t", asked.id, yes("amount")), theirs.answer("t", asked.id, yes("four-eyes")))
                await asyncio.gather(*said)
                granted = await theirs.bound(asked.binding, time.time())
                assert granted is not None
                assert (granted.state, len(granted.answers), granted.arguments) == ("granted", 2, asked.arguments)
                uses = [each.use("t", asked.id, f"c_{n}", time.time()) for n in range(10) for each in (ours, theirs)]
                assert sum(await asyncio.gather(*uses)) == 1
                assert await ours.bound(asked.binding, time.time()) is None
            assert [each.id for each in await ours.all("t")] == [f"ap_{number}" for number in range(10)]
            assert await ours.all("other") == []
            assert await ours.get("other", "ap_1") is None

    asyncio.run(run())


def test_a_gateway_whose_clock_is_behind_has_no_more_time(redis_server: RedisServer) -> None:
    """What is over by the clock of Redis is neither answered nor used, and what is asked then is another one."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            asked = [replace(parked(n), expires_at=time.time() + 0.3) for n in (1, 2)]
            behind = [replace(each, asked_at=each.asked_at - 900, expires_at=each.expires_at - 900) for each in asked]
            for each in behind:
                await ours.ask(each, 9)
            at = behind[0].asked_at
            for rule in ("amount", "four-eyes"):
                assert await ours.answer("t", "ap_1", replace(yes(rule), at=at)) is not None
            await asyncio.sleep(0.4)
            assert await ours.answer("t", "ap_2", replace(yes("amount"), at=at)) is None
            assert [await each.use("t", "ap_1", "c_1", at) for each in (ours, theirs)] == [False, False]
            again = replace(behind[1], id="ap_3")
            assert await ours.ask(again, 9) == again

    asyncio.run(run())


def test_so_many_of_one_owner_wait_at_all_gateways_together(redis_server: RedisServer) -> None:
    """One more is refused until one of them was answered."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            await asyncio.gather(*((ours, theirs)[n % 2].ask(parked(n), 4) for n in range(4)))
            with pytest.raises(Refusal) as refused:
                await theirs.ask(parked(9), 4)
            assert refused.value.problem.code == "rate_limited"
            await ours.answer("t", "ap_2", replace(yes("amount"), yes=False))
            assert (await theirs.ask(parked(9), 4)).id == "ap_9"

    asyncio.run(run())


def test_what_would_be_done_is_sealed_and_erased(redis_server: RedisServer) -> None:
    """Redis does not have the arguments; once the session's content is erased nobody has."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs), side(redis_server) as raw:
            await ours.ask(parked(), 4)
            assert not any(b"mallory" in word for word in await raw.redis.do("HVALS", "tg:approval:ap_1"))
            ours.erased(["u_1"])

            async def gone() -> bool:
                there = await theirs.get("t", "ap_1")
                return there is not None and there.arguments is None

            await until_so(gone)

    asyncio.run(run())
