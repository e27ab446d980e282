"""Simulating: a week of calls on a real ledger, decided again under another policy, and where the time goes.

Runs alone too: `python -m bench.simulate [CALLS]`, by default 100,000. The calls go through the whole pipeline, with a
runner that answers at once; so their records are those of a gateway, content and all. Measures only; never judges,
except that the control run must find no drift, and the known change of the policy its differences.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from bench.started import ROOT
from gateway.app import RandomIds
from gateway.audit import query
from gateway.audit.glance import glance
from gateway.audit.ledger import open_ledger
from gateway.audit.shard import Tuning
from gateway.cases import fresh_trial
from gateway.home import Home
from gateway.kept import keep
from gateway.loading import Loaded, load_files
from gateway.model import Principal, RawOutput, Request
from gateway.simulate.recorded import Reader
from gateway.simulate.report import Report as Found
from gateway.simulate.run import simulate
from gateway.tool import HttpBackend
from gateway.work import Work

Report = dict[str, float]
CALLS, AT_ONCE = 100_000, 32
ROUNDS = 3
WEEK = 7 * 86400.0
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: One of the tools of the week.
input_schema: {{type: object, additionalProperties: false, {schema}}}
effects: [{effect}]
facts: {facts}
{more}
timeout: 30s
runner:
  http: {{method: POST, url: "https://tools.example.com/{name}", json: {{}}}}
"""
TOOLS = {
    "fetch": (
        "properties: {url: {type: string}}, required: [url]",
        "egress",
        "{url: url}",
        "labels: {output: [untrusted]}",
    ),
    "read_file": ("properties: {path: {type: string}}, required: [path]", "read", "{path: path}", ""),
    "mail": (
        "properties: {to: {type: array, items: {type: string}}, subject: {type: string}, body: {type: string}}, "
        "required: [to, subject, body]",
        "egress",
        "{to: email_list}",
        "",
    ),
    "look_up": ("properties: {order: {type: integer}}, required: [order]", "read", "{}", "cost: {per_call: 0.01}"),
    "refund": (
        "properties: {order: {type: integer}, amount: {type: number}, note: {type: string}}, required: [order, amount]",
        "write",
        "{}",
        "limits: {concurrency: 64}",
    ),
}
WORK = """
apiVersion: toolgate/v1
kind: Policy
id: work
values: {hosts: [docs.python.org, arxiv.org]}
rules:
- {id: docs, effect: permit, match: {tools: [fetch], agents: [researcher]}, when: [arg.url.host in v.hosts],
   with: {limit: {calls: 600/1m}}}
- {id: files, effect: permit, match: {tools: [read_file], agents: [coder]},
   when: ['arg.path.canonical.startsWith("/repo/")']}
- {id: no-keys, effect: forbid, match: {tools: [read_file], agents: [coder]},
   when: ['arg.path.canonical.endsWith(".pem")']}
"""
SHOP = """
apiVersion: toolgate/v1
kind: Policy
id: shop
tenant: shop
state:
  paid: {sum: args.amount, of: {tools: [refund]}, within: 24h, over: user}
  looked: {formerly: {tools: [look_up]}, same: args.order, within: 1h}
rules:
- {id: look, effect: permit, match: {tools: [look_up]}}
- {id: pay, effect: permit, match: {tools: [refund]}, when: [state.looked, args.amount <= 500.0],
   with: {limit: {calls: 300/1m, key: agent}}}
- {id: most, effect: forbid, match: {tools: [refund]}, when: [state.paid + args.amount > 1000000.0]}
- {id: write, effect: permit, match: {tools: [mail]}, when: ['arg.to.all(a, a.domain == "shop.example.com")']}
- {id: no-web, effect: forbid, match: {tools: [mail]}, when: ['"untrusted" in session.labels']}
"""
BEFORE = {"work.yaml": WORK.replace(" arxiv.org", " arxiv.org, pypi.org"), "shop.yaml": SHOP}
AFTER = {"work.yaml": WORK, "shop.yaml": SHOP}
# A lower bound, a rate, and a cap that only the past tells of.
CANDIDATE = {
    "work.yaml": WORK,
    "shop.yaml": SHOP.replace("<= 500.0", "<= 480.0").replace("300/1m", "200/1m").replace("1000000.0", "25000.0"),
}
CALLERS = {
    "researcher": Principal("researcher", "default", scopes=frozenset({"agent"}), token_id="k_researcher"),
    "coder": Principal("coder", "default", scopes=frozenset({"agent"}), token_id="k_coder"),
    **{
        user: Principal("support", "shop", user, frozenset({"staff"}), frozenset({"agent"}), token_id=f"k_{user}")
        for user in ("ann", "bob", "cem", "dag", "eva", "fay")
    },
}
SAID = "the parcel came broken today and late so please send another one to the same place as before"
WORDS = SAID.split()


class Canned:
    """Answers at once with a text of ordinary size."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    async def run(self, work: Work) -> RawOutput:
        return RawOutput(self._texts[hash(str(work.arguments)) % len(self._texts)])


def made(luck: random.Random) -> tuple[str, str, dict[str, Any]]:
    """One call: caller, tool, arguments."""
    kind, user = luck.random(), luck.choice(["ann", "bob", "cem", "dag", "eva", "fay"])
    if kind < 0.2:
        host = luck.choice(["docs.python.org", "arxiv.org", "arxiv.org", "pypi.org", "example.net"])
        return "researcher", "fetch", {"url": f"https://{host}/page/{luck.randrange(9999)}?q={luck.choice(WORDS)}"}
    if kind < 0.5:
        ending = luck.choice([".py"] * 19 + [".pem"])
        return "coder", "read_file", {"path": f"/repo/src/{luck.choice(WORDS)}/m{luck.randrange(99)}{ending}"}
    if kind < 0.65:
        to = [f"c{luck.randrange(999)}@shop.example.com"]
        return user, "mail", {"to": to, "subject": text(luck, 5), "body": text(luck, 120)}
    if kind < 0.85:
        return user, "look_up", {"order": luck.randrange(4)}
    order, amount = luck.randrange(4), luck.randrange(100, 52000) / 100
    return user, "refund", {"order": order, "amount": amount, "note": text(luck, 12)}


def text(luck: random.Random, words: int) -> str:
    return " ".join(luck.choices(WORDS, k=words))


def files(policies: Mapping[str, str]) -> Loaded:
    """The tools under one of the policies."""
    named = {
        f"{name}.yaml": SPEC.format(name=name, schema=schema, effect=effect, facts=facts, more=more).encode()
        for name, (schema, effect, facts, more) in TOOLS.items()
    }
    return load_files(named, {name: each.encode() for name, each in policies.items()})


async def record(home: Home, calls: int) -> None:
    """So many calls over a week, each with the records of a gateway; the policy changes in the middle."""
    home.make()
    luck = random.Random(5)
    loaded = [files(BEFORE), files(AFTER)]
    for each in loaded:
        keep(home, each.bundle.digest, each.policies, each.catalogue.all())
    trial = fresh_trial(loaded[0], {}, None)
    trial.authority.principals.update(CALLERS)
    ledger = open_ledger(home.path, tuning=Tuning(reserve=1 << 20, segment_age=WEEK), clock=trial.clock.now)
    texts = [text(luck, luck.choice([20, 60, 60, 200])) for _ in range(64)]
    gate = replace(trial.gate, ledger=ledger, runners={HttpBackend: Canned(texts)}, ids=RandomIds())
    for at in range(0, calls, AT_ONCE):
        if at >= calls // 2:
            gate = replace(gate, bundles=loaded[1])
        session = f"s{at * 1000 // max(calls, 1)}"
        some = [made(luck) for _ in range(min(AT_ONCE, calls - at))]
        asked = [Request(gate.new_call_id(), tool, given, by, session) for by, tool, given in some]
        await asyncio.gather(*(gate.handle(each) for each in asked))
        trial.clock.at += WEEK * AT_ONCE / calls
    await ledger.close()


def parts(home: Path, calls: int) -> Report:
    """Seconds of each step by itself, and of all together: of the wall clock, and of this process's CPU."""
    loaded = files(CANDIDATE)
    report: Report = {}
    for _ in range(ROUNDS):
        for name, step in (
            ("verify", lambda: query.unverified(home)),
            ("lines", lambda: sum(1 for _ in query.records(home))),
            ("open", lambda: sum(1 for _ in _opened(home, loaded))),
            ("whole", lambda: simulate(home, loaded.bundle, loaded.catalogue.all())),
        ):
            started, cpu = time.perf_counter(), time.process_time()
            found = step()
            took = {name: time.perf_counter() - started, f"{name}_cpu": time.process_time() - cpu}
            report |= {key: min(seconds, report.get(key, seconds)) for key, seconds in took.items()}
            if isinstance(found, Found):
                _expected(found, calls)
    return report


def _opened(home: Path, loaded: Loaded) -> Iterator[object]:
    with glance(home) as contents:
        reader = Reader(contents, loaded.catalogue.all())
        for each in query.records(home):
            yield reader.read(each)


def _expected(found: Found, calls: int) -> None:
    """Ends the benchmark where nothing, or too much, came out."""
    if found.calls != calls or found.found["drift"] or not found.found["newly-forbidden"]:
        raise SystemExit(f"simulated otherwise than it should be: {found.calls} calls, {found.found}")


def measure(calls: int = CALLS) -> Report:
    """All figures, in seconds."""
    folder = Path(tempfile.mkdtemp(prefix=".toolgate-bench-", dir=ROOT))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(record(Home(folder), calls))
        return parts(folder, calls)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measures and prints."""
    for name, value in measure(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS).items():
        print(f"simulate_{name:16} {value:12.3f}")


if __name__ == "__main__":
    main()
