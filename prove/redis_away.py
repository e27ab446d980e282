"""`python -m prove.redis_away [KEYS] [TIMES]`: a Redis emptied, restarted, hung and stopped; exit 1 if a promise broke.

KEYS keys, each asked for by fifteen of 20 clients until it is done, while the fault happens TIMES times: no key is done
twice, no more run at once than may, the budget is what was done, and 99 of 100 refusals come within 150 ms.
"""

from __future__ import annotations

import asyncio
import sys

from tests.gateway.stores.redis_load import FAULTS, PLACES, suffer
from tests.redisserver import started

PATIENCE = 300.0  # bounds a hang, in seconds
REFUSED_WITHIN = 0.150  # seconds, 99 of 100


def main(keys: int, times: int) -> int:
    """Each fault in turn."""
    broken = 0
    with started() as server:
        for fault in FAULTS:
            server.whole()
            backend, used = asyncio.run(asyncio.wait_for(suffer(server, fault, keys, times), PATIENCE))
            slow = sorted(backend.refusals)
            p99 = slow[int(len(slow) * 0.99)] if slow else 0.0
            print(f"redis {fault}: {times} times; {backend.calls} calls, {len(backend.did)} done of {keys} keys")
            print(f"        {len(backend.doubles)} double; {backend.most} at once of {PLACES}; budget {used}")
            print(f"        {len(slow)} refused, 99 of 100 within {p99 * 1000:.0f} ms\n", flush=True)
            well = not backend.doubles and len(backend.did) == used == keys and backend.most <= PLACES
            broken += not (well and p99 <= REFUSED_WITHIN)
    return 1 if broken else 0


if __name__ == "__main__":
    sizes = [int(each) for each in sys.argv[1:]]
    sys.exit(main(*(sizes if len(sizes) == 2 else (5_000, 10))))
