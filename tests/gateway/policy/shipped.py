"""Every expression of every policy in this repository that loads (policies, documents, tests), with values for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from gateway.policy.aggregates import TYPES
from gateway.policy.engine import Program
from gateway.policy.syntax import Constant, references, walk
from gateway.policy.variables import KINDS
from gateway.specs import facts
from gateway.tool import Json
from tests.gateway.policy.written import random_json

ROOT = Path(__file__).parents[3]
PART = "p0"


@dataclass(frozen=True, slots=True)
class Shipped:
    """One expression: where it is from, the types of what it may name, its file's values, and its file's cases."""

    source: str
    text: str
    types: Mapping[str, str]
    values: Mapping[str, Json]
    cases: tuple[Mapping[str, Any], ...]


def expressions() -> list[Shipped]:
    """All of them, each once for each file."""
    found = {(each.source, each.text): each for source, policy in _policies() for each in _of(source, policy)}
    return list(found.values())


def variables(shipped: Shipped, program: Program, random: Random) -> dict[str, Json]:
    """What a case of its file gives it, with some of what it reads changed."""
    bound: dict[str, Any] = _ordinary(random.choice(shipped.cases)) if shipped.cases else _ordinary({})
    bound |= {name: _of_kind(kind, random) for name, kind in shipped.types.items() if name.startswith(f"{PART}.state.")}
    bound |= shipped.values
    hints: list[Json] = [each.text for each in walk(program.expr) if isinstance(each, Constant) and each.text]
    hints += [each for value in shipped.values.values() for each in (value if isinstance(value, list) else [value])]
    for path in {each.path for each in references(program.expr)}:
        if path[0] in ("args", "arg") and len(path) > 1 and random.random() < 0.6:
            _put(bound[path[0]], path[1:], _value(random, hints))
        elif path[0] in KINDS and len(path) == 1 and random.random() < 0.6:
            bound[path[0]] = _of_kind(KINDS[path[0]], random, hints)
    return bound


def _policies() -> Iterator[tuple[str, dict[str, Any]]]:
    files = [*ROOT.glob("policies/**/*.yaml"), *ROOT.glob("tests/**/*.yaml")]
    files = [path for path in files if path.parent.name != "busted"]
    texts = [(str(path.relative_to(ROOT)), path.read_text()) for path in files]
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        blocks = path.read_text().split("```yaml\n")[1:]
        texts += [(str(path.relative_to(ROOT)), block.partition("```")[0]) for block in blocks]
    for path in ROOT.glob("tests/**/*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        words = (node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str))
        texts += [(str(path.relative_to(ROOT)), word) for word in words if "when:" in word]
    for source, text in texts:
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError:
            continue
        for document in documents:
            if isinstance(document, dict) and isinstance(document.get("rules"), list):
                yield source, document


def _of(source: str, policy: dict[str, Any]) -> Iterator[Shipped]:
    types = {**KINDS}
    for name, shape in (policy.get("state") or {}).items():
        types |= {
            f"{PART}.state.{name}": kind for key, kind in TYPES.items() if isinstance(shape, dict) and key in shape
        }
    given = policy.get("values")
    values = {f"{PART}.v.{name}": value for name, value in given.items()} if isinstance(given, dict) else {}
    types |= dict.fromkeys(values, "any")
    tests = policy.get("tests")
    cases = tuple(case for case in tests if isinstance(case, dict)) if isinstance(tests, list) else ()
    for rule in policy["rules"]:
        if isinstance(rule, dict):
            approval = (rule.get("with") or {}).get("approval") if isinstance(rule.get("with"), dict) else None
            clauses = [*(rule.get("when") or ()), *([approval["when"]] if approval and "when" in approval else [])]
            yield from (Shipped(source, text, types, values, cases) for text in clauses if isinstance(text, str))


def _ordinary(case: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a case, with every fact that its arguments can have of any kind."""
    arguments = next(iter(case.get("call", {"": {}}).values())) or {}
    caller, session = case.get("as") or {}, case.get("session") or {}
    derived: dict[str, Json] = {}
    for name in arguments:
        found = [facts.derive({name: kind}, arguments) for kind in facts.KINDS]
        derived |= next((each for each in found if each), {})
    return {
        "args": dict(arguments),
        "arg": derived,
        "principal.agent": caller.get("agent", "dev"),
        "principal.tenant": caller.get("tenant", "default"),
        "principal.user": caller.get("user"),
        "principal.groups": caller.get("groups", []),
        "tool.name": next(iter(case.get("call", {"t": {}}))),
        **{"tool.version": "1.0.0", "tool.digest": "sha256:0", "tool.effects": ["read"], "tool.labels": []},
        **{"tool.cost": 0.5, "session.id": session.get("id", "s_case"), "session.labels": session.get("labels", [])},
        "session.cost": float(session.get("cost", 0)),
        "session.calls": session.get("calls", 0),
        **{"session.age": float(session.get("age", 0)), "now": 1_770_000_000},
    }


def _of_kind(kind: str, random: Random, hints: list[Json] | None = None) -> Json:
    words = [each for each in hints or () if isinstance(each, str)] + ["untrusted", "pii", "É", ""]
    match kind:
        case "bool":
            return random.random() < 0.5
        case "int":
            return random.choice([0, 1, 5, 20, 100, 2**63 - 1])
        case "double":
            return random.choice([0.0, 0.5, 5.0, 199.99, 1e9, float("inf")])
        case "string":
            return random.choice(words)
        case "strings":
            return random.sample(words, random.randint(0, min(3, len(words))))
    return random.choice([None, *words])


def _value(random: Random, hints: list[Json]) -> Json:
    ordinary: list[Json] = [*hints, *hints, 0, 1, 50, 0.5, 150.0, 1000.0, True, False, None, "", "É"]
    word = random.choice([*hints, "x"])
    items: list[Json] = [[], [word], [word, "É"], [{"domain": word, "local": "a"}], [{"domain": word}, {"local": "b"}]]
    return random.choice([*ordinary, *items, random_json(random)])


def _put(below: dict[str, Any], path: tuple[str, ...], value: Json) -> None:
    for step in path[:-1]:
        if not isinstance(below.get(step), dict):
            below[step] = {}
        below = below[step]
    below[path[-1]] = value
