"""Declared state along the line of stages: caps that parallel calls cannot pass, refunds, and what is on record."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from gateway.admission import Ask, Taken
from gateway.aggregates import Cell, Entry, Level, Reservation
from gateway.model import Failure, Outcome, Position, RawOutput, Refusal, Request
from gateway.ports import Line
from gateway.problems import problem, refuse
from gateway.reliability.cells import Cells
from gateway.stages.admit import ROUNDS
from gateway.stages.record import Opened
from gateway.stores.counters import MemoryCounters
from gateway.stores.memory import MemoryLedger
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.kit import Lab, of_calls

TOOL = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: Pays.
input_schema:
  type: object
  properties:
    amount: {{type: number, default: 1}}
    pr: {{type: integer, default: 7}}
effects: [write]
limits: {{concurrency: 1000}}
timeout: 30s
runner:
  http: {{method: POST, url: "https://pay.example.com/{name}", json: {{amount: "{{amount}}"}}}}
"""
SPECS = {f"{name}.yaml": TOOL.format(name=name) for name in ("pay", "review", "merge")}
HEAD = "apiVersion: toolgate/v1\nkind: Policy\nid: lab\n"
COUNT_CAP = """
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay]}, when: [state.paid < 100]}
"""
SUM_CAP = """
state:
  paid: {sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay]}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid + args.amount > 10.0]}
"""
ONCE = COUNT_CAP.replace("< 100", "< 1")
REVIEWED = """
state:
  reviewed: {formerly: {tools: [review]}, same: args.pr, within: 1h}
rules:
- {id: review-ok, effect: permit, match: {tools: [review]}}
- {id: merge-ok, effect: permit, match: {tools: [merge]}, when: [state.reviewed]}
"""


@dataclass
class Doer:
    """A runner that does what it is told: gives a result, raises, or waits for `let_go`."""

    does: RawOutput | Exception | None = field(default_factory=lambda: RawOutput("ok"))
    runs: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, work: Work) -> RawOutput:
        self.runs += 1
        self.began.set()
        await asyncio.sleep(0)
        if self.does is None:
            await self.let_go.wait()
            return RawOutput("ok")
        if isinstance(self.does, Exception):
            raise self.does
        return self.does


class Slow(MemoryLedger):
    """A ledger that takes its time, and refuses or holds up lines of one type."""

    def __init__(self, refuses: str = "", holds: str = "") -> None:
        super().__init__()
        self.refuses, self.holds = refuses, holds
        self.held = asyncio.Event()

    async def append(self, line: Line) -> Position:
        await asyncio.sleep(0)
        if line.type == self.refuses:
            raise refuse("audit_unavailable", "The audit log cannot be written.")
        if line.type == self.holds:
            self.held.set()
            await asyncio.Event().wait()
        return await super().append(line)


class Stale(MemoryCounters):
    """Counters whose every second look, by chance, is what was seen before: as if the call had waited after it."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn, self._seen = random.Random(7), dict[str, Level]()

    async def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        fresh, before = await super().look(cells, now), dict(self._seen)
        self._seen.update(fresh)
        return {key: before.get(key, level) for key, level in fresh.items()} if self._drawn.random() < 0.5 else fresh


class Rival(MemoryCounters):
    """Counters where another call comes between every look and the taking after it, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left, self.looks = times, 0

    async def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        self.looks += 1
        return await super().look(cells, now)

    async def take(self, ask: Ask) -> Taken:
        if self.left and ask.reservation:
            self.left -= 1
            entries = tuple(Entry(cell) for cell, _ in ask.reservation.reads)
            self.cells.reserve(Reservation(f"rival {self.left}", ask.reservation.at, (), entries))
        return await super().take(ask)


def lab_of(policy: str, doer: Doer, counters: MemoryCounters | None = None, ledger: MemoryLedger | None = None) -> Lab:
    """A lab of three tools under one policy, all run by `doer`."""
    lab = Lab.of(SPECS, {"lab.yaml": HEAD + policy})
    gate = replace(lab.gate, runners={HttpBackend: doer}, ledger=ledger or MemoryLedger())
    lab.gate = replace(gate, counters=counters or MemoryCounters())
    return lab


def code(outcome: Outcome) -> str:
    """How a call came out, in a word."""
    return outcome.problem.code if outcome.problem else outcome.status


@pytest.mark.parametrize("counters", [MemoryCounters, Stale])
@pytest.mark.parametrize(
    ("policy", "amounts", "most"), [(COUNT_CAP, [1.0], 100), (SUM_CAP, [0.1], 100), (SUM_CAP, [2.5], 4)]
)
def test_five_hundred_calls_at_once_do_not_pass_a_cap(
    policy: str, amounts: list[float], most: int, counters: Callable[[], MemoryCounters]
) -> None:
    """Exactly as many run as the cap allows, in number or in sum, also when what they read is old by then."""
    doer = Doer()
    lab = lab_of(policy, doer, counters(), Slow())

    async def rush() -> list[str]:
        calls = [lab.call("pay", {"amount": amounts[n % len(amounts)]}) for n in range(500)]
        return [code(outcome) for outcome in await asyncio.gather(*calls)]

    said = asyncio.run(rush())
    assert said.count("done") == doer.runs == most
    assert set(said) <= {"done", "no_permit", "forbidden", "precondition_pending"}
    assert counters is Stale or "precondition_pending" not in said


def test_a_call_that_was_overtaken_is_decided_again() -> None:
    """On what is true by then: here the other call was the last that may."""
    doer, counters = Doer(), Rival(1)
    lab = lab_of(ONCE, doer, counters)
    assert code(asyncio.run(lab.call("pay", {}))) == "no_permit"
    assert (counters.looks, doer.runs) == (2, 0)
    assert counters._running == {}


def test_a_call_that_is_always_overtaken_may_come_again() -> None:
    """After so many rounds the answer is retryable, and nothing is held or reserved."""
    doer, counters = Doer(), Rival(ROUNDS)
    lab = lab_of(COUNT_CAP, doer, counters)
    outcome = asyncio.run(lab.call("pay", {}))
    assert outcome.problem is not None
    assert (outcome.status, code(outcome)) == ("refused", "precondition_pending")
    assert outcome.problem.retry_after_ms is not None
    assert (counters.looks, doer.runs) == (ROUNDS, 0)
    assert [counters._running, code(asyncio.run(lab.call("pay", {})))] == [{}, "done"]


def test_a_call_that_was_overtaken_once_goes_through() -> None:
    """One round more, one intent, one outcome."""
    doer, ledger = Doer(), MemoryLedger()
    lab = lab_of(COUNT_CAP, doer, Rival(1), ledger)
    assert code(asyncio.run(lab.call("pay", {}))) == "done"
    assert [line.type for line in of_calls(ledger.lines)] == ["call.intent", "call.outcome"]


def test_the_time_of_two_rounds_adds_up() -> None:
    """What the first decision took is not lost when there is a second."""
    opened = Opened(Request("c_1", "pay", {}, None), 0.0)
    time.sleep(0.01)
    opened.mark("decide")
    opened.mark("decide")
    assert opened.took["decide"] >= 10_000


NOT_DISPATCHED = [
    Refusal(problem("sandbox_unavailable", "No sandbox.")),
    Refusal(problem("upstream_unreachable", "Nobody is there.")),
]
MAY_HAVE_HAPPENED = [
    Failure(problem("upstream_error", "It broke.")),
    Failure(problem("timeout", "Too late.")),
    ZeroDivisionError("a fault of ours"),
    RawOutput("no", problem=problem("upstream_error", "It says no.")),
    RawOutput("ok"),
]


@pytest.mark.parametrize("does", NOT_DISPATCHED, ids=repr)
def test_what_was_never_dispatched_is_given_back(does: Exception) -> None:
    """The one call that the cap allows is still allowed."""
    doer = Doer(does)
    lab = lab_of(ONCE, doer)
    assert asyncio.run(lab.call("pay", {})).status == "refused"
    doer.does = RawOutput("ok")
    assert code(asyncio.run(lab.call("pay", {}))) == "done"


@pytest.mark.parametrize("does", MAY_HAVE_HAPPENED, ids=repr)
def test_what_may_have_happened_is_kept(does: RawOutput | Exception) -> None:
    """Whatever came of it, the one call that the cap allows was made."""
    doer = Doer(does)
    lab = lab_of(ONCE, doer)
    asyncio.run(lab.call("pay", {}))
    doer.does = RawOutput("ok")
    assert code(asyncio.run(lab.call("pay", {}))) == "no_permit"


@pytest.mark.parametrize(("refuses", "next_one"), [("call.intent", "done"), ("call.outcome", "no_permit")])
def test_a_line_that_cannot_be_written_gives_back_only_before_the_call(refuses: str, next_one: str) -> None:
    """Without an intent nothing ran; without an outcome it did."""
    ledger = Slow(refuses)
    lab = lab_of(ONCE, Doer(), None, ledger)
    assert code(asyncio.run(lab.call("pay", {}))) == "audit_unavailable"
    ledger.refuses = ""
    assert code(asyncio.run(lab.call("pay", {}))) == next_one


def test_too_many_values_are_refused_not_forgotten() -> None:
    """A call whose value would be one too many to keep apart waits; what was reviewed stays so."""
    lab = lab_of(REVIEWED, Doer(), MemoryCounters(Cells(most_values=1)))

    async def calls() -> list[str]:
        asked = [("review", 1), ("review", 2), ("review", 1), ("merge", 1), ("merge", 2)]
        return [code(await lab.call(tool, {"pr": number})) for tool, number in asked]

    assert asyncio.run(calls()) == ["done", "rate_limited", "done", "done", "no_permit"]


def test_a_refusal_by_a_rate_reserves_nothing() -> None:
    """Neither state nor a slot is held by a call that had to wait for its rate."""
    limited = ONCE.replace("[state.paid < 1]", "[state.paid < 3], with: {limit: {key: session, calls: 1/1m}}")
    lab = lab_of(limited, Doer())

    async def calls() -> list[str]:
        said = [code(await lab.call("pay", {})) for _ in range(5)]
        lab.trial.clock.at += 120.0
        return [*said, code(await lab.call("pay", {}))]

    assert asyncio.run(calls()) == ["done", *["rate_limited"] * 4, "done"]


@pytest.mark.parametrize(("place", "next_one"), [("intent", "done"), ("run", "no_permit")])
def test_a_caller_who_goes_away_gives_back_only_what_never_began(place: str, next_one: str) -> None:
    """Cancelled while its intent is written, a call never happens; cancelled while it runs, it may have."""
    doer, ledger = Doer(None), Slow(holds="call.intent" if place == "intent" else "")
    lab = lab_of(ONCE, doer, None, ledger)

    async def leave() -> str:
        task = asyncio.create_task(lab.call("pay", {}))
        await (ledger.held if place == "intent" else doer.began).wait()
        task.cancel()
        await asyncio.wait({task})
        ledger.holds, doer.does = "", RawOutput("ok")
        return code(await lab.call("pay", {}))

    assert asyncio.run(leave()) == next_one


def test_what_is_under_way_is_waited_for_what_was_not_done_is_not() -> None:
    """A merge before its review is denied; while the review runs it may come again; after it, it goes through."""
    doer = Doer(None)
    lab = lab_of(REVIEWED, doer)

    async def calls() -> list[str]:
        said = [code(await lab.call("merge", {"pr": 7}))]
        review = asyncio.create_task(lab.call("review", {"pr": 7}))
        await doer.began.wait()
        said += [code(await lab.call("merge", {"pr": pr})) for pr in (7, 8)]
        doer.let_go.set()
        await review
        said += [code(await lab.call("merge", {"pr": pr})) for pr in (7, 8)]
        doer.does = Failure(problem("upstream_error", "It broke."))
        await lab.call("review", {"pr": 8})
        return [*said, code(await lab.call("merge", {"pr": 8}))]

    wanted = ["no_permit", "precondition_pending", "no_permit", "done", "no_permit", "no_permit"]
    assert asyncio.run(calls()) == wanted


def lines_of(policy: str, *amounts: float) -> list[Line]:
    """What is on record of some payments, one after the other."""
    ledger = MemoryLedger()
    lab = lab_of(policy, Doer(), None, ledger)

    async def calls() -> None:
        for amount in amounts:
            await lab.call("pay", {"amount": amount})

    asyncio.run(calls())
    return of_calls(ledger.lines)


def test_a_record_says_what_was_read_and_what_was_reserved() -> None:
    """In its content, of an intent and of a refusal; what was refused reserved nothing."""
    first, _, second, _, refused = (line.content for line in lines_of(SUM_CAP, 9.9, 0.1, 1))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert isinstance(refused, dict)
    assert [first["reads"]["state.paid"]["value"], second["reads"]["state.paid"]["value"]] == [0.0, 9.9]
    assert [first["reads"]["state.paid"]["version"], second["reads"]["state.paid"]["version"] > 0] == [0, True]
    assert first["reserves"]["state.paid"]["amount"] == "9.9"
    assert first["reserves"]["state.paid"]["kind"] == "sum"
    assert first["reserves"]["state.paid"]["key"] == first["reads"]["state.paid"]["key"]
    assert refused["reads"]["state.paid"]["value"] == 10.0
    assert "reserves" not in refused


def test_never_is_null_on_record() -> None:
    """JSON knows no infinity."""
    cooling = SUM_CAP.replace(
        "{sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}", "{since: {tools: [pay]}, within: 1h}"
    )
    first, *_ = lines_of(cooling.replace("state.paid + args.amount > 10.0", "state.paid < 60.0"), 1)
    assert isinstance(first.content, dict)
    assert first.content["reads"]["state.paid"]["value"] is None


def test_what_counts_is_on_record_even_where_nothing_else_is() -> None:
    """A cap must hold after a restart, also for calls of which policy wants no content kept."""
    quiet = SUM_CAP.replace("match: {tools: [pay]}}", "match: {tools: [pay]}, with: {record: metadata}}")
    intent, outcome, *_ = lines_of(quiet, 5)
    assert isinstance(intent.content, dict)
    assert intent.content.keys() == {"reserves"}
    assert intent.content["reserves"]["state.paid"]["amount"] == "5.0"
    assert outcome.content is None


def test_an_ordinary_call_has_nothing_of_state_on_record() -> None:
    """And with no content wanted, none at all."""
    plain = "rules:\n- {id: pay-ok, effect: permit, match: {tools: [pay]}}\n"
    intent, _ = lines_of(plain, 5)
    assert isinstance(intent.content, dict)
    assert intent.content.keys() == {"arguments", "seed", "reasons"}
    assert isinstance(intent.fields["decision"], dict)
    assert "shadow" not in intent.fields["decision"]
    quiet, _ = lines_of(plain.replace("}}", "}, with: {record: metadata}}"), 5)
    assert quiet.content is None


def test_the_decision_in_shadow_stands_beside_the_one_that_counts() -> None:
    """Whole in plain, its reasons in the content; and the call went through."""
    intent, outcome = lines_of(SUM_CAP.replace("effect: forbid", "effect: forbid, mode: shadow"), 11)
    assert outcome.type == "call.outcome"
    decision, content = intent.fields["decision"], intent.content
    assert isinstance(decision, dict)
    assert isinstance(content, dict)
    assert (decision["effect"], decision["shadow"]["effect"]) == ("permit", "forbid")
    assert (decision["shadow"]["code"], decision["shadow"]["rules"]) == ("forbidden", ["cap"])
    assert decision["shadow"]["bundle_digest"] == decision["bundle_digest"]
    assert "obligations" in decision["shadow"]
    assert "cap" in [reason["rule"] for reason in content["shadow_reasons"]]
