"""Random policies and calls from a seeded generator, as the reference reads them and as the files the gateway reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from tests.gateway.policy.makers import tool

Made = dict[str, Any]
ANY = {"a": {}, "b": {}, "n": {"type": "number"}}
TOOLS = {
    "open": tool("open", ANY, ("read",), labels=("untrusted",)),
    "send_a": tool("send_a", ANY, ("egress",), labels=()),
    "send_b": tool("send_b", ANY, ("destructive", "egress"), labels=("pii", "untrusted")),
}
VALUES: list[Any] = [True, False, None, "x", "y", "true", "", 0, 1, 2, -1, 1.5, [], [True], [True, False], [False, "x"]]
VALUES += [["x"], {}, {"a": True}, {"x": False}, [[True]], [1, True]]
GLOBS = {
    "tools": ["open", "send_*", "*_b", "*", "o*n", "shut"],
    "effects": ["read", "egress", "destructive"],
    "tool_labels": ["untrusted", "p*", "secret"],
    "agents": ["dev", "d*", "ops"],
    "users": ["ann", "*", "b*"],
    "groups": ["eng", "e*", "sales"],
    "tenants": ["acme", "*", "other"],
}
STATES: dict[str, Made] = {
    "n": {"count": {"tools": ["send_*"]}},
    "s": {"sum": "args.n", "of": {"effects": ["egress"]}},
    "d": {"count_distinct": "args.a", "of": {"tools": ["*"]}},
    "f": {"formerly": {"tools": ["open"]}},
    "g": {"formerly": {"tools": ["*"]}},
    "t": {"since": {"tools": ["open"]}},
}


def text(clause: tuple[Any, ...]) -> str:
    """The clause in CEL."""
    match clause:
        case ("is", name):
            return f"{name}"
        case ("has", name):
            return f"has({name})"
        case ("equals", name, word):
            return f'{name} == "{word}"'
        case ("listed", name, values):
            return f"{name} in {values}"
        case ("more", name, number):
            return f"{name} > {number}"
        case ("not", inner):
            return f"!({text(inner)})"
        case ("and" | "or" as word, left, right):
            return f"({text(left)} {'&&' if word == 'and' else '||'} {text(right)})"
        case ("every" | "some" as word, name):
            return f"{name}.{'all' if word == 'every' else 'exists'}(x, x)"
    raise AssertionError(clause)


def policy(random: Random) -> list[Made]:
    """One to three parts, in the order of the bundle, each with up to four rules."""
    return [_part(random, number) for number in range(random.choice([1, 1, 2, 2, 3]))]


def files(parts: list[Made]) -> dict[str, bytes]:
    """The parts as policy files (JSON is YAML)."""
    return {f"{part['id']}.yaml": json.dumps(_file(part)).encode() for part in parts}


def call(random: Random, parts: list[Made]) -> Made:
    """A call of some tool by somebody, with a past: a level for most of what the parts declare."""
    chosen = TOOLS[random.choice(list(TOOLS))]
    user = random.choice([None, "ann", "bob"])
    groups = random.sample(["eng", "sales", "ext"], random.randint(0, 2))
    arguments = {f"args.{name}": random.choice(VALUES) for name in "ab" if random.random() < 0.75}
    if random.random() < 0.75:
        arguments["args.n"] = random.choice([-1.0, 0.0, 1.0, 2.5])
    words = {
        "tools": [chosen.name],
        "effects": sorted(chosen.effects),
        "tool_labels": sorted(chosen.labels),
        "agents": [random.choice(["dev", "ops"])],
        "users": [] if user is None else [user],
        "groups": groups,
        "tenants": [random.choice(["acme", "acme", "default"])],
    }
    made: Made = {"words": words, "arguments": arguments, "levels": {}, "pending": {}}
    for part in parts:
        levels = {f"state.{name}": _level(random, name) for name in part["state"] if random.random() < 0.95}
        levels = {name: level for name, level in levels.items() if _comparable(part, name, arguments)}
        waits = {name: True for name in levels if name in ("state.f", "state.g") and random.random() < 0.5}
        made["levels"][part["id"]], made["pending"][part["id"]] = levels, levels | waits
    return made


def _part(random: Random, number: int) -> Made:
    names = random.sample(list(STATES), random.choice([0, 0, 1, 2, 3]))
    state: Made = {}
    for place, name in enumerate(sorted(names)):
        # No two aggregates of a bundle have the same window: by it a test tells whose level is asked for.
        state[name] = {**STATES[name], "within": f"{1000 * (number + 1) + place}s"}
        state[name] |= {"over": random.choice(["session", "user", "agent", "tenant"])}
        state[name] |= {"same": "args.b"} if random.random() < 0.3 else {}
    rules = [_rule(random, f"r{number}{place}", list(state)) for place in range(random.randint(1, 4))]
    return {
        "id": f"p{number}",
        "tenant": random.choice([None, None, None, "acme"]),
        "boundary": random.random() < 0.3,
        "shadow": random.random() < 0.1,
        "values": {"v.words": random.choice([["x"], ["x", "true"], []])},
        "state": state,
        "rules": rules,
    }


def _rule(random: Random, name: str, state: list[str]) -> Made:
    keys = random.sample(list(GLOBS), random.choice([0, 0, 0, 1, 1, 2]))
    return {
        "id": name,
        "effect": random.choice(["permit", "permit", "permit", "forbid"]),
        "shadow": random.random() < 0.15,
        "match": {key: random.sample(GLOBS[key], random.randint(1, 2)) for key in keys},
        "clauses": [_clause(random, state, 2) for _ in range(random.choice([0, 1, 1, 1, 2, 3]))],
    }


def _clause(random: Random, state: list[str], depth: int) -> tuple[Any, ...]:
    if depth and random.random() < 0.4:
        word = random.choice(["not", "and", "or"])
        return (word, *(_clause(random, state, depth - 1) for _ in range(1 if word == "not" else 2)))
    if state and random.random() < 0.5:
        chosen = random.choice(state)
        name = f"state.{chosen}"
        number = random.randint(0, 3)
        return ("is", name) if chosen in "fg" else ("more", name, number if chosen in "nd" else float(number))
    name = random.choice(["args.a", "args.a", "args.b"])
    kinds: list[tuple[Any, ...]] = [
        ("is", name),
        ("has", name),
        ("equals", name, random.choice(["x", "true"])),
        ("listed", name, "v.words"),
    ]
    kinds += [("more", name, random.randint(0, 2)), ("more", "args.n", 1.0), ("every", name), ("some", name)]
    return random.choice(kinds)


def _level(random: Random, name: str) -> bool | int | float:
    if name in "fg":
        return random.random() < 0.4
    return random.randint(0, 4) if name in "nd" else random.choice([0.0, 0.5, 2.0, 5.0, float("inf")])


def _comparable(part: Made, name: str, arguments: Mapping[str, Any]) -> bool:
    same = part["state"][name.removeprefix("state.")].get("same")
    return same is None or same in arguments


def _file(part: Made) -> Made:
    head = {"apiVersion": "toolgate/v1", "kind": "Policy", "id": part["id"], "boundary": part["boundary"]}
    head |= {} if part["tenant"] is None else {"tenant": part["tenant"]}
    head |= {"mode": "shadow"} if part["shadow"] else {}
    values = {name.removeprefix("v."): value for name, value in part["values"].items()}
    return head | {"values": values, "state": part["state"], "rules": [_shape(rule) for rule in part["rules"]]}


def _shape(rule: Made) -> Made:
    shape: Made = {"id": rule["id"], "effect": rule["effect"], "match": rule["match"]}
    shape |= {"mode": "shadow"} if rule["shadow"] else {}
    return shape | ({"when": [text(each) for each in rule["clauses"]]} if rule["clauses"] else {})
