"""A session recorded by a real pipeline on a real ledger, and a replay of it, called through the pipeline or a door."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.audit.ledger import open_ledger
from gateway.home import Home
from gateway.ledger_ports import Whose
from gateway.loading import load_files
from gateway.model import Failure, Outcome, Principal, RawOutput, Request
from gateway.policy.cases import NOW
from gateway.problems import problem, refuse
from gateway.replay.opened import ReplayService, open_replay
from gateway.settings import load_settings
from gateway.stores.approvals import MemoryApprovals
from gateway.tool import HttpBackend, SandboxBackend
from gateway.upkeep import LedgerUpkeep
from gateway.work import Work
from tests.gateway.leaver import SPEC as WORK
from tests.kit import Lab

SAY = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: Says something.
input_schema:
  type: object
  properties:
    text: {{type: string}}
    loud: {{type: boolean, default: false}}
    list: {{type: array, items: {{type: integer}}}}
  required: [text]
effects: [read]
labels: {{output: [{labels}]}}
cost: {{per_call: 2}}
limits: {{{limits}}}
timeout: {timeout}
runner:
  http: {{method: POST, url: "https://say.example.com/", json: {{text: "{{text}}"}}}}
"""


def say(name: str, labels: str = "", limits: str = "concurrency: 1000", timeout: str = "30s") -> str:
    """The spec of a tool that says something."""
    return SAY.format(name=name, labels=labels, limits=limits, timeout=timeout)


SPECS = {
    "say.yaml": say("say"),
    "look.yaml": say("look", "untrusted"),
    "slow.yaml": say("slow", timeout="100ms"),
    "two.yaml": say("two", limits="calls: 2/10s"),
    "one.yaml": say("one", limits="concurrency: 1", timeout="100ms"),
    "work.yaml": WORK,
}
OPEN = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}}\n"
HEAD = "apiVersion: toolgate/v1\nkind: Policy\nid: lab\n"
_NUMBERS = itertools.count(1)
AGENT = frozenset({"agent"})
DEV, ANN = Principal("dev", "default", scopes=AGENT), Principal("ann", "default", scopes=AGENT)


@dataclass(frozen=True)
class Made:
    """One call: of a tool with a text, `pause` seconds after the one before, by one of the callers, under a key."""

    tool: str
    text: str = "hello"
    pause: float = 0.0
    by: str = "dev"
    session: str | None = None
    key: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"code" if self.tool == "work" else "text": self.text, **self.more}


class Upstream:
    """A runner that does what the text says, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.reached = asyncio.Event()

    async def run(self, work: Work) -> RawOutput:
        self.count += 1
        self.reached.set()
        text = str(work.arguments.get("text") or work.arguments.get("code"))
        if text == "break":
            raise Failure(problem("upstream_error", "It broke.", retry_after_ms=700, advice="Mend it."))
        if text == "unreached":
            raise refuse("upstream_unreachable", "Nobody is there.", advice="Look for it.")
        if text == "hang":
            await asyncio.sleep(3600)
        if text == "structured":
            return RawOutput("", {"n": self.count, "big": 2**70, "f": 1.0}, origin="say.example.com")
        if text == "error":
            return RawOutput("it says why", problem=problem("tool_error", "The tool said no."))
        if text == "files":
            return RawOutput("done", files={"out.csv": b"a,b\n1,2\n"}, guarantees=frozenset({"no-network"}))
        if text == "long":
            return RawOutput("word " * 40_000)
        if text == "mail":
            return RawOutput("write to ann@example.com, ann")
        return RawOutput(f"{text} {self.count}")


class Recording:
    """A home folder, the files that were in force, and what callers were answered."""

    def __init__(self, folder: Path, policy: str = OPEN, specs: Mapping[str, str] = SPECS) -> None:
        self.folder, self.home, self.at = folder, folder / "home", NOW
        self.specs, self.policy = specs, policy
        self.upstream = Upstream()
        self.approvals = MemoryApprovals()
        Home(self.home).make()

    async def erase(self, whose: Whose) -> None:
        """Deletes keys as an operator does."""
        ledger = open_ledger(self.home)
        await LedgerUpkeep(self.home, ledger).erase(whose, "it was asked for", {"agent": "operator"})
        await ledger.close()

    async def make(self, calls: Sequence[Made], *, at_once: bool = False) -> list[Outcome]:
        """Makes the calls in a gateway of their own; `at_once`: side by side."""
        files = {name: text.encode() for name, text in self.specs.items()}
        lab = Lab.over(load_files(files, {"lab.yaml": (HEAD + self.policy).encode()}))
        lab.trial.authority.principals.update(dev=DEV, ann=ANN)
        lab.trial.clock.at = self.at
        ledger = open_ledger(self.home, clock=lab.trial.clock.now)
        runners = {HttpBackend: self.upstream, SandboxBackend: self.upstream}
        gate = replace(lab.gate, ledger=ledger, runners=runners, approvals=self.approvals)

        async def call(made: Made) -> Outcome:
            lab.trial.clock.at += made.pause
            asked = Request(f"c_{next(_NUMBERS):032x}", made.tool, made.arguments, made.by, made.session, made.key)
            return await gate.handle(asked)

        done = list(await asyncio.gather(*map(call, calls))) if at_once else [await call(made) for made in calls]
        self.at = lab.trial.clock.at
        await ledger.close()
        return done

    @asynccontextmanager
    async def replayed(
        self, session: str = "default", *, agent: str | None = None, policy: str | None = None
    ) -> AsyncIterator[Replayed]:
        """A replay of a session, under the same files, or under another policy."""
        for name, text in {**{f"specs/{n}": t for n, t in self.specs.items()}, "policies/lab.yaml": HEAD}.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text if text != HEAD else HEAD + (policy or self.policy))
        folders = {"specs": str(self.folder / "specs"), "policies": str(self.folder / "policies")}
        settings = load_settings(None, {}, {"home": str(self.home), **folders})
        said: list[str] = []
        async with open_replay(settings, session, agent, said.append) as service:
            yield Replayed(service, said)


@dataclass
class Replayed:
    """A replay that is up, and what it said at its start."""

    service: ReplayService
    said: list[str]

    async def call(self, made: Made, key: str | None = None) -> Outcome:
        """One call through the pipeline."""
        gate = self.service.gate
        request = Request(
            gate.new_call_id(), made.tool, made.arguments, key or self.service.key, made.session, made.key
        )
        return await gate.handle(request)

    @property
    def report(self) -> dict[str, Any]:
        return dict(self.service.replay.report.to_json())


def answered(outcome: Outcome) -> tuple[object, ...]:
    """What a caller reads of an outcome, but for ids, places and times."""
    files = [(a.handle, a.name, a.size, a.media_type, a.labels) for a in outcome.artifacts]
    head = (outcome.tool, outcome.status, outcome.text, repr(outcome.structured), outcome.problem)
    usage = (outcome.usage.sandbox_ms, outcome.usage.bytes_out, outcome.usage.cost)
    return (*head, outcome.verdict, outcome.truncated, files, usage)
