"""A week of calls on a real ledger, made by a few agents over a few tools, with the policy of then kept.

`tests/gateway/test_suggest.py` and `tests/gateway/simulate/test_changes.py` read it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateway.audit.ledger import open_ledger
from gateway.home import Home
from gateway.kept import keep
from gateway.loading import load_files
from gateway.model import Arguments, Call, Effect, Outcome, Principal, RawOutput, Session
from gateway.policy.bundle import PolicyBundle, load_bundle
from gateway.stages.authenticate import suppose
from gateway.stores.counters import MemoryCounters
from gateway.suggest.run import Suggestion
from gateway.tool import HttpBackend, Tool
from gateway.work import Work
from tests.kit import Lab

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: One of the tools of the week.
input_schema:
  type: object
  properties: {properties}
  required: {required}
effects: [{effect}]
{facts}
limits: {{concurrency: 1000}}
timeout: 30s
runner:
  http: {{method: POST, url: "https://tools.example.com/{name}", json: {{}}}}
"""


def spec(name: str, properties: Mapping[str, object], required: Sequence[str], effect: str, **facts: str) -> str:
    """A spec file of one tool."""
    said = f"facts: {json.dumps(facts)}" if facts else ""
    kinds = {"properties": json.dumps(properties), "required": json.dumps(required)}
    return SPEC.format(name=name, effect=effect, facts=said, **kinds)


TEXT, NUMBER = {"type": "string"}, {"type": "number"}
SPECS = {
    "fetch.yaml": spec(
        "fetch", {"url": TEXT, "raw": {"type": "boolean", "default": False}}, ["url"], "egress", url="url"
    ),
    "files.yaml": spec("read_file", {"path": TEXT, "lines": {"type": "integer"}}, ["path"], "read", path="path"),
    "mail.yaml": spec(
        "mail",
        {"to": {"type": "array", "items": TEXT}, "cc": TEXT, "subject": TEXT, "body": TEXT},
        ["to", "subject", "body"],
        "egress",
        to="email_list",
        cc="email",
    ),
    "refund.yaml": spec(
        "refund",
        {"order": TEXT, "amount": NUMBER, "reason": {"enum": ["damaged", "late", "lost"]}, "note": TEXT},
        ["order", "amount", "reason"],
        "write",
    ),
    "issue.yaml": spec(
        "open_issue",
        {
            "repo": TEXT,
            "title": TEXT,
            "tags": {"type": "array", "items": TEXT},
            "place": {
                "type": "object",
                "properties": {"line": {"type": "integer"}, "side": TEXT},
                "required": ["line"],
                "additionalProperties": False,
            },
        },
        ["repo", "title"],
        "write",
        repo="repo_path",
    ),
}
OPEN = """
apiVersion: toolgate/v1
kind: Policy
id: open
rules: [{id: all, effect: permit, match: {tools: ["*"]}, with: {limit: {calls: 100000/1m}}}]
"""
KEY = "ghp_" + "a1B2c3D4" * 5
CALLERS = {
    "researcher": Principal("researcher", "default", scopes=frozenset({"agent"})),
    "coder": Principal("coder", "default", scopes=frozenset({"agent"})),
    "ann": Principal("support", "shop", "ann", frozenset({"staff"}), scopes=frozenset({"agent"})),
    "bob": Principal("support", "shop", "bob", frozenset({"staff", "leads"}), scopes=frozenset({"agent"})),
}
DAY = 86400.0
Made = tuple[str, str, dict[str, Any]]


class Fine:
    """A runner that does whatever it is asked."""

    async def run(self, work: Work) -> RawOutput:
        return RawOutput("ok")


def a_call(luck: random.Random) -> Made:
    """One call as an agent makes it."""
    words = " ".join(luck.choices(["the", "parcel", "came", "broken", "today", "and", "late"], k=luck.randrange(3, 12)))
    place = {"line": luck.randrange(1, 400), "side": luck.choice(["left", "right"])}
    made: list[Made] = [
        ("researcher", "fetch", {"url": f"https://docs.python.org/3/library/{luck.randrange(900)}.html"}),
        (
            "researcher",
            "fetch",
            {"url": f"https://arxiv.org/abs/{luck.randrange(2000, 2600)}.{luck.randrange(9999):04}"},
        ),
        ("coder", "read_file", {"path": f"/repo/src/{luck.choice('abc')}/m{luck.randrange(50)}.py"}),
        ("coder", "read_file", {"path": f"/repo/src/tests/t{luck.randrange(50)}.py", "lines": luck.randrange(10, 200)}),
        ("coder", "open_issue", {"repo": f"acme/{luck.choice(['web', 'api'])}", "title": words, "place": place}),
        ("coder", "open_issue", {"repo": "acme/web", "title": words, "tags": luck.choices(["bug", "slow"], k=2)}),
        (
            luck.choice(["ann", "bob"]),
            "mail",
            {"to": [f"c{luck.randrange(99)}@shop.example.com"], "subject": words[:20], "body": words},
        ),
        (
            luck.choice(["ann", "bob"]),
            "refund",
            {"order": f"A-{luck.randrange(9999)}", "amount": luck.randrange(100, 19000) / 100, "reason": "damaged"},
        ),
    ]
    return luck.choice(made)


@dataclass(frozen=True)
class Week:
    """A home with a week of calls on its ledger: the calls, when each was made, its id and how it ended; the tools."""

    home: Path
    made: Sequence[Made]
    tools: Sequence[Tool]
    now: float
    times: Sequence[float]
    ids: Sequence[str]
    codes: Sequence[str]


async def _live(home: Path, made: Sequence[Made], policy: str, at_once: int) -> Week:
    loaded = load_files({name: text.encode() for name, text in SPECS.items()}, {"open.yaml": policy.encode()})
    lab = Lab.over(loaded)
    keep(Home(home), loaded.bundle.digest, loaded.policies, loaded.catalogue.all())
    lab.trial.authority.principals.update(CALLERS)
    clock = lab.trial.clock
    ledger = open_ledger(home, clock=clock.now)
    lab.gate = replace(lab.gate, ledger=ledger, runners={HttpBackend: Fine()}, counters=MemoryCounters())
    step = 7 * DAY / (len(made) + 20)
    times, ended = list[float](), list[Outcome]()
    for at in range(0, len(made), at_once):
        some = made[at : at + at_once]
        times += [clock.at] * len(some)
        ended += await asyncio.gather(*(lab.call(tool, given, by) for by, tool, given in some))
        clock.at += step * at_once
    await ledger.close()
    codes = [each.problem.code if each.problem else each.status for each in ended]
    return Week(home, made, tools_of(), clock.now(), times, [each.call_id for each in ended], codes)


def lived(home: Path, made: Sequence[Made], policy: str = OPEN, at_once: int = 20) -> Week:
    """A home in which these calls were made, so many at once."""
    home.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_live(home, made, policy, at_once))


@lru_cache
def tools_of(*without: str) -> Sequence[Tool]:
    """The tools of the week, but those of some files."""
    specs = {name: text.encode() for name, text in SPECS.items() if name not in without}
    return load_files(specs, {"open.yaml": OPEN.encode()}).catalogue.all()


def bundle_of(made: Suggestion, tools: Sequence[Tool]) -> PolicyBundle:
    return load_bundle({"suggested.yaml": made.text.encode()}, tools)


def permits(bundle: PolicyBundle, by: str, tool: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the bundle permits the call, which the tool's schema takes."""
    found, principal = bundle.tools[tool], CALLERS[by]
    assert not found.check.check(arguments)
    session = Session("s_x", "s_x", principal.key, 0.0, 1.0)
    filled = Arguments(found.check.fill(dict(arguments)))
    return bundle.decide(Call("c_x", suppose(principal, session), found, filled, 1.0, 0)).effect is Effect.PERMIT
