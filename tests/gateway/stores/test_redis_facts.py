"""Keys and revocations of two homes that share a Redis: what one knows the other does, and neither forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.identity.keys import new_key
from gateway.identity.revocations import Revocations, Shown, new_revocation
from gateway.model import Principal, Refusal
from gateway.stores.memory import MemoryLedger
from gateway.stores.redis_keys import SharedKeys
from gateway.stores.redis_revocations import SharedRevocations
from gateway.stores.sqlite import SqliteKeys, State
from tests.gateway.stores.shared import side, until
from tests.redisserver import RedisServer

WHO = {"authn": "local", "uid": 0}


@dataclass
class Known:
    """What one home knows, and how it is told."""

    keys: SqliteKeys
    revocations: Revocations
    shared: tuple[SharedKeys, SharedRevocations]

    async def tell(self) -> None:
        for each in self.shared:
            await each.tell()


@pytest.fixture
def states(tmp_path: Path) -> Iterator[tuple[State, State]]:
    """The files of two homes."""
    with closing(State(tmp_path / "a.db")) as a, closing(State(tmp_path / "b.db")) as b:
        yield a, b


@asynccontextmanager
async def home(server: RedisServer, state: State) -> AsyncIterator[Known]:
    """A home whose gateway listens."""
    async with side(server) as own:
        keys, revocations = SqliteKeys(state), Revocations(state)
        shared = (SharedKeys(own.redis, own.news, keys), SharedRevocations(own.redis, own.news, revocations))
        async with own.listening():
            yield Known(keys, revocations, shared)


def test_a_key_of_one_home_is_a_key_of_the_other(redis_server: RedisServer, states: tuple[State, State]) -> None:
    """Made here it is found there, by its digest; revoked there it is revoked here; Redis never has the secret."""

    async def run() -> None:
        async with home(redis_server, states[0]) as a, home(redis_server, states[1]) as b, side(redis_server) as raw:
            secret, key = new_key("dev", "default", "agent", 100.125, user="mia")
            await a.keys.add(key)
            await a.tell()
            await until(lambda: b.keys.find(key.digest) is not None)
            assert b.keys.find(key.digest) == key
            assert secret.encode() not in b"".join(await raw.redis.do("HVALS", f"tg:key:{key.id}"))
            await b.keys.expire(key.id, 900.5)
            await b.tell()
            await until(lambda: a.keys.all()[0].expires_at == 900.5)
            await a.keys.expire(key.id, 800.5)
            await a.keys.revoke(key.id, 200.5)
            await a.tell()
            await until(lambda: b.keys.all()[0].revoked_at == 200.5)
            assert b.keys.all()[0].expires_at == 800.5
            assert [each.id for each in SqliteKeys(states[1]).all()] == [key.id]

    asyncio.run(run())


def test_what_is_revoked_and_lifted_is_so_everywhere_and_once_on_record(
    redis_server: RedisServer, states: tuple[State, State]
) -> None:
    """Each record is written by the home where it was done."""

    async def run() -> None:
        async with home(redis_server, states[0]) as a, home(redis_server, states[1]) as b:
            ours, theirs, shown = MemoryLedger(), MemoryLedger(), Shown(Principal("dev", "default"))
            made = new_revocation({"agent": "dev"}, "leaked", WHO, 100.0, False)
            a.revocations.add(made)
            await a.revocations.record(ours)
            await a.tell()
            await until(lambda: len(b.revocations.all()) == 1)
            with pytest.raises(Refusal):
                b.revocations.current.check(shown)
            b.revocations.lift(made.id, WHO, 200.0)
            await b.tell()
            await until(lambda: a.revocations.all()[0].lifted_at is not None)
            a.revocations.current.check(shown)
            for known, ledger in ((a, ours), (b, theirs)):
                await known.revocations.record(ledger)
            assert [line.type for line in ours.lines] == ["admin.revoked"]
            assert [line.type for line in theirs.lines] == ["admin.lifted"]

    asyncio.run(run())


def test_homes_give_an_emptied_redis_back_what_they_know(
    redis_server: RedisServer, states: tuple[State, State]
) -> None:
    """A revocation made while Redis was away, and all that was known before, reach a gateway that never saw them."""

    async def run() -> None:
        async with home(redis_server, states[0]) as a:
            _, key = new_key("dev", "default", "agent", 100.0)
            await a.keys.add(key)
            await a.tell()
            redis_server.stop()
            a.revocations.add(new_revocation({"agent": "dev"}, "leaked", WHO, 100.0, False))
            with pytest.raises(Refusal):
                await a.tell()
            redis_server.start()
            async with home(redis_server, states[1]) as b:
                await until(lambda: bool(b.keys.all()) and bool(b.revocations.all()))
                assert b.keys.find(key.digest) == key

    asyncio.run(run())


def test_what_is_no_key_is_left_alone(redis_server: RedisServer, states: tuple[State, State]) -> None:
    """A field that somebody else wrote into Redis keeps no gateway from the other keys."""

    async def run() -> None:
        async with side(redis_server) as raw, home(redis_server, states[0]) as a:
            _, key = new_key("dev", "default", "agent", 100.0)
            await a.keys.add(key)
            await a.tell()
            await raw.redis.do("HSET", "tg:key:k_bad", "made", "[1]")
            await raw.redis.do("SADD", "tg:key", "k_bad")
            async with home(redis_server, states[1]) as b:
                await until(lambda: b.keys.find(key.digest) is not None)
                assert [each.id for each in b.keys.all()] == [key.id]

    asyncio.run(run())
