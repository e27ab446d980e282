"""`python -m prove.drains [COUNT]`: SIGTERM at random moments under load; exit 1 if a reply was lost.

Each time a fresh gateway with 16 callers that keep their connections, and a backend that takes its time.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.draining import drain, slow_tool


def main(count: int) -> int:
    """So many drains."""
    seed = random.SystemRandom().randrange(1 << 32)
    rng, started = random.Random(seed), time.monotonic()
    answered, broken = 0, []
    with tempfile.TemporaryDirectory(prefix="prove") as folder, slow_tool(Path(folder), rng) as flags:
        for number in range(count):
            seen = drain(Path(folder) / f"home{number}", flags, rng)
            answered += len(seen.answered)
            broken += [f"drain {number}: {each}" for each in seen.broken()]
    for each in broken:
        print(f"BROKEN {each}")
    print(f"drains: {count} in {time.monotonic() - started:.0f} s; seed {seed}")
    print(f"        {answered} calls answered, {len(broken)} replies lost\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
