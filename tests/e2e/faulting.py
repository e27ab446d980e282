"""What callers of a gateway see while its disk fails, and what must be on record afterwards."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.killing import Found, Siege, judge, siege
from tests.served import NO_ENGINE, ROOT, Served, ready

FAULTS = tuple(
    f"{call} {error}" for call in ("pwrite", "fdatasync", "short") for error in ("ENOSPC", "EIO", "EROFS", "EDQUOT")
)
CALLS = 20
PATIENCE = 30.0  # seconds; bounds a hang


@dataclass(frozen=True, slots=True)
class Suffered:
    """One failure of the disk. `answers` counts status and code of the calls begun while it lasted, `ready` is the
    status of /readyz meanwhile, `effects` what these calls did. `caught` is the answer to the one that was running when
    the failure began. `back` is how many seconds after relief a call was served."""

    answers: Counter[tuple[int, str]]
    ready: int
    effects: int
    caught: tuple[int, str]
    back: float
    found: Found


def suffer(fault: str, folder: Path) -> Suffered:
    """A gateway of its own, the fault, relief, the fault again while a tool runs, relief, a clean stop."""
    order = folder / "fault"
    with siege(folder, random.Random(fault)) as besieged:
        gateway = _start(besieged, order)
        upstream = besieged.upstream
        _serve(gateway, besieged, "before")
        order.write_text(fault)
        before = upstream.count()
        answers = Counter(_short(gateway.call("count", {"text": f"during {n}"})) for n in range(CALLS))
        state = gateway.get("/readyz")[0]
        effects = upstream.count() - before
        order.unlink()
        back = _until_served(gateway, besieged)
        upstream.first = lambda: order.write_text(fault)
        caught = _short(gateway.call("count", {"text": "caught"}))
        upstream.first = None
        order.unlink()
        back = max(back, _until_served(gateway, besieged))
        gateway.process.terminate()
        gateway.process.communicate(timeout=60)
        return Suffered(answers, state, effects, caught, back, judge(besieged))


def _start(besieged: Siege, order: Path) -> Served:
    command = [sys.executable, "-m", "tests.e2e.faulty", str(order), "serve", "--home", str(besieged.home)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", *besieged.flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **NO_ENGINE},
    )
    return ready(process, besieged.home)


def _serve(gateway: Served, besieged: Siege, text: str) -> bool:
    status, said = gateway.call("count", {"text": text})
    if status == 200:
        besieged.acknowledged.append(said)
    return status == 200


def _until_served(gateway: Served, besieged: Siege) -> float:
    started = time.monotonic()
    number = 0
    while not _serve(gateway, besieged, f"after {started} {number}"):
        assert time.monotonic() - started < PATIENCE, "the gateway did not recover"
        number += 1
        time.sleep(0.02)
    return time.monotonic() - started


def _short(answer: tuple[int, Any]) -> tuple[int, str]:
    status, said = answer
    return status, str(said.get("code", said.get("status")))
