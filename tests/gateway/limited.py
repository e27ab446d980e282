"""A lab with limits of settings, over a backend that takes its time and gives as much as it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from gateway.admission import Bounds, Budget
from gateway.model import Outcome, RawOutput
from gateway.ports import Runner
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.gateway.doors.session_lab import WHO
from tests.kit import DEV, ECHO, Lab

FREE = ECHO.replace("limits: {calls: 100/1m}\n", "").replace(
    "effects: [read]", "effects: [read]\ncost: {per_call: 0.5}"
)
OTHER = FREE.replace("name: echo", "name: other")
PERMIT = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: all-ok, effect: permit, match: {tools: [echo, other]}}
"""
MIB = 1 << 20


class Slow:
    """A backend that takes its time, by the clock of the lab, and gives as much as it is asked for."""

    def __init__(self, lab: Lab, seconds: float = 0.0, size: int = 2) -> None:
        self.lab, self.seconds, self.size = lab, seconds, size
        self.deadlines: list[float] = []

    async def run(self, work: Work) -> RawOutput:
        self.deadlines.append(work.deadline - self.lab.trial.clock.monotonic())
        await asyncio.sleep(0)
        self.lab.trial.clock.at += self.seconds
        return RawOutput("x" * self.size)


def lab_of(bounds: Bounds, seconds: float = 0.0, size: int = 2) -> tuple[Lab, Slow]:
    """A lab with these limits, that knows everybody of `WHO`."""
    lab = Lab.of({"echo.yaml": FREE, "other.yaml": OTHER}, {"lab.yaml": PERMIT}, bounds=bounds)
    lab.trial.authority.principals.update(WHO)
    lab.trial.authority.principals["sam"] = replace(DEV, user="sam")
    slow = Slow(lab, seconds, size)
    lab.gate = with_runner(lab, slow)
    return lab, slow


def with_runner(lab: Lab, runner: Runner) -> Any:
    """The lab's gate over another backend."""
    return replace(lab.gate, runners={HttpBackend: runner})


async def many(lab: Lab, number: int, by: str = "dev", tool: str = "echo", **more: Any) -> list[str]:
    """How as many calls at once end, each with arguments of its own."""
    calls = [lab.call(tool, {"text": str(n)}, by, **more) for n in range(number)]
    return [code_of(outcome) for outcome in await asyncio.gather(*calls)]


def code_of(outcome: Outcome) -> str:
    """Its code, or its status where it has none."""
    return outcome.problem.code if outcome.problem else outcome.status


def budget(over: Any = "session", within: float | None = None, **most: int) -> Bounds:
    """One budget, in the units that are counted."""
    return Bounds(budgets=(Budget(over, {name: amount for name, amount in most.items()}, within),))  # type: ignore[misc]  # names of dimensions
