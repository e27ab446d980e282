"""Calls of one moment, calls in doubt and calls under way: what became of them as the record, or an operator, says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.writer import Writer
from gateway.model import Position
from gateway.ports import Ledger, Line
from gateway.tool import HttpBackend
from gateway.upkeep import LedgerUpkeep
from tests.gateway.simulate.recording import Made, Recording, Told

OPEN = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}}\n"
CAPPED = """
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: ok, effect: permit, match: {tools: ['*']}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid >= 3]}
"""
NO_WAR = "- {id: small, effect: forbid, match: {tools: [pay]}, when: [args.amount > 50.0]}\n"


class Holding:
    """The ledger, but lines of one type wait until they are let go, or are never written."""

    def __init__(self, ledger: Ledger, type_: str) -> None:
        self._ledger, self._type = ledger, type_
        self.check, self.digest = ledger.check, ledger.digest
        self.held, self.go = asyncio.Event(), asyncio.Event()

    async def append(self, line: Line) -> Position:
        if line.type == self._type:
            self.held.set()
            await self.go.wait()
        return await self._ledger.append(line)


REVIEWED = """
state:
  reviewed: {formerly: {tools: [review]}, within: 1h, over: user}
rules:
- {id: ok, effect: permit, match: {tools: [review, look]}}
- {id: paid, effect: permit, match: {tools: [pay]}, when: [state.reviewed]}
"""


def test_what_happened_at_once_is_taken_as_the_record_says_it_was_seen(tmp_path: Path) -> None:
    """A refusal that came on record after what would have made it a permit, as calls of one moment may: no drift."""

    async def test() -> Recording:
        made = Recording(tmp_path / "home")
        async with made.started(REVIEWED) as lab:
            holding = Holding(lab.gate.ledger, "call.refused")
            lab.gate = replace(lab.gate, ledger=holding)
            early = asyncio.create_task(made.call(lab, Made("pay")))
            await holding.held.wait()
            await made.call(lab, Made("review"))
            holding.go.set()
            await early
            await made.call(lab, Made("pay", pause=1))
        return made

    made = asyncio.run(test())
    assert made.codes == ["no_permit", "done", "done"]
    report = made.simulated(REVIEWED)
    assert (report.found["drift"], report.same) == (0, 3)
    assert made.differ(
        REVIEWED.replace("[state.reviewed]", "[state.reviewed, args.amount < 1.0]"), "newly-forbidden"
    ) == [2]
    assert made.differ(OPEN, "newly-permitted") == [0]


def test_slots_are_those_of_the_calls_under_way(tmp_path: Path) -> None:
    """Of a tool that runs one call at a time: who had no slot has one where the call that had it does not happen.

    And a call that was forbidden is not permitted anew while another one has the slot.
    """

    async def test() -> Recording:
        made = Recording(tmp_path / "home")
        async with made.started(OPEN + NO_WAR.replace("pay", "alone").replace("50.0", "90.0")) as lab:
            told = lab.gate.runners[HttpBackend]
            assert isinstance(told, Told)
            first = asyncio.create_task(made.call(lab, Made("alone", 77)))
            await told.begun.wait()
            await made.call(lab, Made("alone", 60))
            await made.call(lab, Made("alone", 91))
            told.go.set()
            await first
            await made.call(lab, Made("alone", 92))
        return made

    made = asyncio.run(test())
    assert made.codes == ["done", "concurrency_limited", "forbidden", "forbidden"]
    before = NO_WAR.replace("pay", "alone").replace("50.0", "90.0")
    assert made.simulated(OPEN + before).same == 4
    assert made.differ(OPEN, "newly-permitted") == [3]
    exactly = OPEN + before.replace("> 90.0", "== 77.0")
    assert made.differ(exactly, "newly-forbidden") == [0]
    assert made.differ(exactly, "newly-permitted") == [1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "doubtful", "after", "ended", "finally_"),
    [
        (CAPPED.replace(">= 3", ">= 1"), "pay", "forbidden", "not-done", "done"),
        (CAPPED.replace(">= 3", ">= 1"), "pay", "forbidden", "done", "forbidden"),
        (REVIEWED, "review", "no_permit", "done", "done"),
        (REVIEWED, "review", "no_permit", "not-done", "no_permit"),
    ],
)
def test_what_an_operator_says_of_a_call_in_doubt_counts(
    tmp_path: Path, policy: str, doubtful: str, after: str, ended: Any, finally_: str
) -> None:
    """It gives back what was not done, and what was done is done; until then it may have been."""

    async def test() -> Recording:
        made = Recording(tmp_path / "home")
        async with made.started(policy) as lab:
            lab.gate = replace(lab.gate, ledger=(holding := Holding(lab.gate.ledger, "call.outcome")))
            lost = asyncio.create_task(made.call(lab, Made(doubtful)))
            await holding.held.wait()
        async with made.started(policy, remembers=True) as lab:
            await made.call(lab, Made("pay", pause=1))
            writer = lab.gate.ledger
            assert isinstance(writer, Writer)
            await LedgerUpkeep(made.home.path, writer).resolve(made.ids[0], ended, "seen", {"by": "local"})
        async with made.started(policy, remembers=True) as lab:
            await made.call(lab, Made("pay", pause=1))
        holding.go.set()
        await lost
        return made

    made = asyncio.run(test())
    assert made.codes[1:] == [after, finally_]
    report = made.simulated(policy)
    assert (report.found["drift"], report.same, report.changes) == (0, 3, [])
