"""Two gateways' copies over one Redis, as tests of what is shared need them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from gateway.identity.shared import SharedSeal
from gateway.stores.redis import address_of
from gateway.stores.redis_link import Redis
from gateway.stores.redis_news import News
from tests.redisserver import RedisServer

PATIENCE = 10.0  # bounds a hang, in seconds


@dataclass
class Side:
    """One gateway's connection, news and seal."""

    redis: Redis
    news: News
    box: SharedSeal

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Everything read, and the news followed."""
        await self.news.start()
        task = asyncio.create_task(self.news.follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def side(server: RedisServer) -> AsyncIterator[Side]:
    """One of the gateways."""
    async with Redis(address_of(server.url + "?deadline=2")) as redis:
        box = SharedSeal()
        yield Side(redis, News(redis, box.use), box)


async def until(true: Callable[[], bool]) -> None:
    """Waits until it is so."""

    async def asked() -> bool:
        return true()

    await until_so(asked)


async def until_so(asked: Callable[[], Awaitable[object]]) -> None:
    """Waits until the answer is yes."""
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if await asked():
                return
            await asyncio.sleep(0.01)
