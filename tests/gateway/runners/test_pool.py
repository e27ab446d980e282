"""What becomes of idle connections: they are swept, bounded, and gone when the client closes."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
import uvloop

from gateway.runners.http1 import Connection
from gateway.runners.pool import MAX_IDLE, Key, Pool
from tests.gateway.runners.servers import Upstream, ask, http, new_net


def test_a_connection_the_upstream_soon_closes_is_not_kept() -> None:
    """An upstream that says it keeps a connection for one second gets a new one from the next call."""

    async def calls() -> None:
        async with Upstream(http(extra="keep-alive: timeout=1, max=9\r\n")) as upstream:
            net = new_net()
            for _ in range(3):
                await net.request(ask(f"http://127.0.0.1:{upstream.port}/"))
            assert upstream.connections == 3

    uvloop.run(calls())


def test_a_connection_that_is_announced_to_close_is_not_kept() -> None:
    """`Connection: close` is believed, though the upstream leaves it open."""

    async def calls() -> None:
        async with Upstream(http(extra="connection: close\r\n")) as upstream:
            net = new_net()
            for _ in range(2):
                await net.request(ask(f"http://127.0.0.1:{upstream.port}/"))
            assert upstream.connections == 2

    uvloop.run(calls())


def test_a_closed_client_keeps_nothing() -> None:
    """After `close` the idle connection is cut, and one that comes back later as well."""

    async def calls() -> None:
        gone = asyncio.Event()

        async def watch(writer: asyncio.StreamWriter) -> None:
            writer.write(http())
            task = asyncio.create_task(writer.wait_closed())
            task.add_done_callback(lambda _: gone.set())

        async with Upstream(watch) as upstream:
            net = new_net()
            await net.request(ask(f"http://127.0.0.1:{upstream.port}/"))
            assert not gone.is_set()
            await net.close()
            await asyncio.wait_for(gone.wait(), 10)
            for _ in range(2):
                await net.request(ask(f"http://127.0.0.1:{upstream.port}/"))
            assert upstream.connections == 3

    uvloop.run(calls())


def _key(host: str) -> Key:
    return ("http", host, 80, ()), ip_address("127.0.0.1")


async def _fill(pool: Pool, port: int, count: int, key: Key, until: float) -> None:
    for _ in range(count):
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        connection.idle_until = until
        pool.give(key, connection)


@pytest.mark.parametrize("dead", [False, True])
def test_idle_connections_are_bounded_and_dead_ones_make_room(dead: bool) -> None:
    """A full pool closes what comes back; when what it holds is dead, the live one is kept instead."""

    async def calls() -> None:
        async with Upstream() as upstream:
            loop, pool, key = asyncio.get_running_loop(), Pool(), _key("full.test")
            await _fill(pool, upstream.port, MAX_IDLE, key, loop.time() + (-1 if dead else 60))
            await _fill(pool, upstream.port, 1, _key("other.test"), loop.time() + 60)
            assert (pool.take(_key("other.test")) is not None) is dead
            assert (pool.take(key) is None) is dead
            pool.close()

    uvloop.run(calls())
