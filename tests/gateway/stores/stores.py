"""Every store of counters, claims and approvals, for the suites that are one contract for all of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.audit.content import Contents
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore
from gateway.stores.approvals import MemoryApprovals
from gateway.stores.counters import MemoryCounters
from gateway.stores.redis_approvals import RedisApprovals
from gateway.stores.redis_counters import RedisCounters
from gateway.stores.sqlite import State
from gateway.stores.sqlite_approvals import SqliteApprovals
from gateway.stores.sqlite_counters import SqliteCounters
from tests.gateway.stores.redis_life import opened as redis_opened
from tests.gateway.stores.shared import side
from tests.redisserver import RedisServer

T = TypeVar("T")
KINDS = ("memory", "sqlite", "redis")
Counting = MemoryCounters | RedisCounters
Approving = MemoryApprovals | SqliteApprovals | RedisApprovals


@dataclass
class Life:
    """One life of a store; `again` is the next one, of the same file or server, where it has any."""

    counters: Counting
    approvals: Approving
    kind: str

    async def told(self) -> None:
        """What was settled is known to the store."""
        if isinstance(self.counters, RedisCounters):
            await self.counters.told()


@dataclass
class Store:
    """A store of one kind, at a time of the test's own (unix seconds)."""

    kind: str
    folder: Path
    server: RedisServer | None
    now: float = 1000.0
    lives: int = field(default=0)

    def run(self, body: Callable[[Life], Awaitable[T]]) -> T:
        """Opens it for the body, as a process does that starts."""

        async def go() -> T:
            async with self.opened() as life, asyncio.timeout(60):
                return await body(life)

        return asyncio.run(go())

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Life]:
        """The store for one life."""
        if self.server is not None:
            async with side(self.server) as one, redis_opened(self.server, steady=self.time, box=one.box) as counters:
                await one.news.start()
                yield Life(counters, RedisApprovals(one.redis, one.box), self.kind)
        elif self.kind == "memory":
            yield Life(MemoryCounters(steady=self.time), MemoryApprovals(), self.kind)
        else:
            with sealing(self.folder) as contents, closing(State(self.folder / "state.db")) as state:
                counters = SqliteCounters(self.folder / "limits.db", contents, steady=self.time)
                try:
                    yield Life(counters, SqliteApprovals(state, contents), self.kind)
                finally:
                    await asyncio.to_thread(counters.shut)

    def time(self) -> float:
        """What the clock says."""
        return self.now

    @property
    def lasting(self) -> bool:
        """Whether what is counted outlives its process."""
        return self.kind != "memory"


@contextmanager
def sealing(folder: Path) -> Iterator[Contents]:
    """What seals content in a home."""
    with ExitStack() as stack:
        master = folder / "master.key"
        if not master.exists():
            master.write_bytes(os.urandom(32))
        keys = stack.enter_context(closing(KeyStore(folder / "state.db", master.read_bytes())))
        yield Contents(keys, folder / "audit", OsDisk())


def made(request: pytest.FixtureRequest, folder: Path) -> Store:
    """For a fixture `store` with `params=KINDS`."""
    kind = str(request.param)
    server = request.getfixturevalue("redis_server") if kind == "redis" else None
    return Store(kind, folder, server)
