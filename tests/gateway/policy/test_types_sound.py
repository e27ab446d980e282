"""The type check is sound: it refuses nothing that works, and whatever it meets, it answers with findings."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.engine import BadExpression, Scope, Truth, bind
from gateway.policy.typecheck import Checker
from gateway.policy.variables import KINDS
from gateway.specs.schema import BadSchema
from gateway.specs.yaml import SpecError, SpecErrors
from gateway.tool import Json, SandboxBackend
from tests.gateway.policy.makers import bundle, tool

Pair = tuple[Json, st.SearchStrategy[Json]]  # a schema, and values that fit it
TEXT = st.sampled_from(["", "a", "ab", "1", "2020-01-01T00:00:00Z"])
WHOLE = st.integers(-3, 3)
SIMPLE: list[Pair] = [
    ({"type": "string"}, TEXT),
    ({"enum": ["a", "ab"]}, st.sampled_from(["a", "ab"])),
    ({"type": "boolean"}, st.booleans()),
    ({"type": "integer"}, WHOLE),
    ({"type": "number"}, WHOLE | st.sampled_from([0.5, 1.0, -1.5])),
    ({"type": ["string", "null"]}, TEXT | st.none()),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, TEXT | WHOLE),
    ({}, TEXT | WHOLE | st.none() | st.booleans() | st.lists(WHOLE, min_size=1)),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, st.fixed_dictionaries({"a": WHOLE})),
]


def listed(pair: Pair) -> Pair:
    """Lists of it; never empty, because over an empty list nothing is judged."""
    return {"type": "array", "items": pair[0]}, st.lists(pair[1], min_size=1, max_size=2)


def keyed(pairs: tuple[Pair, Pair]) -> Pair:
    """Objects with an `a` and a `b`."""
    one, two = pairs
    schema = {"type": "object", "properties": {"a": one[0], "b": two[0]}, "required": ["a"]}
    return schema, st.fixed_dictionaries({"a": one[1]}, optional={"b": two[1]})


PAIRS = st.recursive(
    st.sampled_from(SIMPLE), lambda below: below.map(listed) | st.tuples(below, below).map(keyed), max_leaves=4
)
LITERAL = st.sampled_from(["1", "0", "1.0", "0.5", '"a"', '""', "true", "null", "[]", "[1]", '["a"]', '{"a": 1}', "{}"])
STEPS = st.lists(st.sampled_from([".a", ".b", "[0]", '["a"]']), max_size=2).map("".join)
PLACE = STEPS.map(lambda steps: f"args.x{steps}")
WITHOUT_EQUALITY = [
    *("{p} < {l}", "{l} >= {p}", "{p} + {l} <= {p}", "{p} * {l} < {l}", "{p} % {l} < {l}", "-{p} < {p}", "!{p}", "{p}"),
    *('{p}.startsWith("a")', '{p}.contains("a")', '{p}.matches("a")', "size({p}) > 0", "{p}.size() > 0"),
    *("{p}.all(i, i < {l})", "{p}.all(i, i + {l} < i)", "{p}.exists(i, i.a > {l})", '{p}.all(i, i.matches("a"))'),
    *("{p}.map(i, i)[0] < {l}", "{p}.filter(i, i < {l})[0] < {l}", "({p} ? 1 : 2) < 3", "has({p}.a)", "{p}[0] > {l}"),
    *("int({p}) > 0", "double({p}) > 0.5", "string({p}) < 'x'", "timestamp({p}) > timestamp(0)", "{p}[{l}] < {l}"),
]
EQUALITY = [
    "{p} == {l}",
    "{l} == {p}",
    "{p} in [{l}]",
    "{l} in {p}",
    "{p}.exists(i, i == {l})",
    "{p}.all(i, i in [{l}])",
]
EVERYTHING = Scope(KINDS)


def judged(pair: Pair, clause: str, value: Json) -> tuple[Truth, list[str]] | None:
    """How a clause ends over valid arguments, and what the check has against it; None where it does not compile."""
    made = tool("t", {"x": pair[0]}, required=["x"])
    arguments: dict[str, Json] = {"x": value}
    assert not made.check.check(arguments)
    try:
        program = EVERYTHING.compile(clause)
    except BadExpression:
        return None
    faults = Checker().faults(clause, program.reads, (), [made], EVERYTHING)
    ended = program.eval(bind({"args": made.check.fill(arguments)}))
    return ended, [each.sentence for each in faults if not each.works]


@settings(max_examples=400, deadline=None)
@given(st.data(), PAIRS, st.sampled_from(WITHOUT_EQUALITY), PLACE, LITERAL)
def test_what_works_on_some_valid_arguments_is_never_refused(
    data: st.DataObject, pair: Pair, form: str, place: str, literal: str
) -> None:
    """A clause that is true or false for valid arguments fits their types."""
    clause = form.format(p=place, l=literal)
    found = judged(pair, clause, data.draw(pair[1]))
    if found is not None and found[0] is not Truth.ERROR:
        assert found[1] == [], clause


@settings(max_examples=400, deadline=None)
@given(st.data(), PAIRS, st.sampled_from(EQUALITY), PLACE, LITERAL)
def test_a_comparison_that_is_refused_is_never_true(
    data: st.DataObject, pair: Pair, form: str, place: str, literal: str
) -> None:
    """Values of different types may be compared; it is refused only where the answer is known beforehand."""
    clause = form.format(p=place, l=literal)
    found = judged(pair, clause, data.draw(pair[1]))
    if found is not None and found[1]:
        assert found[0] is not Truth.TRUE, clause


NAMES = st.sampled_from(
    ["a", "b", "x", "content-type", "in", "a_b", "aB", "M0", "é", "0", "", "toolgate", "_", "class"]
)
ODD = st.recursive(
    st.sampled_from(
        [
            *({}, True, False, {"type": "null"}, {"const": None}, {"const": 1}, {"enum": [1, "a"]}, {"enum": [True]}),
            *({"type": ["string", "integer"]}, {"type": ["null"]}, {"type": "string", "default": "a"}, {"not": {}}),
            *({"$ref": "#/properties/x"}, {"type": "array"}, {"type": "object"}, {"minItems": 1, "items": {}}),
            *({"type": ["number", "null"], "default": None}, {"type": "array", "prefixItems": [{"type": "string"}]}),
        ]
    ),
    lambda below: (
        st.builds(lambda each: {"type": "array", "items": each}, below)
        | st.builds(lambda each: {"allOf": [each]}, below)
        | st.builds(lambda named: {"type": "object", "properties": named}, st.dictionaries(NAMES, below, max_size=4))
        | st.builds(
            lambda named: {"properties": named, "patternProperties": {}}, st.dictionaries(NAMES, below, max_size=3)
        )
        | st.builds(lambda each: {"type": ["object", "null"], "additionalProperties": each}, below)
    ),
    max_leaves=6,
)
LOOSE = [
    *(
        "{p}",
        "{p} == {l}",
        "{p} in {l}",
        "{p}.all(i, i.a == {l})",
        "{p}.matches({l})",
        "size({p}) > {l}",
        "{p} + {p} < {l}",
    ),
    *("{p}.map(i, {{'a': i}})[0].a == {l}", "args == {l}", "arg.x.a == {l}", "has({p}.a) && {p}.a.all(a, a.b == a)"),
]


RULES = st.fixed_dictionaries(
    {
        "effect": st.sampled_from(["permit", "forbid"]),
        "match": st.sampled_from(["{tools: [odd]}", "{}", "{tools: ['x*']}"]),
    },
    optional={
        "mode": st.sampled_from(["shadow", "enforce"]),
        "with": st.sampled_from(
            ["{approval: {by: [requester]}}", "{sandbox: {require: [no-network]}}", "{timeout: 5s}"]
        ),
    },
)
CLAUSES = st.lists(st.tuples(st.sampled_from(LOOSE), STEPS, LITERAL), max_size=3)
BACKEND = SandboxBackend("wasm-python", "x", None, network=("GET https://a.org/**",))


@settings(max_examples=300, deadline=None)
@given(ODD, st.dictionaries(NAMES, ODD, max_size=3), st.lists(st.tuples(RULES, CLAUSES), min_size=1, max_size=3))
def test_whatever_schema_and_policy_meet_the_answer_is_findings(
    x: Json, more: dict[str, Json], rules: list[tuple[dict[str, str], list[tuple[str, str, str]]]]
) -> None:
    """No schema that the specs take, with any rules, gives anything but a bundle or findings with their places."""
    try:
        odd = tool("odd", {**more, "x": x}, ("exec",), backend=BACKEND, facts={"x": "url"})
    except BadSchema:
        return
    lines = ["id: a", "values: {spare: 1}", "rules:"]
    for number, (rule, clauses) in enumerate(rules):
        fitting = {key: text for key, text in rule.items() if key != "with" or rule["effect"] == "permit"}
        lines += [f"- id: r{number}", *(f"  {key}: {text}" for key, text in fitting.items())]
        lines += ["  when:"] if clauses else []
        lines += [f"  - |-\n    {form.format(p=f'args.x{steps}', l=literal)}" for form, steps, literal in clauses]
    try:
        found = bundle("\n".join(lines), tools=(odd,)).findings
    except SpecErrors as refused:
        found = tuple(refused.findings)
    assert found
    assert all(isinstance(each, SpecError) and each.line and each.sentence for each in found)
