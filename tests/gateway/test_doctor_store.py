"""What the doctor says of the Redis that gateways share, and that no gateway starts on another time."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from gateway.doctor_store import store
from gateway.identity.revocations import Revocations
from gateway.settings import BadSettings, load_settings
from gateway.sharing import APART, apart, open_shared
from gateway.stores.redis import address_of
from gateway.stores.redis_link import Redis
from gateway.stores.sqlite import SqliteKeys, State
from tests.redisserver import RedisServer


def checked(url: str, *set_: tuple[str, str]) -> list[tuple[str, str]]:
    """State and text of each check, while Redis is set so."""

    async def go() -> list[tuple[str, str]]:
        async with AsyncExitStack() as stack:
            if set_:
                redis = await stack.enter_async_context(Redis(address_of(url)))
                for name, value in set_:
                    before = (await redis.do("CONFIG", "GET", name))[1]
                    stack.push_async_callback(redis.do, "CONFIG", "SET", name, before)
                    await redis.do("CONFIG", "SET", name, value)
            return [(each.state, each.text) for each in await store(load_settings(None, {}, {"store": url}))]

    return asyncio.run(go())


def test_a_store_of_one_home_has_nothing_to_be_said() -> None:
    """The default; one in memory is told to be gone with the gateway."""
    assert checked("sqlite") == []
    assert [state for state, _ in checked("memory")] == ["note"]


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ((("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-lru")), "bad", "set noeviction"),
        ((("save", "60 1"),), "bad", "snapshots alone"),
        ((("save", ""),), "note", "a restart empties it"),
    ],
)
def test_what_redis_may_forget_is_said(
    redis_server: RedisServer, given: tuple[tuple[str, str], ...], state: str, words: str
) -> None:
    """By memory that is full, by snapshots, or by a restart."""
    assert any((found, words in text) == (state, True) for found, text in checked(redis_server.url, *given))


def test_an_append_only_file_that_lags_is_bad_and_one_that_does_not_is_fine(redis_server: RedisServer) -> None:
    """`everysec` loses a second; `always` nothing."""
    lags = checked(redis_server.url, ("appendonly", "yes"), ("appendfsync", "everysec"))
    assert [state for state, text in lags if "appendfsync" in text] == ["bad"]
    assert [state for state, _ in checked(redis_server.url, ("appendonly", "yes"), ("appendfsync", "always"))] == ["ok"]


def test_who_may_reach_it_is_said_of_one_in_a_network(redis_server: RedisServer) -> None:
    """No password; a unix socket has owners instead."""
    assert any("password" in text for _, text in checked(redis_server.tcp))
    assert not any("password" in text for _, text in checked(redis_server.url))


def test_one_that_is_not_there_is_bad() -> None:
    """In words, and without waiting long."""
    assert [state for state, _ in checked("redis://127.0.0.1:1/0")] == ["bad"]


@pytest.mark.parametrize("ahead", [3600.0, -3600.0, 0.0])
def test_a_gateway_whose_clock_is_another_does_not_start(
    redis_server: RedisServer, tmp_path: Path, ahead: float
) -> None:
    """An hour ahead or behind; with the same time it does."""

    async def go() -> None:
        settings = load_settings(None, {}, {"store": redis_server.url})
        with closing(State(tmp_path / "state.db")) as state:
            async with AsyncExitStack() as stack:
                known = (SqliteKeys(state), Revocations(state))
                assert await open_shared(settings, *known, stack, lambda: time.time() + ahead) is not None
                async with Redis(address_of(redis_server.url)) as redis:
                    assert abs(await apart(redis)) < APART

    if ahead:
        with pytest.raises(BadSettings, match="clock"):
            asyncio.run(go())
    else:
        asyncio.run(go())
