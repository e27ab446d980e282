"""One connection to Redis: answers in order, a deadline for each, given up and made anew by itself."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.stores.redis import address_of
from gateway.stores.resp import Address, Link, Lost, Refused, Unanswered
from tests.redisserver import RedisServer

PATIENCE = 20.0


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[Link]:
    """A link that is open."""
    link = Link(address_of(url))
    link.open()
    try:
        yield link
    finally:
        await link.close()


async def until(true: Callable[[], bool]) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  # another program's state
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("way", ["url", "tcp"])
def test_everybody_gets_their_own_answer(redis_server: RedisServer, way: str) -> None:
    """A thousand questions at once, over a socket of either kind; an error of Redis is raised to who asked for it."""

    async def go() -> None:
        async with linked(f"{getattr(redis_server, way)}?deadline=5") as link:
            got = await asyncio.gather(*(link.ask("ECHO", n) for n in range(1000)))
            assert got == [str(n).encode() for n in range(1000)]
            bad, good = await asyncio.gather(link.ask("NO"), link.ask("PING"), return_exceptions=True)
            assert isinstance(bad, Refused)
            assert good == b"PONG"

    asyncio.run(go())


def test_a_server_that_hangs_is_given_up(redis_server: RedisServer) -> None:
    """Whoever waits is told that it may have been done; after that nobody waits; it stands again by itself."""

    async def go() -> None:
        async with linked(f"{redis_server.url}?deadline=0.1") as link:
            await link.ask("PING")
            redis_server.hang()
            waiting = await asyncio.gather(
                *(link.ask("INCR", "n", again=True) for _ in range(9)), return_exceptions=True
            )
            assert all(isinstance(each, Unanswered) and each.sent for each in waiting)
            with pytest.raises(Unanswered) as away:
                await link.ask("PING")
            assert not away.value.sent
            redis_server.recover()
            await until(lambda: link.stands)
            assert await link.ask("PING") == b"PONG"

    asyncio.run(go())


def test_what_may_be_repeated_is_once(redis_server: RedisServer) -> None:
    """When the connection breaks and stands again in time the question is asked anew; else it is told to be lost."""

    async def go() -> None:
        async with linked(f"{redis_server.url}?deadline=5") as link:
            await link.ask("PING")
            held = asyncio.create_task(link.ask("BLPOP", "none", "0"))
            again = asyncio.create_task(link.ask("INCR", "n", again=True))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            redis_server.stop()
            redis_server.start()
            with pytest.raises(Lost):
                await held
            assert await again == 1

    asyncio.run(go())


def test_who_stopped_waiting_disturbs_nobody(redis_server: RedisServer) -> None:
    """The answer to a question that was cancelled is not given to the next one."""

    async def go() -> None:
        async with linked(f"{redis_server.url}?deadline=5") as link:
            await link.ask("PING")
            first, second = (asyncio.create_task(link.ask("ECHO", each)) for each in ("first", "second"))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == b"second"

    asyncio.run(go())


@dataclass
class Slow:
    """A way to Redis on which every answer takes so long (s)."""

    to: str
    takes: float

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there, back = await asyncio.open_unix_connection(self.to)
        answers = asyncio.create_task(self.answers(there, writer))
        try:
            while said := await reader.read(65536):
                back.write(said)
        except (OSError, asyncio.CancelledError):
            return  # given up, or the end of the test
        finally:
            answers.cancel()
            back.close()
            writer.close()

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The answers of one."""
        while said := await reader.read(65536):
            await asyncio.sleep(self.takes)
            writer.write(said)


def test_a_slow_server_does_not_stand(redis_server: RedisServer) -> None:
    """One that answers, but not in time, is away: it costs nobody the deadline again and again. Once it is in time it
    stands by itself."""

    async def go() -> None:
        slow = Slow(redis_server.path, 0.0)
        way = Path(tempfile.mkdtemp(prefix="tg-slow-")) / "s"  # tmp_path is too long for a socket
        async with await asyncio.start_unix_server(slow.carry, way), linked(f"unix://{way}?deadline=0.2") as link:
            assert await link.ask("PING") == b"PONG"
            slow.takes = 0.4
            with pytest.raises(Unanswered, match="in time"):
                await link.ask("PING")
            for _ in range(20):
                with pytest.raises(Unanswered, match="away"):
                    await link.ask("PING")
                await asyncio.sleep(0.05)
            slow.takes = 0.0
            await until(lambda: link.stands)
            assert await link.ask("PING") == b"PONG"
        shutil.rmtree(way.parent)

    asyncio.run(go())


def test_without_a_server_nobody_waits_long(tmp_path: Path) -> None:
    """Asked before it ever stood, it is away."""

    async def go() -> None:
        async with linked(f"unix://{tmp_path}/none") as link:
            with pytest.raises(Unanswered, match="away"):
                await link.ask("PING")

    asyncio.run(go())


def test_a_url_says_where_redis_is() -> None:
    """Host, port, database, user and password, socket, TLS and deadline."""
    assert address_of("redis://h") == Address("h")
    assert address_of("rediss://u:p%40@h:7/3?deadline=0.05") == Address("h", 7, "", True, 3, "u", "p@", 0.05)
    assert address_of("unix:///run/redis?db=2") == Address(path="/run/redis", db=2)
    assert "secret" not in repr(address_of("redis://u:secret@h"))


@pytest.mark.parametrize(
    "url",
    [
        *("http://h", "redis://", "unix://", "redis://h/x", "redis://h?deadline=0", "redis://h?deadline=x"),
        *("redis://h?a=b", "redis://h?ca=/etc/hostname", "rediss://h?ca=/nonexistent"),
    ],
)
def test_a_url_that_says_nothing_is_refused(url: str) -> None:
    """In a sentence."""
    with pytest.raises(ValueError, match="Redis"):
        address_of(url)
