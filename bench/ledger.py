"""The ledger: what intent and outcome add to a call, how many a writer takes, and whether a long log costs more.

Runs alone too: `python -m bench.ledger`. Everything goes through the writer's own API, without a gateway around it. The
lines have the fields and sizes of a real call's and are made before the clock starts; memory is settled as `toolgate
serve` settles it. A long and a short log are measured by turns, so that a slow moment of the machine does not hit one
of them alone. Measures only; never judges, except that every log has to verify.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from bench.started import ROOT
from gateway.audit.ledger import open_ledger
from gateway.audit.search import search
from gateway.audit.shard import Tuning
from gateway.audit.verify import verify
from gateway.audit.writer import Writer
from gateway.ports import Line
from gateway.tool import Json
from gateway.wanted import Wanted

Report = dict[str, float]
CALLERS = {1: 400, 32: 4000, 256: 8000}  # at once: calls in a round
ROUNDS = 4
SHORT, LONG = 1000, 1_000_000  # records
SESSIONS = 20_000  # over which the records of the long log are spread
TURNS, TURN_CALLS, TURN_CALLERS = 9, 1500, 64
AT_ONCE = 2000  # records awaited together while a log is only made long
ASKED = 20  # sessions looked up
TUNING = Tuning(reserve=1 << 20)
CALLER: dict[str, Json] = {
    "session_id": "s_bench",
    "tenant": "default",
    "principal": {"agent": "dev", "user": "ann", "groups": ["eng"], "authn": "api_key", "token_id": "k_9203774d696a82"},
    "tool": {"name": "count", "version": "1.0.0", "digest": f"sha256:{'9713b382' * 8}"},
}
OBLIGED: dict[str, Json] = {
    **dict.fromkeys(("timeout", "output", "backends", "injection")),
    **{name: [] for name in ("labels", "limits", "require", "networks", "redact", "approvals")},
    **{"record": "request_response", "cache": True, "origin": {}},
}
DECISION: dict[str, Json] = {
    **{"effect": "permit", "code": None, "rule": None, "rules": ["count"], "bundle_digest": f"sha256:{'7851970c' * 8}"},
    "obligations": OBLIGED,
}
STAGES: dict[str, Json] = dict.fromkeys(("authenticate", "resolve", "validate", "decide", "approve", "admit"), 12)
TEXT = "hello, this is the text of an ordinary call: some words, a number or two like 1972, and the name of a file " * 2


_numbers = itertools.count()


def measure() -> Report:
    """All figures: milliseconds, microseconds and seconds; rates a second."""
    folder = Path(tempfile.mkdtemp(prefix=".toolgate-bench-", dir=ROOT))
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)
    try:
        for name in ("calls", "long", *(f"short{turn}" for turn in range(TURNS))):
            (folder / name).mkdir()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_pairs(folder / "calls"))
            report |= runner.run(_long_and_short(folder))
        report["verify_rate"] = _verified(folder / "calls")
        report["verify_small_rate"] = _verified(folder / "long")
        return report | _searched(folder / "long")
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        shutil.rmtree(folder)


async def _pairs(home: Path) -> Report:
    """Intent and outcome, each awaited, from so many callers at once that do nothing else."""
    report: Report = {}
    async with _opened(home) as writer:
        await _calls(writer, 32, 500)
        report["call_cpu"] = 2 * min([await _cost(writer) for _ in range(ROUNDS)])
        for callers, total in CALLERS.items():
            rounds = [await _calls(writer, callers, total) for _ in range(ROUNDS)]
            report[f"pair_c{callers}_p50"] = min(statistics.median(took) for took, _, _ in rounds)
            report[f"calls_c{callers}_rate"] = max(len(took) / seconds for took, seconds, _ in rounds)
    return report


async def _calls(writer: Writer, callers: int, total: int) -> tuple[list[float], float, float]:
    """Milliseconds each call waited for both its records; seconds, and CPU seconds, of all together."""
    took: list[float] = []
    made = [(intent(call_id), outcome(call_id)) for call_id in (f"c_{next(_numbers):032x}" for _ in range(total))]
    turns = iter(made)

    async def caller() -> None:
        for first, last in turns:
            began = time.perf_counter()
            await writer.append(first)
            await writer.append(last)
            took.append((time.perf_counter() - began) * 1000)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return took, time.perf_counter() - started, time.process_time() - cpu


async def _long_and_short(folder: Path) -> Report:
    """CPU microseconds of this process for one record more, with so many in the log before."""
    cost: dict[str, list[float]] = {"long": [], "short": []}
    async with _opened(folder / "long") as long:
        started = time.perf_counter()
        await _grow(long, LONG)
        grown = time.perf_counter() - started
        for turn in range(TURNS):
            cost["long"].append(await _cost(long))
            async with _opened(folder / f"short{turn}") as short:
                await _grow(short, SHORT)
                cost["short"].append(await _cost(short))
    medians = {f"append_{name}": statistics.median(each) for name, each in cost.items()}
    return {**medians, "records_rate": LONG / grown}


async def _cost(writer: Writer) -> float:
    *_, cpu = await _calls(writer, TURN_CALLERS, TURN_CALLS)
    return cpu * 1e6 / (2 * TURN_CALLS)


async def _grow(writer: Writer, records: int) -> None:
    """Makes a log this long with small records, each of one of many sessions."""
    last = 0
    while (left := records - 1 - last) > 0:
        places = await asyncio.gather(*(writer.append(note(last + n)) for n in range(min(AT_ONCE, left))))
        last = places[-1].seq


def _verified(home: Path) -> float:
    """Records verified in a second of one core. Ends the benchmark when the log does not stand."""
    started = time.process_time()
    (result,) = verify(home / "audit")
    took = time.process_time() - started
    if not result.ok or result.covered != result.records:
        raise SystemExit(f"the log of the benchmark does not verify: {result}")
    return result.records / took


def _searched(home: Path) -> Report:
    """Making the index over a long log, then looking one session up in it, each time another."""
    took = []
    for number in range(ASKED + 1):
        started = time.perf_counter()
        found = search(home, Wanted(session=f"s_{number * 97}"), 1000, None)
        took.append(time.perf_counter() - started)
        if len(found) < LONG // SESSIONS - 1:
            raise SystemExit(f"session s_{number * 97} has {len(found)} records")
    return {"index_long": took[0], "session_long": statistics.median(took[1:]) * 1000}


def intent(call_id: str) -> Line:
    """What is written before a call runs, about 1,600 bytes."""
    fields = {"call_id": call_id, **CALLER, "args_digest": "6076cb8d" * 8, "decision": DECISION}
    session: dict[str, Json] = {"labels": ["untrusted"], "calls": 147, "cost": 0.0, "opened_at": 1795270852.3}
    return Line("call.intent", {**fields, "session": session}, {"arguments": {"text": TEXT}}, "u_bench", "default")


def outcome(call_id: str) -> Line:
    """What is written before its result is given to anybody, about 1,300 bytes."""
    fields: dict[str, Json] = {
        **{"call_id": call_id, "intent": 1, **CALLER, "stages": STAGES, "raw_digest": "a9ef3d8f" * 8},
        "outcome": {"status": "done", "code": None, "retryable": None, "rule": None},
        "usage": {"wall_ms": 54.579, "sandbox_ms": None, "bytes_out": 21, "cost": 0.0},
        "shown_digest": "a9ef3d8f" * 8,
        "screen": {"action": "allow", "findings": []},
    }
    return Line("call.outcome", fields, {"raw": TEXT, "shown": TEXT}, "u_bench", "default")


def note(number: int) -> Line:
    """A small record of a session."""
    return Line("call.refused", {"call_id": f"c_{number:x}", "session_id": f"s_{number % SESSIONS}"})


@contextlib.asynccontextmanager
async def _opened(home: Path) -> AsyncIterator[Writer]:
    writer = open_ledger(home, tuning=TUNING)
    try:
        yield writer
    finally:
        await writer.close()


def main() -> None:
    """Measures and prints."""
    for name, value in measure().items():
        print(f"ledger_{name:16} {value:12.3f}")


if __name__ == "__main__":
    main()
