"""`python -m prove.claims [CALM] [CUT]`: idempotency keys raced over two gateways; exit 1 if a promise is broken.

One real Redis, two real gateways, one tool whose effects another process counts. CALM keys, each by two of 64 clients
at once; then CUT keys, while one of the gateways is killed with SIGKILL: no key has its effect twice, and of each call
that was cut off everybody is told that nobody knows.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.racing import broken, effects, race, side_by_side
from tests.e2e.upstream import counting_upstream
from tests.redisserver import started

CLIENTS, EACH = 64, 2
SLOW = 0.03  # seconds that the backend takes while one is killed, so that it has calls under way


def main(calm: int, cut: int) -> int:
    """Both races. So many keys in each."""
    found = _raced("calm", calm, kill=False) + _raced("one gateway killed", cut, kill=True)
    for each in found:
        print(f"BROKEN {each}")
    return 1 if found else 0


def _raced(name: str, count: int, *, kill: bool) -> list[str]:
    begun, keys = time.monotonic(), [f"{name} {number}" for number in range(count)]
    with (
        tempfile.TemporaryDirectory(prefix="prove") as folder,
        started() as redis,
        counting_upstream() as upstream,
        side_by_side(Path(folder), redis.url, upstream) as gateways,
    ):
        if kill:
            upstream.first = lambda: time.sleep(SLOW)

        def on_key(number: int) -> None:
            if kill and number == count // 2:
                gateways[1].process.kill()

        found = asyncio.run(race(gateways, keys, CLIENTS, EACH, on_key))
        wrong, had = broken(found, keys, EACH, upstream), effects(upstream)
    twice = sum(times > 1 for times in had.values())
    print(f"claims: {name}: {count} keys, each by {EACH} clients, in {time.monotonic() - begun:.0f} s")
    print(f"        {had.total()} effects, {twice} of them double; {len(found.unknown())} keys unknown, which say so")
    print(f"        {found.unreached} calls that nobody answered; {len(wrong)} promises broken\n", flush=True)
    return wrong


if __name__ == "__main__":
    sizes = [int(each) for each in sys.argv[1:]]
    sys.exit(main(*(sizes if len(sizes) == 2 else (10_000, 1_000))))
