"""A child to be killed: `python crashing.py HOME CALLERS` writes calls and reports each acknowledged seq on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

from gateway.audit.ledger import open_ledger
from tests.gateway.audit.disks import SMALL, intent, outcome


async def main(home: Path, callers: int) -> None:
    """Never ends by itself."""
    writer = open_ledger(home, tuning=replace(SMALL, segment=200_000, checkpoint_records=200))
    numbers = count()

    async def caller() -> None:
        while True:
            call_id = f"{os.getpid()}-{next(numbers)}"
            for line in (intent(call_id), outcome(call_id)):
                place = await writer.append(line)
                os.write(1, f"{place.seq} {line.type} {call_id}\n".encode())

    await asyncio.gather(*(caller() for _ in range(callers)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
