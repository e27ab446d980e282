"""Deciding: what one decision costs with 10, 1,000 and 10,000 rules loaded, ten of which the call meets in each case.

Runs alone too: `python -m bench.policy`. The sizes are measured by turns, so that a slow moment of the machine does not
hit one of them alone. Measures only; never judges, except that every decision has to be the expected one.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence

from bench.load import rss_of
from gateway.model import Arguments, Call, Caller, Decision, Effect, Principal, Session
from gateway.policy import PolicyBundle, load_bundle
from gateway.specs.schema import compile_schema
from gateway.stages.decide import decide
from gateway.stores.counters import MemoryCounters
from gateway.tool import HttpBackend, Tool

SIZES = (10, 1000, 10_000)
ROUNDS, EACH, WARM = 7, 3000, 300
MEMORY, MEMORY_WARM = 1_000_000, 100_000
Report = dict[str, float]
HEAD = {"apiVersion": "toolgate/v1", "kind": "Policy", "values": {"hosts": ["api.example.com", "docs.example.com"]}}
ABOUT = 10  # rules about one tool
PER_FILE = 500  # rules
SCHEMA = {
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "path": {"type": "string"},
        "to": {"type": "array", "items": {"type": "string"}},
        "amount": {"type": "number"},
        "note": {"type": "string"},
    },
    "required": ["url", "path", "to", "amount"],
}
CLAUSES: Sequence[tuple[str, Sequence[str]]] = (  # of the permits two hold, of the forbids none, as it mostly is
    ("permit", ['arg.url.scheme == "https" && arg.url.host in v.hosts', 'arg.url.path.startsWith("/v1/")']),
    ("permit", ['size(arg.to) > 0 && arg.to.all(a, a.domain == "example.com")', "args.amount <= 500.0"]),
    ("permit", ['args.path.startsWith("/public/")']),
    ("permit", ['arg.url.host == "files.example.com"', "session.cost + tool.cost <= 5.0"]),
    ("permit", ['"admins" in principal.groups']),
    ("forbid", ['"untrusted" in session.labels && "pii" in session.labels']),
    ("forbid", ['session.labels.exists(label, label in ["secret", "key"])']),
    ("forbid", ['arg.url.host == "169.254.169.254" || arg.url.port != 443']),
    ("forbid", ["args.amount > 10000.0"]),
    ("forbid", ['arg.to.exists(a, a.domain == "example.org")', "has(args.note) && args.note.size() > 1000"]),
)
STATE = {
    "sent": {"count": {"tools": ["t0"]}, "within": "1h"},
    "paid": {"sum": "args.amount", "of": {"tools": ["t0"]}, "within": "24h", "over": "user"},
}
CAPPED = ("permit", ["state.sent < 100", "state.paid + args.amount <= 5000.0"])


def measure() -> Report:
    """All figures: microseconds, seconds and KiB."""
    report = loaded()
    bundles = {size: made(size)[0] for size in SIZES}
    capped = load_bundle(files(ABOUT, [*CLAUSES[:-1], CAPPED], STATE), tools(1))
    subjects = {f"decide_{size}": bundle for size, bundle in bundles.items()} | {"decide_state": capped}
    rounds: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for _ in range(ROUNDS):
        for name, bundle in subjects.items():
            rounds[name].append(timed(bundle))
    for name, took in rounds.items():
        report[name] = min(statistics.median(each) for each in took)
    report["decide_p99"] = min(statistics.quantiles(each, n=100)[98] for each in rounds["decide_1000"])
    report["memory_growth"] = growth(load_bundle(files(3, [CLAUSES[0], CLAUSES[1], CLAUSES[5]]), tools(1)))
    return report


def loaded() -> Report:
    """Seconds to load and compile 1,000 rules over 100 tools."""
    return {"load_1000": min(made(1000)[1] for _ in range(3))}


def made(rules: int) -> tuple[PolicyBundle, float]:
    """A bundle of so many rules, and how many seconds its load took. The tools are there before."""
    catalogue, parts = tools(rules // ABOUT), files(rules)
    start = time.perf_counter()
    bundle = load_bundle(parts, catalogue)
    return bundle, time.perf_counter() - start


def tools(count: int) -> list[Tool]:
    """Tools `t0`, `t1` … that are all alike."""
    check = compile_schema(SCHEMA, close=True)
    kinds = {"url": "url", "to": "email_list"}
    backend = HttpBackend("POST", url_argument="url")
    return [
        Tool(f"t{n}", "1.0.0", f"sha256:{n}", "one of many", check.schema, backend, check, facts=kinds)
        for n in range(count)
    ]


def files(rules: int, clauses: Sequence[tuple[str, Sequence[str]]] = CLAUSES, state: object = None) -> dict[str, bytes]:
    """Policy files with ten rules about each tool."""
    shapes = [
        {"id": f"r{number}", "effect": effect, "match": {"tools": [f"t{number // ABOUT}"]}, "when": list(when)}
        for number in range(rules)
        for effect, when in (clauses[number % ABOUT],)
    ]
    parts = [shapes[start : start + PER_FILE] for start in range(0, rules, PER_FILE)]
    heads = [HEAD | {"id": f"p{number}"} | ({"state": state} if state else {}) for number in range(len(parts))]
    return {
        f"p{number}.yaml": json.dumps(head | {"rules": part}).encode()
        for number, (head, part) in enumerate(zip(heads, parts, strict=True))
    }


def calls(count: int) -> Iterator[Call]:
    """Calls of the first tool that the policy permits, no two alike: some agents, sessions, labels and arguments."""
    tool = tools(1)[0]
    for number in range(count):
        agent = Principal(f"agent-{number % 20}", "default", "ann", frozenset({"eng"}))
        labels = frozenset({"untrusted"} if number % 2 else {"pii"})
        session = Session(f"s_{number}", f"u_{number}", agent.key, 900.0, 5000.0, labels, cost=1.0, calls=number % 50)
        arguments = {
            "url": f"https://api.example.com/v1/items/{number}?page={number % 7}",
            "path": f"/workspace/s_{number}/notes/today.txt",
            "to": [f"user{number}@example.com", "team@example.com", "ann@example.com"],
            "amount": float(number % 300),
            "note": "an ordinary note of a few words, as an agent writes one " * 2,
        }
        yield Call(f"c_{number}", Caller(agent, session), tool, Arguments(arguments), 1000.0, number)


def timed(bundle: PolicyBundle) -> list[float]:
    """Microseconds of each decision, state looked up where it is read."""
    counters = MemoryCounters()
    made = list(calls(EACH + WARM))
    took = []
    for number, call in enumerate(made):
        start = time.perf_counter_ns()
        decision = decide(call, bundle, counters.levels(bundle.cells(call), call.now))
        ended = time.perf_counter_ns()
        _expect(decision)
        if number >= WARM:
            took.append((ended - start) / 1000)
    return took


def growth(bundle: PolicyBundle) -> float:
    """KiB by which this process grows over a million decisions, after some to warm up."""
    counters = MemoryCounters()
    made = list(calls(1000))

    def run(count: int) -> int:
        for number in range(count):
            call = made[number % 1000]
            _expect(decide(call, bundle, counters.levels(bundle.cells(call), call.now)))
        gc.collect()
        return rss_of(os.getpid())

    before = run(MEMORY_WARM)
    return (run(MEMORY) - before) / 1024


def _expect(decision: Decision) -> None:
    if decision.effect is not Effect.PERMIT:
        raise SystemExit(f"a decision that is not the expected one: {decision.problem}")


def main() -> None:
    """Measures and prints."""
    for name, value in measure().items():
        print(f"policy_{name:16} {value:10.3f}")


if __name__ == "__main__":
    main()
