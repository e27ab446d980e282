"""`python -m prove.siege`: a worker that was taken over, and what it reached; exit 1 if it reached anything.

Each attack is also made without walls, since a refusal proves little where nobody could have succeeded.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from prove.attacks import ATTACKS
from prove.taken_over import REFUSED, besieged, laid_out, unconfined
from sandboxes.guests.build import ensure
from sandboxes.model import MIB


def main() -> int:
    guest = ensure(Path(os.environ.get("TOOLGATE_GUESTS", "~/.cache/toolgate/guests"))).cwasm
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        told = asyncio.run(besieged(Path(folder), guest))
    for name, said in told.items():
        verdict = "CONTAINED" if said == REFUSED else "ESCAPED"
        print(f"{verdict:<9} worker       {name:<40} without walls: {_without(name)}")
    reached = sum(said != REFUSED for said in told.values())
    print(f"worker: {len(ATTACKS)} attacks, {len(told) - reached} contained, 0 weak, {reached} escaped\n")
    return 1 if reached else 0


def _without(name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        guest = Path(folder, "guest")
        guest.write_bytes(bytes(MIB))
        with laid_out(Path(folder), guest, os.getppid()) as prey:
            return "refused" if unconfined(name, prey) == REFUSED else "reached"


if __name__ == "__main__":
    sys.exit(main())
