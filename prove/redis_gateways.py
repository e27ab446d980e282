"""`python -m prove.redis_gateways [SECONDS] [FAULT…]`: two gateways under load while something happens to their Redis.

Each fault lasts so many seconds. No key has two effects, nothing goes over places, budget or rate, authentication and
reads go on, all that is refused is refused by name, and effects run again without a restart. Times are those of outside
clients: 99 of 100 refusals, and reads before and meanwhile. Exit 1 if a promise broke; times are only told.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.e2e.redis_faults import FAULTS
from tests.e2e.redis_suffering import pair, suffer
from tests.redisserver import started


def main(seconds: float, names: list[str]) -> int:
    """Each fault in turn, to the same two gateways."""
    broken = 0
    print("fault            refused p99 ms  reads p99 ms  at once  budget  rate     back s")
    with started() as server, tempfile.TemporaryDirectory() as folder, pair(Path(folder), server) as both:
        for name in names:
            got = suffer(both, FAULTS[name], seconds)
            reads = f"{got.reads_before * 1000:4.0f} → {got.reads * 1000:4.0f}"
            print(
                f"{name:16} {got.refusals:7} {got.refused * 1000:6.0f}   {reads} {got.at_once:10} {got.spent:7}"
                f"  {got.rated:4}/{got.rated_may:<4} {got.recovered:5.2f}",
                flush=True,
            )
            broken += bool(got.broken)
            for each in got.broken:
                print(f"    {each}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 3.0, sys.argv[2:] or list(FAULTS)))
