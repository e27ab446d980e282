"""A child to be killed: `python taking.py HOME` takes for call after call and says each that it was given on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from itertools import count
from pathlib import Path

from gateway.admission import Account, Ask, Bucket, Claim
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.tool import Rate
from tests.gateway.stores.stores import sealing

RATE = Bucket("r", Rate(1_000_000, 1e9), "tool")
ACCOUNT = Account("a", "session", {"calls": 1_000_000}, 3600.0)


async def main(home: Path) -> None:
    """Never ends by itself: eight callers, of whose calls every other one is settled."""
    numbers = count()
    with sealing(home) as contents:
        counters = SqliteCounters(home / "limits.db", contents, steady=time.time)

        async def caller() -> None:
            while True:
                number = next(numbers)
                claim = Claim(f"k{number}", "print", "forwarded", 3600.0)
                one = Ask(f"c{number}", time.time(), 30.0, (RATE,), (), (ACCOUNT,), {"calls": 1}, claim)
                taken = await counters.take(one)
                os.write(1, b"%d\n" % number)
                if number % 2:
                    counters.settle(one, taken, "failed", {"calls": 1})

        await asyncio.gather(*(caller() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
