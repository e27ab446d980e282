"""What our client writes to Redis and reads from it, beside redis-py: the same words, the same answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from gateway.stores.resp import Refused
from tests.gateway.stores.redis_life import asking
from tests.redisserver import RedisServer

BIG = bytes(range(256)) * 4096 * 8  # 8 MiB, every octet
WORDS: dict[str, str | bytes | int] = {
    "empty": "",
    "text": "säge\r\n$3\r\n",
    "zero": 0,
    "least": -(2**63),
    "most": 2**63 - 1,
    "octets": b"\0\r\n",
    "big": BIG,
}
QUESTIONS: list[tuple[str | bytes | int, ...]] = [
    ("GET", "text"),
    ("GET", "none"),
    ("MGET", "empty", "none", "octets", "big"),
    ("INCRBY", "number", -7),
    ("LPUSH", "list", "a", b"", 3),
    ("LRANGE", "list", 0, -1),
    ("LRANGE", "none", 0, -1),
    ("BLPOP", "none", "0.01"),
    ("EVAL", "return {1, {2, {3, 'x'}, {}}, false, redis.status_reply('fine'), {ARGV[1], {false}}}", 0, BIG),
    ("XADD", "news", "1-1", "field", "value"),
    ("XRANGE", "news", "-", "+"),
    ("XREAD", "STREAMS", "news", "0"),
    ("SET", "text", "x", "NX"),
    ("PING",),
]
WRONG: list[tuple[str | bytes | int, ...]] = [
    ("NOTHING",),
    ("GET",),
    ("LPUSH", "text", "x"),
    ("EVALSHA", "0" * 40, 0),
    ("EVAL", "return redis.error_reply('MINE of its own')", 0),
]


def test_both_write_and_read_the_same(redis_server: RedisServer) -> None:
    """Texts, octets, numbers, 8 MiB, nothing, nested arrays and errors."""

    async def ours() -> list[Any]:
        async with asking(redis_server) as link:
            for name, value in WORDS.items():
                assert await link.ask("SET", name, value) == b"OK"
            told = [await link.ask(*question) for question in QUESTIONS]
            for question in WRONG:
                with pytest.raises(Refused) as error:
                    await link.ask(*question)
                told.append(str(error.value))
            return told

    told = asyncio.run(ours())
    with redis.Redis(unix_socket_path=redis_server.path, protocol=2) as client:
        for name, value in WORDS.items():
            assert client.get(name) == client.connection_pool.get_encoder().encode(value), name
        client.flushall()
        for name, value in WORDS.items():
            client.set(name, value)
        assert told[: len(QUESTIONS)] == [_raw(client, question) for question in QUESTIONS]
        for error, question in zip(told[len(QUESTIONS) :], WRONG, strict=True):
            assert error.endswith(_error(client, question))  # redis-py makes a class of its own of some first words


def _raw(client: Any, words: tuple[str | bytes | int, ...]) -> Any:
    """The answer as it came, which redis-py would make something of."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


def _error(client: Any, words: tuple[str | bytes | int, ...]) -> str:
    with pytest.raises(redis.ResponseError) as error:
        _raw(client, words)
    return str(error.value)
