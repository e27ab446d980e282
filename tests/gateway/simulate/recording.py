"""Calls recorded by a real pipeline on a real ledger, with the policies of then kept, to be simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.audit.ledger import open_ledger
from gateway.history import backfill
from gateway.home import Home
from gateway.kept import keep
from gateway.loading import Loaded, load_files
from gateway.model import Failure, Principal, RawOutput, Refusal, Request
from gateway.policy.cases import NOW
from gateway.problems import problem
from gateway.reliability.cells import Cells
from gateway.simulate.report import Group, Report
from gateway.simulate.run import simulate
from gateway.stores.counters import MemoryCounters
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.gateway.test_state_line import HEAD, SPECS, TOOL
from tests.kit import DEV, Lab

ANN = Principal("dev", "default", "ann", frozenset({"eng"}), frozenset({"agent"}))
LABELLED = TOOL.format(name="look").replace(
    "effects: [write]", "effects: [read]\nlabels: {output: [untrusted]}\ncost: {per_call: 2}"
)
ALONE = TOOL.format(name="alone").replace("concurrency: 1000", "concurrency: 1")
ALL = {**SPECS, "look.yaml": LABELLED, "alone.yaml": ALONE}


@dataclass(frozen=True)
class Made:
    """One call: of a tool, with an amount, `pause` seconds after the one before, by one of the callers."""

    tool: str
    amount: float = 1.0
    pause: float = 0.0
    by: str = "dev"
    session: str | None = None


class Told:
    """A runner that does what the amount says: 13 fails, 404 is never reached, 77 waits to be let go."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def run(self, work: Work) -> RawOutput:
        amount = work.arguments["amount"]
        if amount == 77:
            self.begun.set()
            await self.go.wait()
        if amount == 13:
            raise Failure(problem("upstream_error", "It broke."))
        if amount == 404:
            raise Refusal(problem("upstream_unreachable", "Nobody is there."))
        return RawOutput("ok")


def loaded(policy: str) -> Loaded:
    """A policy over the five tools."""
    return load_files({name: text.encode() for name, text in ALL.items()}, {"lab.yaml": (HEAD + policy).encode()})


class Recording:
    """A home folder with the calls made under one policy after the other."""

    def __init__(self, home: Path, begin: float = NOW) -> None:
        """`begin`: unix seconds of the first call."""
        self.home, self.begin = Home(home), begin
        self.home.make()
        self.ids: list[str] = []
        self.codes: list[str] = []
        self.lab: Lab | None = None

    async def under(self, policy: str, calls: Iterable[Made]) -> Recording:
        """Makes the calls, one by one, in a gateway that was started anew: its counters know nothing."""
        async with self.started(policy) as lab:
            for made in calls:
                await self.call(lab, made)
        return self

    @asynccontextmanager
    async def started(self, policy: str, *, remembers: bool = False) -> AsyncIterator[Lab]:
        """A gateway that was started anew, on the same home. `remembers`: its counters have the past of the ledger."""
        files = loaded(policy)
        lab, before = Lab.over(files), self.lab
        keep(self.home, files.bundle.digest, files.policies, files.catalogue.all())
        lab.trial.authority.principals.update(dev=DEV, ann=ANN)
        lab.trial.clock.at = self.begin
        if before is not None:
            lab.trial.clock.at = before.trial.clock.at
            lab.gate = replace(lab.gate, sessions=before.gate.sessions, ids=before.gate.ids)
        ledger = open_ledger(self.home.path, clock=lab.trial.clock.now)
        lab.gate = replace(
            lab.gate, ledger=ledger, runners={HttpBackend: Told()}, counters=(counters := MemoryCounters())
        )
        if remembers:
            past = Cells()
            backfill(self.home.path, files.bundle, past, lab.trial.clock.at)
            counters.adopt(past)
        self.lab = lab
        yield lab
        await ledger.close()

    async def call(self, lab: Lab, made: Made) -> str:
        """Makes a call; gives its code, or its status where it has none."""
        lab.trial.clock.at += made.pause
        place = len(self.ids)
        self.ids.append(call_id := lab.gate.new_call_id())
        self.codes.append("running")
        arguments: dict[str, Any] = {"amount": made.amount}
        outcome = await lab.gate.handle(Request(call_id, made.tool, arguments, made.by, made.session))
        self.codes[place] = outcome.problem.code if outcome.problem else outcome.status
        return self.codes[place]

    def simulated(self, policy: str, since: float = 0.0) -> Report:
        """What another policy makes of them."""
        files = loaded(policy)
        return simulate(self.home.path, files.bundle, files.catalogue.all(), since)

    def differ(self, policy: str, name: str) -> list[int]:
        """The places of the calls that another policy decides otherwise, in one way."""
        report = self.simulated(policy)
        assert report.found["drift"] == 0, list(report.lines())
        return [self.ids.index(str(change["call_id"])) for change in report.changes if change["class"] == name]


def only(groups: Sequence[Group]) -> Group:
    """The one there is."""
    (group,) = groups
    return group
