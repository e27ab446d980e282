"""The CEL engine as we use it: what it calls true, and that nothing else can become a permit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gateway.policy
from gateway.policy.engine import BadExpression, Scope, Truth, bind
from gateway.policy.syntax import references
from gateway.tool import Json

SCOPE = Scope({"x": "any", "n": "int", "p.v.hosts": "strings"}, "p")
VALUES: list[Json] = [None, 0, 1, -1, 1.5, "", "true", "True", b"true", [], [True], {}, {"a": True}, 2**70, object()]


@pytest.mark.parametrize("value", VALUES, ids=[*map(repr, VALUES[:-1]), "object"])
def test_only_true_is_true(value: Json) -> None:
    """Whatever a variable holds besides the bool true, the clause `x` is false or an error, never true."""
    assert SCOPE.compile("x").eval(bind({"x": value})) is Truth.ERROR


def test_bools_are_themselves() -> None:
    """True permits, false does not, and that is all there is."""
    assert SCOPE.compile("x").eval(bind({"x": True})) is Truth.TRUE
    assert SCOPE.compile("x").eval(bind({"x": False})) is Truth.FALSE


ERRORS = ["x.a == 1", "x[3] == 1", "1 / n == 1", "x + 1 == 2", "n == 1 && x.a", "x.matches('a[')", "x in x"]


@pytest.mark.parametrize("text", ERRORS)
def test_an_error_is_an_error(text: str) -> None:
    """The binding gives errors as values, or raises for some: both come out as ERROR."""
    program = SCOPE.compile(text)
    assert program.eval(bind({"x": "s", "n": 0})) is not Truth.TRUE
    assert program.eval(bind({})) is Truth.ERROR


@pytest.mark.parametrize("value", [True, False, *VALUES], ids=["True", "False", *map(repr, VALUES[:-1]), "object"])
def test_conditions_asked_together_answer_as_each_alone(value: Json) -> None:
    """Or do not answer, when one is in error: in company, nothing that is no bool becomes true or false."""
    texts = ("x", "n == 0", *ERRORS[:-1], "x == x || true")
    bound = bind({"x": value, "n": 0})
    for some in (texts, *((text, "n == 0") for text in texts)):
        alone = [SCOPE.compile(text).eval(bound) for text in some]
        together = SCOPE.together(some).eval(bound)
        assert together == alone or (together is None and Truth.ERROR in alone)


def test_a_decided_side_absorbs_an_error() -> None:
    """CEL's `&&` and `||` do not care on which side the error stands."""
    bound = bind({"n": 1})
    for text, wanted in (("x.a && n == 2", Truth.FALSE), ("n == 2 && x.a", Truth.FALSE), ("x.a || n == 1", Truth.TRUE)):
        assert SCOPE.compile(text).eval(bound) is wanted


def test_a_container_gives_each_part_its_own_values() -> None:
    """`v.hosts` means the hosts of the part that an expression stands in."""
    other = Scope({"q.v.hosts": "int"}, "q").compile("v.hosts == 7")
    bound = bind({"p.v.hosts": ["a"], "q.v.hosts": 7})
    assert other.eval(bound) is Truth.TRUE
    assert SCOPE.compile('"a" in v.hosts').eval(bound) is Truth.TRUE


@pytest.mark.parametrize("text", ["n", "1 + 1", "[n == 1]", "'true'", "n ==", "missing", "v.nothing == 1"])
def test_what_is_no_clause_does_not_compile(text: str) -> None:
    """A clause is a bool by its type, and names only what there is."""
    with pytest.raises(BadExpression):
        SCOPE.compile(text)


def test_references_follow_literal_fields_only() -> None:
    """A path ends where the next step is not literal; loop variables are no references, also when they shadow one."""
    read = {
        "x.a.b == 1": {("x", "a", "b")},
        'x["a"].b == 1': {("x", "a", "b")},
        "x[0].b == 1": {("x",)},
        "x.a[n].b == 1": {("x", "a"), ("n",)},
        "has(x.a.b)": {("x", "a", "b")},
        "x.a.all(x, x.b == n)": {("x", "a"), ("n",)},
        "x.a.exists(y, y.c.all(z, z == y.d && z in v.hosts))": {("x", "a"), ("p.v.hosts",)},
        "{'k': x.a, x.b: [x.c]} == {} ? x.d : x.e == 1": {("x", each) for each in "abcde"},
        "x.a.map(y, y.b).size() > 0 && x.a.filter(y, y > n) == []": {("x", "a"), ("n",)},
    }
    for text, wanted in read.items():
        assert {each.path for each in references(SCOPE.compile(text).expr)} == wanted, text


def test_no_python_function_is_ever_given_to_the_engine() -> None:
    """It leaks memory for each call of one: the words by which one is defined occur nowhere in the policy package."""
    defining = {"Function", "FunctionDecl", "Overload", "CelExtension", "functions", "function_impls", "extensions"}
    importers = []
    for path in Path(gateway.policy.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        named |= {
            word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords if word.arg
        }
        assert not named & defining, path.name
        if "cel_expr_python" in path.read_text():
            importers.append(path.name)
    assert importers == ["engine.py"]
