"""Counting in Redis gives the answers that counting in memory gives, for all gateways together."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import pytest

from gateway.admission import Ask, Claim, Dimension, Taken
from gateway.aggregates import Cell, Ended, Entry, Kind, Reservation
from gateway.stores.counters import MemoryCounters
from gateway.stores.redis_counters import RedisCounters
from tests.gateway.stores.redis_life import ask, key_of, opened
from tests.redisserver import RedisServer

KINDS: tuple[Kind, ...] = ("count", "count_distinct", "sum", "formerly", "since")
CELLS = [Cell(f"state.{kind}", f"{kind}\x1fann", kind, 60.0) for kind in KINDS]
CLAIM = Claim("key", "print", "forwarded", 3600.0)


class Same:
    """The same asked of Redis and of memory, and the answers compared."""

    def __init__(self, redis: RedisCounters, seed: int) -> None:
        self.now = 1000.0
        self.redis, self.memory = redis, MemoryCounters(steady=lambda: self.now)
        self.random = random.Random(seed)
        self.open: list[tuple[Ask, Taken, Ask, Taken]] = []

    async def step(self, number: int) -> None:
        """One random thing."""
        self.now += self.random.choice((0.0, 0.25, 1.0, 7.0))
        if self.open and self.random.random() < 0.4:
            self.end(self.open.pop(self.random.randrange(len(self.open))))
        else:
            await self.take(number)
        keys = [key_of("a"), key_of("b")]
        await self.redis.told()
        assert {k: _some(v) for k, v in (await self.redis.used(keys)).items()} == {
            k: _some(v) for k, v in (await self.memory.used(keys)).items()
        }
        assert await self.redis.find("k1") == await self.memory.find("k1")

    async def take(self, number: int) -> None:
        there, here = await self.asks(number)
        first, second = await self.redis.take(there), await self.memory.take(here)
        assert first == second
        assert await self.redis.take(there) == first
        if first.kind is None:
            self.open.append((there, first, here, second))

    async def asks(self, number: int) -> tuple[Ask, Ask]:
        """What a call asks for: of each store with the levels that it gave."""
        pick = self.random
        entries = tuple(self.entry(cell) for cell in CELLS if pick.random() < 0.5)
        reads = [cell for cell in CELLS if pick.random() < 0.3]
        levels = [await store.look(reads, self.now) for store in (self.redis, self.memory)]
        assert _values(levels[0]) == _values(levels[1])
        rates = {key: rate for key, rate in {"r": (4, 10.0), "s": (8, 60.0)}.items() if pick.random() < 0.3}
        slots = {key: 3 for key in ("x", "y") if pick.random() < 0.3}
        most: dict[Dimension, int] = {"calls": 20, "wall": 9000}
        accounts = {key: most for key in ("a", "b") if pick.random() < 0.3}
        wants: dict[Dimension, int] = {"calls": 1, "cost": 5, "wall": 700} if accounts else {}
        claim = pick.choice((None, None, "k1", "k2"))
        made = [
            ask(
                f"c{number}",
                self.now,
                rates=rates,
                slots=slots,
                accounts=accounts,
                wants=wants,
                claim=claim,
                lasts=10_000.0,
                reservation=Reservation(f"c{number}", self.now, tuple((c, level[c.key]) for c in reads), entries),
            )
            for level in levels
        ]
        return made[0], made[1]

    def entry(self, cell: Cell) -> Entry:
        if cell.kind == "sum":
            return Entry(cell, Decimal(self.random.choice(("0.1", "2.5", "1e-7"))))
        return Entry(cell, self.random.choice("abc") if cell.kind == "count_distinct" else None)

    def end(self, one: tuple[Ask, Taken, Ask, Taken]) -> None:
        ended: Ended = self.random.choice(("refused", "failed", "done"))
        spent = {name: amount // 2 for name, amount in one[1].granted.items()}
        for _ in "12":
            self.redis.settle(one[0], one[1], ended, spent)
            self.memory.settle(one[2], one[3], ended, spent)


def _some(amounts: object) -> object:
    return {name: amount for name, amount in amounts.items() if amount} if isinstance(amounts, dict) else amounts


def _values(levels: object) -> object:
    return {key: (level.value, level.pending) for key, level in levels.items()} if isinstance(levels, dict) else levels


@pytest.mark.parametrize("seed", range(4))
def test_redis_answers_as_memory_does(redis_server: RedisServer, seed: int) -> None:
    """For any order of taking, repeating and settling, everything of every answer is the same."""
    same: list[Same] = []

    async def go() -> None:
        async with opened(redis_server, steady=lambda: same[0].now if same else 0.0) as counters:
            same.append(Same(counters, seed))
            for number in range(150):
                await same[0].step(number)

    asyncio.run(go())
