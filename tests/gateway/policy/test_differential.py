"""Two CEL engines over the same expressions and values: the same verdict, or one of a few differences known by name.

The gateway uses the first alone; the second, written by others in another language, shows what is CEL and what is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from random import Random

import pytest

from gateway.policy import engine
from gateway.policy.engine import BadExpression, Truth, Unbindable
from gateway.tool import Json
from tests.gateway.policy import second_engine, shipped, written

TRUE, FALSE, ERROR = Truth
Variables = Mapping[str, Json]
Case = tuple[str, Variables]
EXPRESSIONS, VALUES = 3000, 4  # for each of two seeds


@dataclass(frozen=True, slots=True)
class Known:
    """A known difference: why, an example with both verdicts, and what to change in a case so that it cannot matter.

    It explains a case when the engines agree once that is changed, and nothing else.
    """

    reason: str
    text: str
    variables: Variables
    verdicts: tuple[Truth, Truth]
    spare: Callable[[str, Json], tuple[str, Json]]


def _ascii(value: Json) -> Json:
    if isinstance(value, str):
        return "".join(letter if letter.isascii() else "z" for letter in value)
    if isinstance(value, dict):
        return {str(_ascii(key)): _ascii(each) for key, each in value.items()}
    return [_ascii(each) for each in value] if isinstance(value, list) else value


def _no_map_for_list(values: Json) -> Json:
    assert isinstance(values, dict)
    args = values.get("args")
    if not isinstance(args, dict) or not isinstance(args.get("l"), dict):
        return values
    return {**values, "args": {**args, "l": []}}


def _written(*pairs: tuple[str, str]) -> Callable[[str, Json], tuple[str, Json]]:
    return lambda text, values: (reduce(lambda said, pair: said.replace(*pair), pairs, text), values)


BODIES = ("x", "!x", "x > 1", "x.b", "size(x) > 1")
KNOWN = {
    "size-of-text": Known(
        "CEL counts code points; the second engine counts bytes of UTF-8",
        "size(args.s) == 1",
        {"args": {"s": "É"}},
        (TRUE, FALSE),
        lambda text, values: (str(_ascii(text)), _ascii(values)),
    ),
    "timestamp-of-number": Known(
        "the second engine takes timestamps from texts only",
        "timestamp(now) > timestamp('1970-01-01T00:00:00Z')",
        {"now": 1000},
        (TRUE, ERROR),
        _written(("timestamp(now)", "timestamp('2026-01-01T00:00:00Z')")),
    ),
    "hour-of-a-place": Known(
        "the second engine knows no time zones",
        'timestamp("2026-01-01T00:00:00Z").getHours("Europe/London") == 0',
        {},
        (TRUE, ERROR),
        _written(('("Europe/London")', "()")),
    ),
    "hour-with-an-offset": Known(
        "an hour without a time zone is one of UTC; the second engine keeps the offset that the text was written with",
        'timestamp("2026-03-29T01:30:00+01:00").getHours() == 0',
        {},
        (TRUE, FALSE),
        _written(("+01:00", "Z")),
    ),
    "not-a-number": Known(
        "what is not a number (0.0 / 0.0) compares as false with everything; to the second engine that is an error",
        "session.cost / session.cost < 1.0",
        {"session.cost": 0.0},
        (FALSE, ERROR),
        _written((" / ", " + "), (" * ", " + "), (" - ", " + ")),
    ),
    "list-plus-map": Known(
        "a map cannot be added to a list; the second engine does that",
        "'a' in [] + args.l",
        {"args": {"l": {"a": 1}}},
        (ERROR, TRUE),
        lambda text, values: (text, _no_map_for_list(values)),
    ),
    "error-within-all": Known(
        "one item that decides absorbs the errors of others; the second engine stops at the first error",
        "args.l.all(x, x.b)",
        {"args": {"l": [{}, {"b": False}]}},
        (FALSE, ERROR),
        _written(*((f"{macro}(x, {body})", f"{macro}(x, x == 'a')") for macro in ("all", "exists") for body in BODIES)),
    ),
}


def judged(text: str, values: Variables, types: Mapping[str, str]) -> tuple[Truth, Truth] | None:
    """The verdicts of both; None where the first refuses to compile, which keeps it out of any policy."""
    try:
        first = engine.Scope(types, shipped.PART).compile(text)
    except BadExpression:
        return None
    second = second_engine.Scope(types, shipped.PART).compile(text)
    return verdict(first, engine.bind, values), verdict(second, second_engine.bind, values)


def verdict(
    program: engine.Program | second_engine.Program, bind: Callable[[Variables], object], values: Variables
) -> Truth:
    """What cannot be bound is an error."""
    try:
        return program.eval(bind(values))  # type: ignore[arg-type]  # each has its own Bound
    except Unbindable:
        return ERROR


def explained(text: str, values: Variables, types: Mapping[str, str]) -> list[str]:
    """The known differences without which the engines agree: one alone where that is enough, else several."""
    given: tuple[str, Json] = (text, dict(values))
    met = {name: spared for name, known in KNOWN.items() if (spared := known.spare(*given)) != given}
    for name, (other, changed) in met.items():
        if agree(other, changed, types):
            return [name]
    for name in met:
        given = KNOWN[name].spare(*given)
    return list(met) if met and agree(*given, types) else []


def agree(text: str, values: Json, types: Mapping[str, str]) -> bool:
    """Whether both come to one verdict."""
    assert isinstance(values, dict)
    found = judged(text, values, types)
    return found is not None and found[0] is found[1]


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_expressions(seed: int) -> None:
    """3,000 expressions a seed over four sets of values each: every verdict is the same, or the difference is known."""
    random = Random(seed)
    writer = written.Writer(random)
    scopes = engine.Scope(written.TYPES, shipped.PART), second_engine.Scope(written.TYPES, shipped.PART)
    seen: Counter[Truth | str] = Counter()
    unexplained = []
    while seen["compiled"] < EXPRESSIONS:
        text = writer.write("bool", 3)
        try:
            first = scopes[0].compile(text)
        except BadExpression:
            continue
        second = scopes[1].compile(text)
        seen["compiled"] += 1
        for _ in range(VALUES):
            values = written.variables(random)
            both = verdict(first, engine.bind, values), verdict(second, second_engine.bind, values)
            seen[both[0]] += 1
            if both[0] is not both[1]:
                why = explained(text, values, written.TYPES)
                seen.update(why)
                unexplained += [] if why else [(text, values, *both)]
    assert unexplained == []
    assert min(seen[each] for each in Truth) > EXPRESSIONS // 2
    assert seen.keys() >= {"size-of-text", "timestamp-of-number", "hour-of-a-place"}


def test_shipped_expressions() -> None:
    """Every clause of policies, documents and tests, over its own cases and changes of them: known differences only."""
    random = Random(3)
    sources, unexplained = Counter[str](), []
    verdicts: Counter[Truth] = Counter()
    for each in shipped.expressions():
        try:
            first = engine.Scope(each.types, shipped.PART).compile(each.text)
        except BadExpression:
            continue
        second = second_engine.Scope(each.types, shipped.PART).compile(each.text)
        sources[each.source] += 1
        for _ in range(60):
            values = shipped.variables(each, first, random)
            both = verdict(first, engine.bind, values), verdict(second, second_engine.bind, values)
            verdicts[both[0]] += 1
            if both[0] is not both[1] and not explained(each.text, values, each.types):
                unexplained.append((each.source, each.text, values, *both))
    assert unexplained == []
    assert {"policies/dev.yaml", "docs/policy.md"} <= sources.keys()
    assert sum(sources.values()) > 60
    assert min(verdicts.values()) > 500


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_difference_still_differs(name: str) -> None:
    """Each example still gets both its verdicts, is explained by its own entry, and is gone once spared."""
    known = KNOWN[name]
    assert judged(known.text, known.variables, written.TYPES) == known.verdicts
    assert explained(known.text, known.variables, written.TYPES) == [name]


OTHERWISE = [  # what no value and no clause of a policy can meet: the first engine refuses it before
    ("1 == 1.0", {}, None),
    ("args.n > 1", {"args": {"n": 2**64}}, (ERROR, TRUE)),
]


@pytest.mark.parametrize(("text", "values", "wanted"), OTHERWISE)
def test_what_the_first_engine_refuses_before(text: str, values: Variables, wanted: object) -> None:
    """It does not compile mixed numbers, and binds no whole number over 64 bits; the second engine does both."""
    assert judged(text, values, written.TYPES) == wanted
    assert verdict(second_engine.Scope({}, "").compile(text), second_engine.bind, values) is TRUE


def test_an_unknown_difference_would_be_told() -> None:
    """No entry explains a case that it has nothing to do with, nor one that differs for another reason besides."""
    assert explained("1 == 1", {}, written.TYPES) == []
    strange = "args.n > 1 && size(args.s) == 1"
    assert explained(strange, {"args": {"n": 2**64, "s": "a"}}, written.TYPES) == []
    assert explained(strange, {"args": {"n": 2**64, "s": "É"}}, written.TYPES) == []
