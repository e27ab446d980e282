"""Sessions that two gateways share: what one does holds for the other, and outlives an emptied Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.model import Refusal, Session
from gateway.stores.redis import address_of
from gateway.stores.redis_link import Redis, Word
from gateway.stores.redis_sessions import RedisSessions
from tests.gateway.stores.shared import side, until, until_so
from tests.redisserver import RedisServer

OWNER = "t\x1fa\x1f"


@asynccontextmanager
async def two(server: RedisServer) -> AsyncIterator[tuple[RedisSessions, RedisSessions]]:
    """The sessions of two gateways that hear of each other."""
    async with side(server) as a, side(server) as b:
        ours, theirs = (RedisSessions(each.redis, each.news, each.box, most=3) for each in (a, b))
        async with a.listening(), b.listening():
            yield ours, theirs


def session(name: str = "s_1", uid: str = "u_1", lives: float = 60.0) -> Session:
    """An open session, from now on."""
    now = time.time()
    return Session(name, uid, OWNER, now, now + lives)


async def recorded(sessions: RedisSessions) -> list[tuple[str, str]]:
    """What ended and is for this gateway to record; it is then on record."""
    await sessions.collect(time.time())
    found = sessions.changes(time.time())
    await sessions.recorded(found)
    return [(each.session.uid, each.why) for each in found]


def test_one_of_two_opens_a_name(redis_server: RedisServer) -> None:
    """Two gateways that open one name at once have one session, and each finds it."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            for number in range(20):
                name = f"n{number % 3}"
                asked = (ours.open(session(name, f"u_{number}")), theirs.open(session(name, f"v_{number}")))
                one, other = await asyncio.gather(*asked)
                assert one.uid == other.uid
                assert ours.is_open(one)
                assert theirs.is_open(one)

    asyncio.run(run())


class Emptied(Redis):
    """A connection whose Redis is emptied after each script."""

    async def script(self, text: str, *given: Word) -> Any:
        answer = await super().script(text, *given)
        await self.do("FLUSHALL")
        return answer


def test_a_session_that_is_lost_as_it_is_opened_is_not_closed(redis_server: RedisServer) -> None:
    """Redis was emptied before it could be read: the caller may ask again."""

    async def run() -> None:
        async with side(redis_server) as a, Emptied(address_of(redis_server.url + "?deadline=2")) as emptied:
            await a.news.start()
            sessions = RedisSessions(emptied, a.news, a.box)
            with pytest.raises(Refusal) as refused:
                await sessions.open(session())
            assert refused.value.problem.code == "overloaded"

    asyncio.run(run())


def test_a_session_is_found_by_who_was_not_told_yet(redis_server: RedisServer) -> None:
    """`seek` asks Redis for what is not known here; another owner's is not found."""

    async def run() -> None:
        async with side(redis_server) as a, side(redis_server) as b:
            await a.news.start()
            await b.news.start()
            ours, theirs = (RedisSessions(each.redis, each.news, each.box) for each in (a, b))
            await ours.open(session())
            assert theirs.find(OWNER, "s_1") is None
            assert await theirs.seek("t\x1fother\x1f", "s_1") is None
            found = await theirs.seek(OWNER, "s_1")
            assert found is not None
            assert found.uid == "u_1"

    asyncio.run(run())


def test_labels_are_in_the_whole_tree_with_a_new_version(redis_server: RedisServer) -> None:
    """What is read in one session is in those above and below it, at the other gateway as soon as it asks."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            await ours.open(session())
            await ours.open(replace(session("s_2", "u_2"), parent="u_1", labels=frozenset({"first"})))
            before = await theirs.fresh(session("s_2", "u_2"))
            assert before is not None
            await ours.spend(session("s_2", "u_2"), frozenset({"untrusted"}), 0.5)
            for uid in ("u_1", "u_2"):
                found = await theirs.fresh(session(uid=uid))
                assert found is not None
                assert found.labels == {"first", "untrusted"}
            after = await theirs.fresh(session("s_2", "u_2"))
            assert after is not None
            assert after.version > before.version
            assert int(await _version(redis_server, "u_2")) == after.version

    asyncio.run(run())


async def _version(server: RedisServer, uid: str) -> str:
    async with side(server) as other:
        return str((await other.redis.do("HGET", f"tg:session:{uid}", "v")).decode())


def test_closed_here_is_closed_there(redis_server: RedisServer) -> None:
    """The tree is closed at both as soon as that is told; leases are looked at; its end is recorded by one of them."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            told: list[str] = []
            theirs.on_close = lambda: told.append("closed")
            top = await ours.open(session())
            below = await ours.open(replace(session("s_2", "u_2"), parent="u_1"))
            await until(lambda: theirs.is_open(below))
            await ours.close(OWNER, top.id, "revoked", {"authn": "local"})
            assert not ours.is_open(below)
            await until(lambda: not theirs.is_open(top) and not theirs.is_open(below))
            assert told
            assert await recorded(theirs) == []
            assert sorted(await recorded(ours)) == [("u_1", "revoked"), ("u_2", "parent")]
            assert await recorded(ours) == []
            with pytest.raises(Refusal) as refused:  # nor opened anew under that name
                await theirs.open(session("s_1", "u_9"))
            assert refused.value.problem.code == "session_closed"

    asyncio.run(run())


def test_one_gateway_records_that_a_session_expired(redis_server: RedisServer) -> None:
    """Whoever asks first is given it. If it never says that it did, another one is asked."""

    async def run() -> None:
        async with side(redis_server) as a, side(redis_server) as b:
            ours = RedisSessions(a.redis, a.news, a.box, owed=0.0)
            theirs = RedisSessions(b.redis, b.news, b.box)
            await a.news.start()
            await b.news.start()
            await ours.open(session(lives=0.01))
            await asyncio.sleep(0.02)
            await ours.collect(time.time())  # and ends without a word
            assert await recorded(theirs) == [("u_1", "expired")]
            assert await recorded(ours) == []

    asyncio.run(run())


def test_what_a_person_asked_for_is_shared_sealed_and_forgotten(redis_server: RedisServer) -> None:
    """Both gateways read the turns, Redis holds none of the words, and erasing them here erases them there."""

    async def run() -> None:
        async with side(redis_server) as a, side(redis_server) as b:
            ours, theirs = (RedisSessions(each.redis, each.news, each.box) for each in (a, b))
            async with a.listening(), b.listening():
                one = await ours.open(replace(session(), request=("find the \ud800 report",)))
                await theirs.seek(OWNER, one.id)
                asked = await theirs.ask(one, "and send it")
                assert asked is not None
                await until(lambda: len(ours.line("u_1")[0].request) == 2)
                assert ours.line("u_1")[0].request == ("find the \ud800 report", "and send it")
                kept = await a.redis.do("LRANGE", "tg:words:u_1", 0, -1)
                assert len(kept) == 2
                assert not any(b"report" in box or b"send" in box for box in kept)
                ours.forget_requests(["u_1"])
                await ours.flush()
                assert ours.line("u_1")[0].request == ()
                assert await b.redis.do("EXISTS", "tg:words:u_1") == 0

    asyncio.run(run())


def test_calls_and_cost_of_both_add_up(redis_server: RedisServer) -> None:
    """What each gateway counted is the session's, once it was flushed; the version does not change."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            one = await ours.open(session())
            await theirs.seek(OWNER, one.id)
            for _ in range(3):
                await ours.spend(one, frozenset(), 0.5)
                await theirs.spend(one, frozenset(), 0.25)
            await ours.flush()
            await theirs.flush()
            for each in (ours, theirs):
                now = await each.fresh(one)
                assert now is not None
                assert (now.calls, now.cost, now.version) == (6, 2.25, one.version)

    asyncio.run(run())


def test_an_emptied_redis_is_given_back_what_is_known(redis_server: RedisServer) -> None:
    """After a flush the sessions stand again, with labels and state, as soon as anybody looks or is told."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            one = await ours.open(session())
            gone = await ours.open(session("s_2", "u_2"))
            await ours.spend(one, frozenset({"untrusted"}), 0.0)
            await ours.close(OWNER, gone.id)
            await until(lambda: not theirs.is_open(gone) and theirs.line("u_1")[0].labels == {"untrusted"})
            redis_server.flush()
            again = await theirs.fresh(theirs.line("u_1")[0])
            assert again is not None
            assert again.labels == {"untrusted"}
            assert again.version >= 2
            await _there(redis_server, "u_2")
            with pytest.raises(Refusal):
                await theirs.open(session("s_2", "u_3"))

    asyncio.run(run())


async def _there(server: RedisServer, uid: str) -> None:
    async with side(server) as other:
        await until_so(lambda: other.redis.do("EXISTS", f"tg:session:{uid}"))


def test_without_redis_known_sessions_go_on_and_none_is_opened(redis_server: RedisServer) -> None:
    """A call that adds no label is counted; opening and labels are refused as `overloaded`; then all is well."""

    async def run() -> None:
        async with two(redis_server) as (ours, theirs):
            one = await ours.open(session())
            redis_server.stop()
            assert ours.find(OWNER, one.id) is not None
            await ours.spend(one, frozenset(), 0.5)
            for refused in (ours.open(session("s_2", "u_2")), ours.spend(one, frozenset({"pii"}), 0.0)):
                with pytest.raises(Refusal) as said:
                    await refused
                assert said.value.problem.code == "overloaded"
            redis_server.start()
            await until(lambda: theirs.find(OWNER, one.id) is not None)
            await _opened(ours)

    asyncio.run(run())


async def _opened(sessions: RedisSessions) -> None:
    while True:
        try:
            await sessions.open(session("s_9", "u_9"))
        except Refusal:
            await asyncio.sleep(0.02)
        else:
            return


def test_news_that_were_dropped_unread_are_noticed(redis_server: RedisServer) -> None:
    """By their number: the stream says nothing any more, and what it said is known all the same."""

    async def go() -> None:
        async with side(redis_server) as one, side(redis_server) as other:
            a, b = (RedisSessions(each.redis, each.news, each.box) for each in (one, other))
            await one.news.start()
            await other.news.start()
            there = await a.open(session())
            await one.redis.do("XTRIM", "tg:news", "MAXLEN", "=", "0")
            task = asyncio.create_task(other.news.follow())
            try:
                await until(lambda: b.find(there.owner, there.id) is not None)
            finally:
                task.cancel()

    asyncio.run(go())
