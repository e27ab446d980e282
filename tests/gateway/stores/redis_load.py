"""Many calls with keys, places and a budget over a Redis to which something happens meanwhile, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from gateway.admission import Claimed
from gateway.reliability.counted import Counted, KeptClaim, Used
from gateway.stores.redis_counters import RedisCounters
from tests.gateway.stores.redis_life import ask, key_of, opened
from tests.redisserver import RedisServer

FAULTS = ("flush", "restart", "hang", "stop")
PLACES = 5


@dataclass
class Backend:
    """What calls do: it notes what was done, how many ran at once, how long each refusal took (s). Its notes are the
    ledger too."""

    did: list[tuple[str, str]] = field(default_factory=list)  # key and call
    refusals: list[float] = field(default_factory=list)
    calls: int = 0
    running: int = 0
    most: int = 0

    async def past(self, flying: frozenset[str]) -> Counted:
        """As the ledger would say it."""
        now = time.time()
        ended = [(key, call) for key, call in self.did if call not in flying]
        claims = [KeptClaim(key, Claimed(call, "print", "done", now), now + 600) for key, call in ended]
        used = [Used(key_of("a"), {"calls": len(ended)}, now + 600)] if ended else []
        return Counted(claims, used, ran=frozenset(call for _, call in ended))

    async def call(self, counters: RedisCounters, key: str) -> bool:
        """One call of a key, if it is admitted; whether its key is done."""
        self.calls += 1
        name, begun = f"call-{self.calls}", time.monotonic()
        one = ask(name, slots={"s": PLACES}, accounts={"a": {"calls": 10**6}}, wants={"calls": 1}, claim=key)
        taken = await counters.take(one)
        if taken.kind == "unavailable":
            self.refusals.append(time.monotonic() - begun)
        if taken.kind is not None:
            return taken.kind == "claimed"
        self.did.append((key, name))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.002)
        self.running -= 1
        counters.settle(one, taken, "done", {"calls": 1})
        return True

    @property
    def doubles(self) -> list[str]:
        """Keys that were done more than once."""
        return [key for key, times in Counter(key for key, _ in self.did).items() if times > 1]


async def happen(server: RedisServer, fault: str) -> None:
    """The fault, and its end."""
    if fault == "flush":
        server.flush()
    elif fault == "hang":
        server.hang()
        await asyncio.sleep(0.25)
        server.recover()
    else:
        server.stop()
        await asyncio.sleep(0.05 if fault == "restart" else 0.5)
        server.start()


async def suffer(server: RedisServer, fault: str, keys: int, times: int, workers: int = 20) -> tuple[Backend, int]:
    """Each key asked for by several workers until it is done, while the fault happens so many times; what was done,
    and how many calls the budget says in the end."""
    backend = Backend()

    async def faults() -> None:
        for _ in range(times):
            await asyncio.sleep(0.08)
            await happen(server, fault)

    async def worker(number: int) -> None:
        begin = number * keys // workers
        for each in range(begin, begin + 3 * keys // 4):
            while not await backend.call(counters, f"k{each % keys}"):  # noqa: ASYNC110  # asks again, as clients do
                await asyncio.sleep(0.005)

    async with opened(server, deadline=0.1, past=backend.past) as counters:
        await asyncio.gather(faults(), *(worker(number) for number in range(workers)))
        await counters.take(ask("last"))  # notices whatever happened last
        while not counters.whole:  # noqa: ASYNC110  # another program's state
            await asyncio.sleep(0.005)
        await counters.told()
        used = (await counters.used([key_of("a")]))[key_of("a")]["calls"]
    return backend, used
