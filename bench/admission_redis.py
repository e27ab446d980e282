"""What admission with a Redis costs beside memory and SQLite: as `bench/admission.py`, with a server of its own.

`python -m bench.admission_redis` prints it. CPU is that of the gateway's process, not of Redis.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.admission import OPENINGS, Opening, run
from gateway.identity.shared import SharedSeal
from gateway.stores.redis import address_of
from gateway.stores.redis_counters import RedisCounters
from tests.redisserver import RedisServer, started

T = TypeVar("T")


@asynccontextmanager
async def redis(server: RedisServer, _: Path) -> AsyncIterator[RedisCounters]:
    """Counting in an empty Redis on a unix socket, outcomes sealed."""
    server.flush()
    box = SharedSeal()
    box.use(os.urandom(32))
    async with RedisCounters(address_of(f"{server.url}?deadline=5"), "bench", box) as counters:
        yield counters


def with_redis(body: Callable[[dict[str, Opening]], T]) -> T:
    """The body, with all stores; Redis runs meanwhile."""
    with started() as server:
        return body({**OPENINGS, "redis": partial(redis, server)})


if __name__ == "__main__":
    figures = with_redis(run)
    for name, micros in figures.items():
        base = figures[f"memory_{name.rpartition('_')[2]}"]
        print(f"{name:20} {micros:8.1f} µs of CPU a call, {micros - base:+8.1f} over memory")
