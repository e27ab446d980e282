"""Recordings under limits of settings: what they refuse is no decision of a policy, neither drift nor change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.admission import Bounds, Budget
from gateway.tool import Rate
from tests.gateway.simulate.recording import Made, Recording

OPEN = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}}\n"
RATED = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}, with: {limit: {calls: 6/10s, key: session}}}\n"
CAPPED = """
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: ok, effect: permit, match: {tools: ['*']}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid >= 5]}
"""
BOUNDS = {
    "rates": (Bounds(rates={"tenant": Rate(3, 10.0), "tool": Rate(2, 5.0)}), "rate_limited"),
    "calls": (Bounds(budgets=(Budget("principal", {"calls": 4}),)), "budget_exhausted"),
    "cost": (Bounds(budgets=(Budget("tenant", {"cost": 6_000_000}),)), "budget_exhausted"),
    "loops": (Bounds(repeats=3), "loop_detected"),
    "hurry": (Bounds(repeats=10), "rate_limited"),
}


async def made(home: Path, policy: str, bounds: Bounds, calls: list[Made]) -> Recording:
    """The calls, made under a policy in a gateway with these limits."""
    recording = Recording(home)
    async with recording.started(policy) as lab:
        lab.gate = replace(lab.gate, bounds=bounds)
        for call in calls:
            await recording.call(lab, call)
    return recording


@pytest.mark.parametrize("policy", [OPEN, RATED, CAPPED])
@pytest.mark.parametrize("name", BOUNDS)
def test_what_settings_refused_is_no_drift(tmp_path: Path, name: str, policy: str) -> None:
    """Under the policy of then nothing changes, and under another only what that decides otherwise."""
    bounds, code = BOUNDS[name]
    pause = 0.0 if name == "hurry" else 1.5
    calls = [Made(("pay", "look")[n // 8 % 2], 5.0, pause) for n in range(24)]
    recording = asyncio.run(made(tmp_path / "home", policy, bounds, calls))
    if policy is OPEN:
        assert code in recording.codes
    report = recording.simulated(policy)
    assert (report.found["drift"], report.changes) == (0, []), list(report.lines())
    closed = recording.simulated(OPEN + "- {id: no, effect: forbid, match: {tools: [look]}}\n")
    assert closed.found["drift"] == 0
    ran = {call for call, code in zip(recording.ids, recording.codes, strict=True) if code == "done"}
    looked = {str(each["call_id"]) for each in closed.changes if each["tool"] == "look"}
    assert ran.isdisjoint(set(recording.ids[8:16]) - looked)
