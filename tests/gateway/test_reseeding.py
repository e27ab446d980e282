"""What a killed gateway left open of keys and budgets is settled by its own ledger when the next one starts."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.admission import Bounds, Budget, Claim
from gateway.audit import query
from gateway.audit.ledger import open_ledger
from gateway.audit.writer import Writer
from gateway.model import Failure, Outcome, Position, RawOutput
from gateway.ports import Line
from gateway.problems import problem, refuse
from gateway.reseeding import reseed
from gateway.settling import TOLD
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.kit import Lab

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: pay
version: 1.0.0
description: Pays.
input_schema: {type: object, properties: {amount: {type: integer}}, required: [amount]}
effects: [write]
runner:
  http: {method: POST, url: "https://pay.example.com/pay", json: {amount: "{amount}"}}
"""
FIND = SPEC.replace("name: pay", "name: find").replace("effects: [write]", "effects: [read]")
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: ok, effect: permit, match: {tools: ["*"]}%s}
"""
BOUNDS = Bounds(budgets=(Budget("tenant", {"calls": 1000}),))
ACCOUNT = "tenant\x1fdefault\x1fNone\x1f0"
LOST = 77  # the amount of the call in which the home is copied: what a kill at that moment would have left
Said = tuple[str, str | None, str]


@dataclass
class Till:
    """Pays; copies the home at one moment of the lost call."""

    home: Path
    copy: Path
    moment: str
    paid: list[object] = field(default_factory=list)

    def at(self, moment: str) -> None:
        """That moment, perhaps."""
        if moment == self.moment and not self.copy.exists():
            shutil.copytree(self.home, self.copy)

    async def run(self, work: Work) -> RawOutput:
        if work.tool.name == "find":
            return RawOutput("", {"found": True})
        amount = work.arguments["amount"]
        self.paid.append(amount)
        if amount == LOST:
            self.at("under way")
        if amount == 66:
            raise Failure(problem("tool_error", "No such account."))
        if amount == 55:
            raise refuse("upstream_unreachable", "Nobody is there.")
        return RawOutput(f"paid {amount}", {"amount": amount})


@dataclass
class Watched:
    """The ledger, and the moments of it."""

    ledger: Writer
    till: Till

    def check(self) -> None:
        self.ledger.check()

    async def append(self, line: Line) -> Position:
        if isinstance(line.content, Mapping) and line.content.get("arguments") == {"amount": LOST}:
            self.till.at("taken")
        return await self.ledger.append(line)

    def digest(self, tenant: str, value: bytes) -> str:
        return self.ledger.digest(tenant, value)

    def checkpoint(self) -> None:
        self.ledger.checkpoint()


class Counters(SqliteCounters):
    """The counters, and the moments of a claim that ends."""

    till: Till | None = None

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        if self.till is not None and str(LOST).encode() in kept:
            self.till.at("recorded")
        await super().close(claim, call_id, kept, session, tenant)
        if self.till is not None and str(LOST).encode() in kept:
            self.till.at("kept")


@dataclass
class Life:
    """One life of the gateway."""

    lab: Lab
    counters: Counters
    till: Till
    said: str | None

    async def pay(self, amount: int, key: str) -> Said:
        """Status, code and text of a payment."""
        outcome: Outcome = await self.lab.call("pay", {"amount": amount}, idempotency_key=key)
        return outcome.status, outcome.problem.code if outcome.problem else None, outcome.text

    async def used(self) -> int:
        """Calls that the tenant has used up."""
        return (await self.counters.used([ACCOUNT]))[ACCOUNT].get("calls", 0)


@asynccontextmanager
async def living(lab: Lab, till: Till, home: Path, behind: Callable[[], float] = lambda: 0.0) -> AsyncIterator[Life]:
    """A gateway over a home, which settles first what was left there. `behind`: seconds by which the machine's clock
    was put back since it began."""
    clock = lab.trial.clock

    def now() -> float:
        return clock.now() - behind()

    ledger = open_ledger(home, clock=now)
    counters = Counters(home / "limits.db", ledger.contents, steady=clock.steady, now=now)
    try:
        said = await reseed(home, counters, now())
        counters.till = till
        watched = Watched(ledger, till)
        runners = {HttpBackend: till}
        lab.gate = replace(lab.gate, ledger=watched, runners=runners, counters=counters, claims=counters, bounds=BOUNDS)
        yield Life(lab, counters, till, said)
    finally:
        await asyncio.to_thread(counters.shut)
        await ledger.close()


@dataclass
class Ended:
    """What the second life says of the keys of the first, and how much it has used up by then."""

    at_start: int
    answers: list[Said]
    paid: list[object]
    said: str | None
    again: str | None


async def killed(tmp_path: Path, moment: str, lose: Callable[[Path], None], record: str = "") -> Ended:
    """Three payments in a first life, then one that is lost; all of them asked for again in the second."""
    till = Till(tmp_path / "first", tmp_path / "home", moment)
    lab = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": POLICY % record})
    amounts = {"a": 5, "b": 66, "c": 55, "lost": LOST}
    async with living(lab, till, till.home) as first:
        for key, amount in amounts.items():
            await first.pay(amount, key)
    lose(till.copy)
    till.paid.clear()
    async with living(lab, till, till.copy) as second:
        at_start = await second.used()
        answers = [await second.pay(amount, key) for key, amount in amounts.items()]
    async with living(lab, till, till.copy) as third:
        return Ended(at_start, answers, till.paid, second.said, third.said)


def nothing(_: Path) -> None:
    """Everything is as the process left it."""


def limits(home: Path) -> None:
    """The file of limits is gone, as it may be after a loss of power."""
    for path in home.glob("limits.db*"):
        path.unlink()


KNOWN: list[Said] = [("done", None, "paid 5"), ("failed", "tool_error", "")]


@pytest.mark.parametrize(
    ("moment", "used", "lost", "ran"),
    [
        ("taken", 2, ("done", None, "paid 77"), [55, 77]),
        ("under way", 3, ("refused", "outcome_unknown", ""), [55]),
        ("recorded", 3, ("done", None, "paid 77"), [55]),
        ("kept", 3, ("done", None, "paid 77"), [55]),
    ],
)
def test_a_key_ends_as_the_ledger_says(tmp_path: Path, moment: str, used: int, lost: Said, ran: list[int]) -> None:
    """Not dispatched, it is free and nothing is spent; dispatched, nothing runs twice; what ended is told again."""
    ended = asyncio.run(killed(tmp_path, moment, nothing))
    assert ended.answers == [*KNOWN, ("refused", "upstream_unreachable", ""), lost]
    assert ended.paid == ran
    assert ended.at_start == used
    assert ended.again is None


@pytest.mark.parametrize(
    ("moment", "lost"),
    [("under way", ("refused", "outcome_unknown", "")), ("recorded", ("done", None, "paid 77"))],
)
def test_keys_that_only_the_ledger_knows_are_put_back(tmp_path: Path, moment: str, lost: Said) -> None:
    """Without the file of limits no key is free of which the record says that its call may have run."""
    ended = asyncio.run(killed(tmp_path, moment, limits))
    assert ended.answers == [*KNOWN, ("refused", "upstream_unreachable", ""), lost]
    assert ended.paid == [55]
    assert ended.said == "0 calls were under way at the end, 0 of them never ran; 3 keys are known again"


def test_an_outcome_that_is_not_on_record_is_in_doubt(tmp_path: Path) -> None:
    """A rule that records metadata only leaves nothing to be told again; the call is not made again either."""
    ended = asyncio.run(killed(tmp_path, "recorded", nothing, ", with: {record: metadata}"))
    assert ended.answers[-1] == ("refused", "outcome_unknown", "")
    assert ended.paid == [55]


def test_a_key_whose_time_is_over_stays_free(tmp_path: Path) -> None:
    """What the ledger says of the day before yesterday puts no key back."""

    async def go() -> Said:
        till = Till(tmp_path / "home", tmp_path / "none", "never")
        lab = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": POLICY % ""})
        async with living(lab, till, till.home) as first:
            await first.pay(5, "a")
        limits(till.home)
        lab.trial.clock.at += 24 * 3600.0 + 1.0
        async with living(lab, till, till.home) as second:
            assert second.said is None
            return await second.pay(6, "a")

    assert asyncio.run(go()) == ("done", None, "paid 6")


def test_a_clock_that_was_put_back_hides_no_call(tmp_path: Path) -> None:
    """Limits go by a clock that does not jump; the ledger's did, by two hours: what began is found there all the same,
    and is not made again."""

    async def go() -> tuple[str | None, Said]:
        till = Till(tmp_path / "first", tmp_path / "home", "under way")
        lab, back = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": POLICY % ""}), 0.0
        async with living(lab, till, till.home, lambda: back) as first:
            lab.trial.clock.at, back = lab.trial.clock.at + 3 * 3600.0, 2 * 3600.0
            await first.pay(LOST, "lost")
        lab.trial.clock.at -= back
        async with living(lab, till, till.copy) as second:
            return second.said, await second.pay(LOST, "lost")

    said, lost = asyncio.run(go())
    assert said == "1 calls were under way at the end, 0 of them never ran; 0 keys are known again"
    assert lost == ("refused", "outcome_unknown", "")


def test_what_the_backend_said_of_a_call_in_doubt_counts_from_then_on(tmp_path: Path) -> None:
    """Nobody is asked to settle it any more, and without the file of limits it is still known to be done."""

    async def go() -> list[Said]:
        till = Till(tmp_path / "first", tmp_path / "home", "under way")
        specs = {"pay.yaml": SPEC + "idempotency: {reconcile: find}\n", "find.yaml": FIND}
        lab = Lab.of(specs, {"lab.yaml": POLICY % ""})
        async with living(lab, till, till.home) as first:
            await first.pay(LOST, "lost")
        async with living(lab, till, till.copy) as second:
            assert len(query.in_doubt(till.copy)) == 1
            answers = [await second.pay(LOST, "lost")]
        assert query.in_doubt(till.copy) == []
        limits(till.copy)
        async with living(lab, till, till.copy) as third:
            answers.append(await third.pay(LOST, "lost"))
        assert till.paid == [LOST]
        return answers

    assert asyncio.run(go()) == [("done", None, ""), ("done", None, TOLD)]
