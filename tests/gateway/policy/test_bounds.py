"""What no call can do to the policy: make it take an error for a verdict, or keep it busy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway
from gateway.model import Effect
from gateway.policy.engine import Scope, Truth, bind
from gateway.policy.variables import MAX_PAIRS, MAX_VALUES
from gateway.tool import Json
from tests.gateway.policy.makers import bundle, call, outcome, tool

ROOT = Path(gateway.__file__).parent
OPEN = tool("open", {"a": {}, "b": {}, "c": {}})


def test_a_value_of_the_engine_is_looked_at_in_one_place() -> None:
    """`.value()`, by which an error looks like a true text, is called where the engine gives a Truth and only there."""
    called = [(path.relative_to(ROOT).as_posix(), *place) for path in ROOT.rglob("*.py") for place in _calls(path)]
    looks = [each for each in called if each[2] in ("value", "plain_value")]
    assert looks == [("policy/engine.py", "eval", "value"), ("policy/engine.py", "eval", "plain_value")]
    assert {each[0] for each in called if each[2] == "Activation"} == {"policy/engine.py"}


def _calls(path: Path) -> Iterator[tuple[str, str]]:
    """Function and method name of each method call without arguments, and of each that makes variables."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
            for node in calls:
                if isinstance(node.func, ast.Attribute) and (node.func.attr == "Activation" or not node.args):
                    yield function.name, node.func.attr


def test_loops_within_loops_end_in_an_error() -> None:
    """Seven quantifiers deep, ten million steps, is cut off by the engine's own budget."""
    scope = Scope({"x": "any"})
    names = "abcdefg"
    deep = "".join(f"x.all({name}, " for name in names) + "g >= 0" + ")" * len(names)
    assert scope.compile(deep).eval(bind({"x": [0]})) is Truth.TRUE
    assert scope.compile(deep).eval(bind({"x": list(range(10))})) is Truth.ERROR


READ = "id: read\nrules:\n- {id: r, effect: permit, when: [has(args.a)]}\n"
PAIRED = "id: paired\nrules:\n- {id: r, effect: permit, when: ['args.a.all(x, !args.b.contains(x))']}\n"
DEEP: Json = 0
for _ in range(60):
    DEEP = [DEEP]
LARGE: list[Json] = [
    [0] * 500_000,
    [{"n": 1, "m": "abc"}] * 20_000,
    {f"k{number}": 0 for number in range(MAX_VALUES)},
    [[0] * 100] * 200,
]


@pytest.mark.parametrize("value", LARGE, ids=["numbers", "rows", "keys", "lists"])
def test_what_is_too_large_to_be_judged_is_refused(value: Json) -> None:
    """Even a rule that would hold for it permits nothing, says so, and nothing was bound; `explain` says the same."""
    for made in (bundle(READ, tools=[OPEN]), bundle(READ.replace("has(args.a)", "size(args) > 0"), tools=[OPEN])):
        called = call(OPEN, {"a": value})
        decision = made.decide(called)
        assert outcome(decision) == "policy_error"
        assert decision.problem is not None
        assert str(MAX_VALUES) in decision.problem.detail
        assert made.explain(called).problem == decision.problem


FITTING: list[Json] = ["x" * (1 << 20), [{"n": 1}] * 4000, [0] * (MAX_VALUES - 2), DEEP, 2**63, None]


@pytest.mark.parametrize("value", FITTING, ids=["text", "rows", "numbers", "deep", "unsigned", "null"])
def test_what_fits_is_judged(value: Json) -> None:
    """A text as long as a call may be, a list as long as the engine goes through, 60 levels."""
    assert outcome(bundle(READ, tools=[OPEN]).decide(call(OPEN, {"a": value}))) == "permit r"


def test_what_no_rule_reads_does_not_count() -> None:
    """Only arguments that the rules name are looked at, so others may be of any size."""
    assert outcome(bundle(READ, tools=[OPEN]).decide(call(OPEN, {"a": 1, "b": [0] * 500_000}))) == "permit r"


def test_comparing_arguments_with_each_other_has_a_bound_of_its_own() -> None:
    """A hundred words looked for in a page are fine, in a megabyte or a thousand of them are not."""
    made = bundle(PAIRED, tools=[OPEN])
    words: list[Json] = [f"word{number}" for number in range(100)]
    assert outcome(made.decide(call(OPEN, {"a": words, "b": "x" * 10_000}))) == "permit r"
    assert outcome(made.decide(call(OPEN, {"a": words, "b": "x" * 1_000_000}))) == "policy_error"
    assert outcome(made.decide(call(OPEN, {"a": words * 10, "b": "x"}))) == "policy_error"
    assert MAX_PAIRS < MAX_VALUES**2


STRANGE: list[Json] = ["\ud800", "a\udfff", 2**64, -(2**63) - 1, float("nan"), [2**70], {"\ud800": 1}, {"k": "\udc00"}]
READING = """id: strange
rules:
- {id: text, effect: permit, when: ['args.a == "x" || args.a > 1']}
- {id: in-it, effect: permit, when: ['args.a.all(x, x != "y")']}
- {id: not-that, effect: forbid, match: {tools: [open]}, when: ['args.a == "evil"']}
"""


@pytest.mark.parametrize("value", STRANGE, ids=ascii)
def test_what_is_no_plain_json_permits_nothing(value: Json) -> None:
    """Strict JSON lets none of it in; policy alone refuses it too, without an exception."""
    made = bundle(READING, tools=[OPEN])
    assert made.decide(call(OPEN, {"a": value})).effect is Effect.FORBID
    assert made.decide(call(OPEN, {"a": "x"})).effect is Effect.PERMIT
