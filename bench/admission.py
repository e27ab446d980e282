"""What admission costs: CPU of the process for each call that is taken and settled, 64 at a time, by store.

`python -m bench.admission` prints it. `plain` calls have two slots and a rate, which is all of it that must survive the
process; `budget` calls draw on two accounts besides; `keyed` ones have an idempotency key too, and of `kept` ones the
outcome is sealed and kept. What a store adds is its figure less that of `memory`, which is nothing but counting.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from itertools import count
from pathlib import Path

from gateway.admission import Account, Amounts, Ask, Bucket, Claim, Slot
from gateway.audit.content import Contents
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore
from gateway.ports import Claims, Counters
from gateway.stores.counters import MemoryCounters
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.tool import Rate

AT_ONCE, CALLS, WARM = 64, 8000, 1000
AGENTS = 16  # different callers
KEPT = b'{"v":1,"text":"' + b"an ordinary result of a call, " * 30 + b'"}'


class Both(Counters, Claims):
    """A store of counters and claims."""


Opened = AbstractAsyncContextManager[MemoryCounters | Both]
Opening = Callable[[Path], Opened]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[MemoryCounters]:
    """Counting alone."""
    yield MemoryCounters(steady=time.time)


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[MemoryCounters]:
    """Counting, and the file of a home."""
    with closing(KeyStore(folder / "state.db", os.urandom(32))) as keys:
        contents = Contents(keys, folder / "audit", OsDisk())
        counters = SqliteCounters(folder / "limits.db", contents, steady=time.time)
        try:
            yield counters
        finally:
            await asyncio.to_thread(counters.shut)


OPENINGS: Mapping[str, Opening] = {"memory": memory, "sqlite": sqlite}
"""By store; `bench/admission_redis.py` has the third."""


def ask(number: int, kind: str) -> Ask:
    """What one call asks for."""
    agent = f"default\x1fagent-{number % AGENTS}\x1f"
    bucket = Bucket(f"tool\x1f{agent}\x1fecho", Rate(1_000_000, 60.0), "tool")
    slots = (Slot(f"{agent}\x1fecho", 256), Slot("tool\x1fecho", 512))
    accounts: tuple[Account, ...] = ()
    claim = None
    if kind != "plain":
        most: Amounts = {"calls": 10**9, "wall": 10**12}
        accounts = tuple(Account(f"{over}\x1f{agent}", over, most, 3600.0) for over in ("session", "principal"))
    if kind in ("keyed", "kept"):
        claim = Claim(f"{number:064x}", f"{number:064x}", f"{number:064x}", 86_400.0)
    wants: Amounts = {"calls": 1, "wall": 30_000} if accounts else {}
    return Ask(f"c_{number:032x}", time.time(), 35.0, (bucket,), slots, accounts, wants, claim)


async def one(store: MemoryCounters | Both, number: int, kind: str) -> None:
    """One call: taken, run, settled, its outcome kept."""
    asked = ask(number, kind)
    taken = await store.take(asked)
    if taken.kind is not None:
        raise SystemExit(f"a call was not admitted: {taken}")
    await asyncio.sleep(0)
    store.settle(asked, taken, "done", {name: amount // 2 for name, amount in taken.granted.items()})
    if asked.claim is not None and kind == "kept":
        await store.close(asked.claim, asked.call_id, KEPT, f"u_{number % AGENTS}", "default")


async def load(store: MemoryCounters | Both, numbers: count[int], calls: int, kind: str) -> None:
    """So many calls, so many at once."""
    left = count()

    async def caller() -> None:
        while next(left) < calls:
            await one(store, next(numbers), kind)

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))


async def measured(opening: Opening, kind: str) -> float:
    """CPU of this process (all threads) in µs for each call."""
    with tempfile.TemporaryDirectory() as folder:
        async with opening(Path(folder)) as store:
            numbers = count()
            await load(store, numbers, WARM, kind)
            begun = time.process_time()
            await load(store, numbers, CALLS, kind)
            return (time.process_time() - begun) / CALLS * 1e6


def run(openings: Mapping[str, Opening] = OPENINGS, rounds: int = 3) -> dict[str, float]:
    """`STORE_KIND` to µs: the best of so many rounds, each store in turn."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, opening in openings.items():
            for kind in ("plain", "budget", "keyed", "kept"):
                took = asyncio.run(measured(opening, kind))
                found[f"{name}_{kind}"] = min(took, found.get(f"{name}_{kind}", took))
    return found


if __name__ == "__main__":
    figures = run()
    for name, micros in figures.items():
        base = figures[f"memory_{name.rpartition('_')[2]}"]
        print(f"{name:20} {micros:8.1f} µs of CPU a call, {micros - base:+8.1f} over memory")
