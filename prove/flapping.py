"""`python -m prove.flapping`: two backends flap and hang under load; exit 1 if that is felt by the tools of others.

Three tools are called at steady paces, all through one gateway: one before a backend that is always well, one before a
backend that flaps (every second answer an error, each tried again where the budget allows), one before a backend that
hangs. Times in which the two are ill alternate with times in which they are well, and each is compared with the one
beside it, so that what else the machine does is the same for both.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.sick import POLICY, Sick, sick, spec
from tests.served import Served, Wire, served

ROUNDS, SECONDS = 5, 6.0  # turns of each kind, and how long each lasts
PACES = {"steady": (8, 0.1), "flap": (4, 0.1), "hang": (8, 0.1)}  # callers, and seconds between calls of each
MOST_RATIO, MOST_RETRIED = 1.2, 0.1
RETRIED = "retry: {on: [upstream_error], attempts: 3, backoff: 5ms..50ms}"


@dataclass
class Seen:
    """What came of the calls of one tool in all times of one kind."""

    took: list[float] = field(default_factory=list)  # seconds
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, took: float, code: str) -> None:
        self.took.append(took)
        self.codes[code] = self.codes.get(code, 0) + 1

    def join(self, other: Seen) -> None:
        self.took += other.took
        for code, times in other.codes.items():
            self.codes[code] = self.codes.get(code, 0) + times

    def percentile(self, share: int) -> float:
        """In milliseconds."""
        return statistics.quantiles(self.took, n=100)[share - 1] * 1000


async def caller(wire: Wire, tool: str, pace: float, seen: Seen, until: float) -> None:
    """One caller, who calls at its pace, or as soon as the last call is answered."""
    while time.monotonic() < until:
        began = time.monotonic()
        _, said = await wire.call(tool, {"what": "x"})
        problem = said.get("problem") or (said if "code" in said else None)
        seen.add(time.monotonic() - began, problem["code"] if problem else "done")
        await asyncio.sleep(max(0.0, began + pace - time.monotonic()))


async def turns(up: Served, flapping: Sick, hanging: Sick) -> tuple[dict[str, dict[str, Seen]], float]:
    """All times, by whether the two are ill and by tool; and by how much that makes the steady tool's p99 longer: the
    median of all pairs of times."""
    seen = {kind: {tool: Seen() for tool in PACES} for kind in ("warm", "well", "ill")}
    lasts: list[float] = []
    wires = {tool: [await Wire.to(up) for _ in range(callers)] for tool, (callers, _) in PACES.items()}
    for turn in range(2 * ROUNDS + 1):
        kind = "warm" if turn == 0 else "ill" if turn % 2 else "well"
        flapping.mood, hanging.mood = ("flapping", "hangs") if kind == "ill" else ("well", "well")
        until, into = time.monotonic() + SECONDS, {tool: Seen() for tool in PACES}
        await asyncio.gather(
            *(caller(wire, tool, PACES[tool][1], into[tool], until) for tool in PACES for wire in wires[tool])
        )
        lasts.append(into["steady"].percentile(99))
        for tool, each in into.items():
            seen[kind][tool].join(each)
    for wire in [each for many in wires.values() for each in many]:
        wire.close()
    return seen, statistics.median(ill / well for ill, well in zip(lasts[1::2], lasts[2::2], strict=True))


def shown(seen: dict[str, dict[str, Seen]], ratio: float, flapping: Sick) -> bool:
    """Prints what was measured; whether it is as it must be."""
    for kind, tools in seen.items():
        for tool, each in tools.items():
            middle, last = each.percentile(50), each.percentile(99)
            print(
                f"{kind:<5}{tool:<7} {len(each.took):>5} calls  p50 {middle:6.1f} ms  p99 {last:7.1f} ms  {each.codes}"
            )
    well, ill = seen["well"], seen["ill"]
    of_flap = [tools["flap"] for tools in seen.values()]
    calls = sum(len(each.took) for each in of_flap)
    retried = (flapping.requests - calls + sum(each.codes.get("breaker_open", 0) for each in of_flap)) / calls
    whole = set(ill["steady"].codes) == set(well["steady"].codes) == {"done"}
    opened, recovered = ill["hang"].codes.get("breaker_open", 0) > 0, well["hang"].codes.get("done", 0) > 0
    print(f"steady tool: p99 {ratio:.2f}x of its own while all are well (at most {MOST_RATIO}x), all done: {whole}")
    print(f"flapping backend: {retried:.1%} of {calls} calls tried again (at most {MOST_RETRIED:.0%})")
    print(f"hanging backend: breaker opened: {opened}, recovered: {recovered}")
    return ratio <= MOST_RATIO and retried <= MOST_RETRIED and whole and opened and recovered


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="tg") as name, sick() as steady, sick() as flapping, sick() as hanging:
        folder = Path(name)
        specs = {
            "steady": spec("steady", steady),
            "flap": spec("flap", flapping, "idempotent: true", RETRIED),
            "hang": spec("hang", hanging, "timeout: 1s"),
        }
        for part in ("specs", "policies"):
            (folder / part).mkdir()
        for tool, text in specs.items():
            (folder / "specs" / f"{tool}.yaml").write_text(text)
        (folder / "policies" / "all.yaml").write_text(POLICY)
        with served(folder / "home", "--specs", str(folder / "specs"), "--policies", str(folder / "policies")) as up:
            good = shown(*asyncio.run(turns(up, flapping, hanging)), flapping)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
