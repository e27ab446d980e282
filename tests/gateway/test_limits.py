"""Limits of settings along the whole line: each owner and each dimension, exact also when calls come at once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.admission import Bounds, Budget, Dimension
from gateway.bounds import BudgetShape, merged
from gateway.lifetimes import Opening
from gateway.model import Outcome, Principal, RawOutput
from gateway.runners.sandboxed import SandboxRunner
from gateway.settings import BadSettings, load_settings
from gateway.tool import Rate, SandboxBackend
from gateway.work import Calls, NestedRefusal, Work
from sandboxes.model import Exit, Job, Usage
from tests.gateway.coder import playing
from tests.gateway.doors.session_lab import records
from tests.gateway.limited import FREE, MIB, OTHER, PERMIT, Slow, budget, code_of, lab_of, many, with_runner
from tests.kit import DEV, Lab

# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("over", ["session", "principal", "tenant", "tool", "all"])
def test_a_rate_of_settings_is_exact_at_once(over: str) -> None:
    """Of ten times as many calls at once as there may be, exactly those are made."""
    lab, slow = lab_of(Bounds(rates={over: Rate(12, 60.0)}))
    assert Counter(asyncio.run(many(lab, 120))) == {"done": 12, "rate_limited": 108}
    assert len(slow.deadlines) == 12


@pytest.mark.parametrize(
    ("over", "shared", "apart"),
    [
        ("session", [("dev", "echo", "a"), ("dev", "other", "a")], [("dev", "echo", "b"), ("ann", "echo", "a")]),
        ("principal", [("dev", "echo", "a"), ("dev", "other", "b")], [("ann", "echo", "a"), ("bot", "echo", "a")]),
        ("tenant", [("dev", "echo", "a"), ("bot", "other", "b")], [("stranger", "echo", "a")]),
        ("tool", [("dev", "echo", "a"), ("dev", "echo", "b")], [("dev", "other", "a"), ("ann", "echo", "a")]),
        ("all", [("dev", "echo", "a"), ("stranger", "other", "b")], []),
    ],
)
def test_whose_rate_it_is(over: str, shared: list[Any], apart: list[Any]) -> None:
    """Who shares a rate uses it up for each other; everybody else has it whole."""

    async def test() -> None:
        lab, _ = lab_of(Bounds(rates={over: Rate(2, 60.0)}))
        for by, tool, session in shared:
            assert await many(lab, 1, by, tool, session=session) == ["done"]
        for by, tool, session in shared:
            assert await many(lab, 1, by, tool, session=session) == ["rate_limited"]
        for by, tool, session in apart:
            assert await many(lab, 2, by, tool, session=session) == ["done", "done"]

    asyncio.run(test())


def test_names_do_not_run_into_each_other() -> None:
    """A person who is called as an agent is, and an agent without one, have rates of their own in a rule."""
    policy = PERMIT.replace("tools: [echo, other]}}", "tools: [echo, other]}, with: {limit: {key: user, calls: 1/1m}}}")
    lab = Lab.of({"echo.yaml": FREE, "other.yaml": OTHER}, {"lab.yaml": policy})
    lab.trial.authority.principals["alone"] = Principal("sam", "default", scopes=frozenset({"agent"}))
    lab.trial.authority.principals["sam"] = replace(DEV, user="sam")
    assert [asyncio.run(many(lab, 2, by)) for by in ("alone", "sam")] == [["done", "rate_limited"]] * 2


def test_nested_calls_spend_rates_and_no_bulkhead() -> None:
    """What code calls counts in every rate; a slot of the tool it does not take, so that it cannot wait for itself."""

    async def play(work: Work, calls: Calls) -> object:
        return [await told(calls, n) for n in range(3)]

    async def told(calls: Calls, n: int) -> str:
        try:
            await calls.call("look", b'{"what": "%d"}' % n)
        except NestedRefusal as refused:
            return str(refused)
        return "ok"

    lab = playing(play)
    lab.gate = replace(lab.gate, bounds=Bounds(rates={"principal": Rate(3, 60.0)}, bulkhead=1))
    outcome = asyncio.run(lab.call("coder", {"code": "played"}))
    said: Any = outcome.structured
    assert said["result"][:2] == ["ok", "ok"]
    assert "rate_limited" in said["result"][2]


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("over", ["session", "principal", "tenant"])
@pytest.mark.parametrize(("most", "made"), [({"calls": 9}, 9), ({"cost": 4_500_000}, 9)])
def test_a_budget_is_exact_at_once(over: str, most: dict[str, int], made: int) -> None:
    """Calls and cost: of ten times as many at once exactly those are made that it is for, and all is used."""
    lab, slow = lab_of(budget(over, **most))
    assert Counter(asyncio.run(many(lab, 10 * made))) == {"done": made, "budget_exhausted": 9 * made}
    assert len(slow.deadlines) == made


def test_time_is_halted_at_once() -> None:
    """Ninety calls at once over 50 s of a tool that may take 30: one gets 30, one the 20 that are left, nobody more."""
    lab, slow = lab_of(budget(wall=50_000))
    assert Counter(asyncio.run(many(lab, 90))) == {"done": 2, "budget_exhausted": 88}
    assert slow.deadlines == [30.0, 20.0]


def test_time_counts_as_it_was_used() -> None:
    """Calls of 4 s one after the other: what is not used comes back, and the last has what is left of 10 s."""
    lab, slow = lab_of(budget(wall=10_000), seconds=4.0)

    async def test() -> list[str]:
        return [code_of(await lab.call("echo", {"text": str(n)})) for n in range(4)]

    assert asyncio.run(test()) == ["done", "done", "done", "budget_exhausted"]
    assert slow.deadlines == [10.0, 6.0, 2.0]


def test_bytes_are_cut_where_the_budget_ends() -> None:
    """A result is cut at what is left, and says so; the next call is refused, and what was given is what is used."""
    lab, _ = lab_of(budget(bytes=2500), size=1000)

    async def test() -> list[Outcome]:
        return [await lab.call("echo", {"text": str(n)}) for n in range(4)]

    first, second, third, last = asyncio.run(test())
    assert [len(each.text) for each in (first, second, third)] == [1000, 1000, 500]
    assert [each.truncated for each in (first, second, third)] == [False, False, True]
    assert third.notes == ("The result was cut at the 500 bytes that were left of a budget.",)
    assert code_of(last) == "budget_exhausted"


def test_bytes_at_once_are_never_more() -> None:
    """Sixty calls at once that could give all of it each: together they give no more than the budget."""
    lab, _ = lab_of(budget(bytes=MIB), size=100_000)

    async def test() -> int:
        outcomes = await asyncio.gather(*(lab.call("echo", {"text": str(n)}) for n in range(60)))
        return sum(len(each.text) for each in outcomes)

    assert 0 < asyncio.run(test()) <= MIB


@pytest.mark.parametrize(("left", "made"), [(30.0, 3), (float("inf"), 6)])
def test_sandbox_seconds_count_once(left: float, made: int) -> None:
    """A call of code and those it makes draw the time of the outermost sandbox, and no more."""

    async def play(work: Work, calls: Calls) -> object:
        if not work.depth:
            await calls.call("coder", b'{"code": "inner"}')
        return "ok"

    lab = playing(play)
    seen: list[float] = []
    inner = lab.gate.runners[SandboxBackend]

    class Timed:
        async def run(self, work: Work) -> RawOutput:
            seen.append(work.deadline)
            return replace(await inner.run(work), sandbox_ms=10_000.0)

    most: dict[Dimension, int] = {} if left == float("inf") else {"sandbox": round(left * 1000)}
    bounds = Bounds(budgets=(Budget("principal", most),))
    lab.gate = replace(lab.gate, bounds=bounds, runners={**lab.gate.runners, SandboxBackend: Timed()})

    async def test() -> list[str]:
        return [code_of(await lab.call("coder", {"code": str(n)})) for n in range(6)]

    assert Counter(asyncio.run(test()))["done"] == made
    assert len(seen) == 2 * made  # each with one call below it


@pytest.mark.parametrize("said", [Exit("crashed", usage=Usage(sandbox_ms=9_000.0)), None])
def test_code_that_breaks_its_sandbox_has_used_it(said: Exit | None) -> None:
    """A sandbox that broke down, or that had to be given up on, ran until then: its seconds are spent, and its call."""
    lab = playing(nothing)
    clock = lab.trial.clock

    class Broken:
        guarantees: frozenset[str] = frozenset()

        async def run(self, job: Job, on_call: object = None) -> Exit:
            clock.at += 9.0
            if said is None:
                raise TimeoutError
            return said

    runner = SandboxRunner({"wasm-python": Broken()})  # type: ignore[dict-item]  # as much of one as a runner asks
    most: dict[Dimension, int] = {"calls": 5, "sandbox": 18_000}
    bounds = Bounds(budgets=(Budget("principal", most),))
    lab.gate = replace(lab.gate, bounds=bounds, runners={**lab.gate.runners, SandboxBackend: runner})

    async def test() -> list[str]:
        return [code_of(await lab.call("coder", {"code": str(n)})) for n in range(3)]

    failed = "upstream_error" if said else "timeout"
    assert asyncio.run(test()) == [failed, failed, "budget_exhausted"]


async def nothing(work: Work, calls: Calls) -> object:
    """Code that does nothing."""
    return None


def test_what_costs_less_than_a_millionth_counts() -> None:
    """As a millionth, so that however many calls are never for nothing."""
    cheap = FREE.replace("per_call: 0.5", "per_call: 0.0000001")
    lab = Lab.of({"echo.yaml": cheap}, {"lab.yaml": PERMIT.replace(", other", "")}, bounds=budget(cost=3))
    lab.gate = with_runner(lab, Slow(lab))
    assert Counter(asyncio.run(many(lab, 9))) == {"done": 3, "budget_exhausted": 6}


def test_tokens_that_are_reported_end_the_session() -> None:
    """They count when they are reported; what is over the mark refuses the next call, in words that say why."""
    lab, _ = lab_of(budget(tokens=1000))

    async def test() -> tuple[str, Outcome]:
        caller = await lab.gate.authenticate("dev", None)
        before = code_of(await lab.call("echo", {"text": "1"}))
        await lab.gate.report_tokens(caller.principal, caller.session, 900)
        assert code_of(await lab.call("echo", {"text": "2"})) == "done"
        await lab.gate.report_tokens(caller.principal, caller.session, 900)
        return before, await lab.call("echo", {"text": "3"})

    before, refused = asyncio.run(test())
    assert (before, code_of(refused)) == ("done", "budget_exhausted")
    assert refused.problem is not None
    assert "this session is used up: it is for 1000 tokens, 1800 are spent" in refused.problem.detail
    assert "Repeating the call does not help." in refused.problem.detail
    assert [line.fields["tokens"] for line in records(lab, "session.usage")] == [900, 900]
    assert [line.fields["dimension"] for line in records(lab, "budget.warned")] == ["tokens"]


def test_sessions_of_one_tree_share_what_settings_give_each() -> None:
    """A session and one below it draw on one account: opening more sessions gives no more."""
    lab, _ = lab_of(budget(calls=3))

    async def test() -> list[str]:
        above = await lab.gate.open_session(DEV, Opening())
        below = await lab.gate.open_session(DEV, Opening(parent=above.id))
        order = [above.id, below.id, above.id, below.id, above.id]
        return [code_of(await lab.call("echo", {"text": str(n)}, session=name)) for n, name in enumerate(order)]

    assert asyncio.run(test()) == ["done"] * 3 + ["budget_exhausted"] * 2


def test_a_window_ends() -> None:
    """What was used in one hour is not in the next, which begins at a multiple of it; and that is said."""
    lab, _ = lab_of(budget("principal", within=3600.0, calls=1))

    async def test() -> tuple[list[str], Outcome]:
        first = await lab.call("echo", {"text": "1"})
        refused = await lab.call("echo", {"text": "2"})
        lab.trial.clock.at += 3600.0
        return [code_of(first), code_of(await lab.call("echo", {"text": "3"}))], refused

    made, refused = asyncio.run(test())
    assert made == ["done", "done"]
    assert refused.problem is not None
    assert "of this principal is used up: it is for 1 calls in each 1 h, 1 are" in refused.problem.detail


def test_budgets_of_one_owner_and_window_are_one() -> None:
    """Settings may say them apart: what is used counts once, and the least of each holds."""
    said = [
        BudgetShape.model_validate(each)
        for each in (
            {"over": "tenant", "calls": 10, "cost": 2},
            {"over": "tenant", "calls": 6},
            {"over": "tenant", "within": "24h", "calls": 4},
        )
    ]
    found = merged([each.budget for each in said])
    assert found == (Budget("tenant", {"calls": 6, "cost": 2_000_000}), Budget("tenant", {"calls": 4}, 86400.0))
    lab, _ = lab_of(Bounds(budgets=found[:1]))
    assert Counter(asyncio.run(many(lab, 30))) == {"done": 4, "budget_exhausted": 26}  # four cost 2


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("budgets: [{over: tenant, within: 24h}]", "limits.budgets.0: a budget says how much of what: calls"),
        ("rates: {tools: 60/1m}", "limits.rates.tools: input should be 'session'"),
    ],
)
def test_limits_that_bound_nothing_are_refused(tmp_path: Path, limits: str, said: str) -> None:
    """A budget of nothing, a rate over nobody: with the sentence that says what would be right."""
    (tmp_path / "toolgate.yaml").write_text(f"limits:\n  {limits}\n")
    with pytest.raises(BadSettings, match=re.escape(said)):
        load_settings(tmp_path / "toolgate.yaml", {}, {})


# ── warnings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_budget_is_told_of_once_when_four_fifths_are_gone() -> None:
    """In the answer to the call that brings it there, and in one record, once; a window has its own."""
    lab, _ = lab_of(budget("tenant", within=60.0, calls=10))

    async def test() -> list[Outcome]:
        first = [await lab.call("echo", {"text": str(n)}) for n in range(10)]
        lab.trial.clock.at += 60.0
        return first + [await lab.call("echo", {"text": str(n)}) for n in range(10)]

    outcomes = asyncio.run(test())
    assert [number for number, each in enumerate(outcomes) if each.notes] == [7, 17]
    said = "The budget of this tenant is nearly used up: 8 of 10 calls in each 1 min."
    assert outcomes[7].notes == (f"{said} When it is, calls are refused.",)
    lines = records(lab, "budget.warned")
    assert [(line.fields["over"], line.fields["used"], line.fields["most"]) for line in lines] == [
        ("tenant", 8, 10)
    ] * 2
    assert [line.fields["call_id"] for line in lines] == [outcomes[7].call_id, outcomes[17].call_id]


def test_time_that_is_only_reserved_is_not_told_of() -> None:
    """A call may take 30 s of 35, and takes 1: nothing is nearly used up until it really is."""
    lab, _ = lab_of(budget(wall=35_000), seconds=1.0)

    async def test() -> list[bool]:
        return [bool((await lab.call("echo", {"text": str(n)})).notes) for n in range(35)]

    noted = asyncio.run(test())
    assert noted.index(True) == 27  # the 28th second of 35
    assert sum(noted) == 1
