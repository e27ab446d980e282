"""`python -m prove.crowd [COUNT]`: clients that send one byte of a head a second, and clients that leave in the middle
of a call, so many at once; exit 1 if they keep the gateway from answering, or keep what they had."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.e2e.crowd import ends, leaving, slow, unlimited
from tests.served import served

HEALTHY, GONE, ENDED = 0.5, 20.0, 2.0  # seconds


def main(count: int) -> int:
    """So many of each."""
    with tempfile.TemporaryDirectory(prefix="prove") as folder:
        home = Path(folder) / "home"
        with served(home, *unlimited(Path(folder))) as gateway:
            dripping, kept = asyncio.run(slow(gateway, count))
            left_health, left = asyncio.run(leaving(gateway, count))
            ended = [at - left for at, code in ends(home) if code == "cancelled"]
            served_next = gateway.call("run_python", {"code": "print(1)"})[1]["status"] == "done"
    print(
        f"crowd: {count} that drip: /healthz p99 {dripping.p99() * 1000:.1f} ms, the last gone after {max(kept):.1f} s"
    )
    last = max(ended, default=0.0)
    print(
        f"       {count} that leave: /healthz p99 {left_health.p99() * 1000:.1f} ms, {len(ended)} ended, {last:.2f} s\n"
    )
    healthy = max(dripping.p99(), left_health.p99()) < HEALTHY
    return 0 if healthy and max(kept) < GONE and len(ended) == count and last <= ENDED and served_next else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
