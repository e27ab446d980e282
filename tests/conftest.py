"""What all tests share: how a test says that it needs something of the machine that may not be there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.engine import Engine, NoEngine, shared
from tests.redisserver import NoRedis, RedisServer, started

Need = Callable[[object, str], None]


@pytest.fixture(scope="session")
def need() -> Need:
    """`need(there, "a Docker engine")` skips the test with that reason; with `CI=true` it fails it."""

    def check(there: object, what: str) -> None:
        if not there:
            reason = f"this test needs {what}"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def engine(need: Need) -> Iterator[Engine]:
    """A Docker engine of the tests' own with the runner images, one for all test processes."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(shared())
        except NoEngine as error:
            need(None, f"a Docker engine: {error}")
            raise
        yield running


@pytest.fixture(scope="session")
def redis_running(need: Need) -> Iterator[RedisServer]:
    """A Redis server of this test process. Tests take `redis_server`."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(started())
        except NoRedis as error:
            need(None, f"a Redis server: {error}")
            raise
        yield running


@pytest.fixture
def redis_server(redis_running: RedisServer) -> RedisServer:
    """The Redis server: running and empty when the test begins, whatever the one before did to it."""
    redis_running.whole()
    return redis_running
