"""`python -m prove.reload [CALLS]`: a policy folder that is written to all the time, and calls decided meanwhile.

About every 50 ms a thread changes the folder as no careful operator would: whole files by renaming, files written in
place in pieces (cut at random bytes), files that are wrong. Some of the cut ones would load, without the rule that
forbids. A gateway in memory watches the folder, is asked every 50 ms to load it, and decides calls; every decision is
held against what the two files it names by digest say, in Python of our own. Exit 1 when one is wrong, or names files
that never stood whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.home import Home
from gateway.live import Live
from gateway.loading import load_files
from gateway.model import Outcome, RawOutput, Request
from gateway.pipeline import Gate
from gateway.policy.bundle import load_bundle
from gateway.specs.yaml import SpecErrors
from gateway.tool import HttpBackend, Tool
from gateway.work import Work
from tests.kit import Lab

SETTLE = 0.02  # seconds between two looks of the gateway
PACE = 0.03  # seconds between two changes, the time they take not counted
ASKED = 0.05  # seconds between two requests to load at once
KINDS = 8  # versions of each of the two files; calls differ in a number below it
HIDDEN = 0  # the version of the first file that shows the tool to nobody
AT_ONCE = 24  # calls

TOOL = """
apiVersion: toolgate/v1
kind: Tool
name: ask
version: 1.0.0
description: Answers a number.
input_schema: {type: object, properties: {n: {type: integer, minimum: 0, maximum: 7}}, required: [n]}
effects: [read]
runner: {http: {method: GET, url: "https://numbers.example.com/{n}"}}
"""
PERMITS = """apiVersion: toolgate/v1
kind: Policy
id: prove.permits
rules:
- id: some
  effect: permit
  match: {{tools: [ask], agents: [{agent}]}}
  when: ["args.n == {i} || args.n == {also}"]
tests:
- {{name: one, as: {{agent: {agent}}}, call: {{ask: {{n: {also}}}}}, expect: {{permit: some}}}}
"""
FORBIDS = """apiVersion: toolgate/v1
kind: Policy
id: prove.forbids
rules:
- {{id: nobody-{j}, effect: permit, match: {{tools: [ask], agents: [nobody]}}}}
- id: never
  effect: forbid
  match: {{tools: [ask]}}
  when: ["args.n == {j}"]
  message: Not {j}.
"""
WRONG = (
    FORBIDS.replace("effect: forbid", "effect: allow"),
    FORBIDS.replace("args.n", "args.m"),
    FORBIDS.replace("never", "some"),
    FORBIDS + "tests:\n- {{name: fails, as: {{agent: nobody}}, call: {{ask: {{n: {j}}}}}, expect: {{permit: some}}}}\n",
    FORBIDS + "when: now\n",
    "\x00" + FORBIDS,
)


def permits(i: int) -> bytes:
    """The first file: two numbers are permitted, to an agent that exists in all versions but one."""
    agent = "nobody" if i == HIDDEN else "dev"
    return PERMITS.format(i=i, also=(i + 3) % KINDS, agent=agent).encode()


def forbids(j: int) -> bytes:
    """The second file: one number is forbidden; the rule that says so stands last."""
    return FORBIDS.format(j=j).encode()


def says(i: int, j: int, n: int) -> tuple[str, str | None]:
    """Effect and code of a call under these two files, by no engine."""
    if n == j:
        return "forbid", "forbidden"
    return ("permit", None) if n in (i, (i + 3) % KINDS) else ("forbid", "no_permit")


def digest_of(*parts: tuple[str, bytes]) -> str:
    """A bundle's digest as it is documented: SHA-256 over the sorted parts, each by its id and that of its bytes."""
    lines = (f"{name} {hashlib.sha256(raw).hexdigest()}\n" for name, raw in sorted(parts))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


GOOD = {
    digest_of(("prove.permits", permits(i)), ("prove.forbids", forbids(j))): (i, j)
    for i in range(KINDS)
    for j in range(KINDS)
}


@dataclass
class Writer:
    """Changes the folder until told to stop. Cut at one of `whole`, the second file still is a policy.

    `stood` counts those that stood longer than they should have, by the digest of the bundle that they make.
    """

    folder: Path
    rng: random.Random
    whole: Sequence[int]
    stop: threading.Event = field(default_factory=threading.Event)
    did: Counter[str] = field(default_factory=Counter)
    stood: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """One change after another."""
        while not self.stop.wait(PACE):
            self._change()
        self.rename("permits.yaml", permits(1))
        self.rename("forbids.yaml", forbids(2))

    def _change(self) -> None:
        kind = self.rng.choice(("renamed", "renamed", "renamed", "renamed", "cut", "cut", "wrong"))
        self.did[kind] += 1
        j = self.rng.randrange(KINDS)
        if kind == "cut":
            self._cut(forbids(j))
        elif kind == "wrong":
            self.rename("forbids.yaml", self.rng.choice(WRONG).format(j=j).encode())
        elif self.rng.random() < 0.5:
            self.rename(
                "permits.yaml",
                permits(self.rng.randrange(KINDS) if self.rng.random() < 0.5 else self.rng.randrange(1, KINDS)),
            )
        else:
            self.rename("forbids.yaml", forbids(j))

    def rename(self, name: str, raw: bytes) -> None:
        """A whole file in place of another."""
        fresh = self.folder / f".{name}.new"
        fresh.write_bytes(raw)
        fresh.replace(self.folder / name)

    def _cut(self, raw: bytes) -> None:
        """Writes in place, in pieces. A piece that is no policy may stand for long; one that is, only for a moment."""
        first = (self.folder / "permits.yaml").read_bytes()
        cuts = sorted({*self.rng.sample(range(1, len(raw.rstrip())), 2), self.rng.choice(self.whole)})
        with (self.folder / "forbids.yaml").open("wb", buffering=0) as file:
            begun = 0
            for cut in cuts:
                since = time.monotonic()
                file.write(raw[begun:cut])
                begun = cut
                time.sleep(SETTLE / 4 if cut in self.whole else self.rng.choice((0, SETTLE / 4, SETTLE * 2.5)))
                if cut in self.whole:
                    self.did["cut, and would load"] += 1
                    self._watch_out(since, digest_of(("prove.permits", first), ("prove.forbids", raw[:cut])))
            since = time.monotonic()
            file.write(raw[begun:])
            self._watch_out(since, digest_of(("prove.permits", first), ("prove.forbids", raw[:begun])))

    def _watch_out(self, since: float, digest: str) -> None:
        """Where this machine was so busy that a piece stood for as long as a file does, it was one."""
        if time.monotonic() - since > SETTLE * 0.7:
            self.stood[digest] += 1


def _whole_cuts() -> list[int]:
    """Where the second file can be cut so that it still is a policy."""
    tools = load_files({"ask.yaml": TOOL.encode()}, {"p.yaml": permits(1)}).catalogue.all()
    raw = forbids(1)
    return [cut for cut in range(1, len(raw.rstrip())) if _loads(raw[:cut], tools)]


def _loads(raw: bytes, tools: Sequence[Tool]) -> bool:
    try:
        load_bundle({"permits.yaml": permits(1), "forbids.yaml": raw}, tools)
    except SpecErrors:
        return False
    return True


class Answers:
    """A runner that takes a moment, so that calls are under way while a policy takes the place of another."""

    async def run(self, work: Work) -> RawOutput:
        await asyncio.sleep(0.005)
        return RawOutput(str(work.arguments["n"]))


@dataclass
class Seen:
    """What came of the calls. `wrong` and `foreign` are sentences; both must stay empty."""

    calls: int = 0
    effects: Counter[str] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    policies: Counter[str] = field(default_factory=Counter)
    stood: int = 0

    def line(self, kind: str, fields: Mapping[str, Any], numbers: Mapping[str, int], stood: Counter[str]) -> None:
        """Holds one record against what its bundle says."""
        if kind.startswith("policy."):
            self.policies[kind] += 1
            return
        decision = fields.get("decision")
        if kind == "call.outcome" or decision is None:  # the outcome of an intent, or a tool that was not shown
            return
        n, digest = numbers[fields["call_id"]], decision["bundle_digest"]
        self.effects[decision["effect"]] += 1
        self.bundles[digest] += 1
        if digest in stood:
            self.stood += 1
        elif digest not in GOOD:
            self.foreign.append(f"{fields['call_id']} was decided under {digest}")
        elif GOOD[digest][0] == HIDDEN or says(*GOOD[digest], n) != (decision["effect"], decision["code"]):
            self.wrong.append(f"{n} under {GOOD[digest]}: {decision['effect']} {decision['code']}")

    def outcome(self, outcome: Outcome) -> None:
        """Counts one answer; one that failed inside the gateway is wrong."""
        self.calls += 1
        code = outcome.problem.code if outcome.problem else None
        if code not in (None, "forbidden", "no_permit", "unknown_tool"):
            self.wrong.append(f"{outcome.call_id}: {code}: {outcome.problem}")


async def storm(folder: Path, calls: int, loads: int, seed: int) -> tuple[Seen, Writer, Live]:
    """At least so many calls, and so many loads and as many rejections, while the folder is written to."""
    policies = folder / "policies"
    policies.mkdir()
    (policies / "permits.yaml").write_bytes(permits(1))
    (policies / "forbids.yaml").write_bytes(forbids(2))
    home = Home(folder / "home")
    home.make()
    loaded = load_files({"ask.yaml": TOOL.encode()}, {p.name: p.read_bytes() for p in policies.iterdir()})
    lab = Lab.over(loaded)
    ledger = lab.trial.ledger
    live = Live(loaded, policies, None, home, ledger, "none", say=lambda _: None, settle=SETTLE)
    gate = replace(lab.gate, bundles=live, runners={HttpBackend: Answers()})
    await live.start()
    tasks = {asyncio.create_task(live.watch()), asyncio.create_task(_ask(live))}
    writer, seen = Writer(policies, random.Random(seed), _whole_cuts()), Seen()
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        while seen.calls < calls or min(seen.policies["policy.loaded"], seen.policies["policy.rejected"]) < loads:
            numbers = await _some(gate, random.Random(seed + seen.calls), seen)
            for line in ledger.lines:
                seen.line(line.type, line.fields, numbers, writer.stood)
            ledger.lines.clear()
    finally:
        writer.stop.set()
        await asyncio.to_thread(thread.join)
    await live.reload()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return seen, writer, live


async def _ask(live: Live) -> None:
    """What SIGHUP does, again and again."""
    while True:
        await asyncio.sleep(ASKED)
        live.ask()


async def _some(gate: Gate, rng: random.Random, seen: Seen) -> dict[str, int]:
    numbers = {gate.new_call_id(): rng.randrange(KINDS) for _ in range(AT_ONCE)}
    asked = (gate.handle(Request(call_id, "ask", {"n": n}, "dev")) for call_id, n in numbers.items())
    for outcome in await asyncio.gather(*asked):
        seen.outcome(outcome)
    await asyncio.sleep(
        0.005
    )  # refusals are quick: without a pause most calls would be of the hours of the hidden tool
    return numbers


def main() -> int:
    """Prints the table."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        seen, writer, live = asyncio.run(storm(Path(folder), calls, 5, 7))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{seen.calls} calls in {time.monotonic() - began:.0f} s: {dict(seen.effects)}")
    print(f"changes of the folder: {dict(writer.did)}")
    print(f"records: {dict(seen.policies)}; bundles that decided: {len(seen.bundles)}; memory: +{grown:.0f} MiB")
    print(f"cut files that stood as long as a whole one: {writer.stood.total()}, decisions under them: {seen.stood}")
    print(f"at the end: {dict(live.state())}, and the folder's own bundle in force: {_is_last(live)}")
    print(f"decisions under a mixed or broken bundle: {len(seen.foreign)}; wrong decisions: {len(seen.wrong)}")
    for sentence in [*seen.foreign, *seen.wrong][:20]:
        print(f"  {sentence}")
    return 0 if not (seen.foreign or seen.wrong) and _is_last(live) else 1


def _is_last(live: Live) -> bool:
    return GOOD.get(live.current().digest) == (1, 2)


if __name__ == "__main__":
    sys.exit(main())
