"""`python -m prove.faults`: twelve ways in which writing or flushing the log fails, under a real gateway; exit 1 if one
ends in anything but 503 and no effect, or if it takes longer than five seconds to come back.

The system calls of the gateway's process fail: no space, I/O error, read-only, quota; at the write, at the flush, or
after half of what was written. A file system that is really full is in `tests/e2e/test_disk_full.py`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.e2e.faulting import CALLS, FAULTS, Suffered, suffer

REFUSED = (503, "audit_unavailable")
WITHIN = 5.0  # seconds from relief to a call that is served


def wrong(suffered: Suffered) -> list[str]:
    """What is not as it must be, in words."""
    told = {
        f"answered {dict(suffered.answers)}": suffered.answers != {REFUSED: CALLS},
        f"/readyz says {suffered.ready}": suffered.ready != 503,
        f"{suffered.effects} effects": suffered.effects > 0,
        f"the running call was answered {suffered.caught}": suffered.caught != REFUSED,
        f"{suffered.found.doubtful} calls in doubt": suffered.found.doubtful != 1,
        f"back after {suffered.back:.1f} s": suffered.back > WITHIN,
    }
    return [what for what, so in told.items() if so] + suffered.found.broken


def main() -> int:
    bad = 0
    for fault in FAULTS:
        with tempfile.TemporaryDirectory(prefix="prove") as folder:
            suffered = suffer(fault, Path(folder))
        found = wrong(suffered)
        bad += bool(found)
        refused = suffered.answers[REFUSED]
        told = "; ".join(found) or f"{refused} refused, {suffered.effects} effects, back after {suffered.back:.2f} s"
        print(f"{'BROKEN' if found else 'HELD':<6} {fault:<18} {told}", flush=True)
    print(f"faults: {len(FAULTS)} ways, {len(FAULTS) - bad} held\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
