"""`python -m prove.kills [COUNT]`: SIGKILL at random moments under load; exit 1 if anything promised is broken.

One home, one tool whose effects another process counts, 32 callers. After the last kill everything that was ever
acknowledged, and every effect, is held against the ledger.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.killing import judge, siege


def main(count: int) -> int:
    """So many kills under load."""
    seed = random.SystemRandom().randrange(1 << 32)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="prove") as folder,
        siege(Path(folder), random.Random(seed)) as besieged,
    ):
        while besieged.kills < count:
            besieged.round()
            if besieged.kills % 20 == 0:
                print(f"{besieged.kills} kills, {len(besieged.acknowledged)} calls acknowledged", flush=True)
        besieged.end()
        found = judge(besieged)
    for each in found.broken:
        print(f"BROKEN {each}")
    took = time.monotonic() - started
    print(f"kills: {count} under load, {besieged.kills_starting} at a start, in {took:.0f} s; seed {seed}")
    print(f"       {found.acknowledged} calls acknowledged, {len(found.without_record)} of them without a record")
    print(f"       {found.effects} effects, {len(found.without_intent)} without an intent, {len(found.twice)} twice")
    print(f"       {found.doubtful} calls in doubt listed, {len(found.not_listed)} wrongly or not\n")
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
