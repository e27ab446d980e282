"""`python -m prove.tamper [COUNT]`: a ledger tampered with at random, in eight ways; exit 1 if one is missed.

Each time a fresh copy is altered once. It counts as found only if verification names the record that was altered, or,
for a history written anew from some record on, one between the last checkpoint that still agrees and the one that does
not.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gateway.audit.verify import verify
from tests.gateway.audit.tampering import KINDS, missed, write_log


def main(count: int) -> int:
    """So many in all, the same number of each kind."""
    seed = random.SystemRandom().randrange(1 << 32)
    dice, found, started = random.Random(seed), Counter[str](), time.monotonic()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="prove") as folder:
        home = Path(folder, "home")
        write_log(home)
        if not verify(home / "audit")[0].ok:
            print("the log does not verify before anybody touched it")
            return 1
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            said = missed(home, kind, dice, Path(folder, "scratch"))
            found[kind] += said is None
            wrong += [said] if said else []
    for said in wrong:
        print(f"MISSED {said}")
    print(f"tamper: {count} alterations (seed {seed}), {found.total()} found, in {time.monotonic() - started:.0f} s")
    print(f"        {dict(found)}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
