"""The schema factory: what is refused at load, how objects are closed, what is said of wrong values, what is filled."""

import json
from typing import Any

import jsonschema
import pytest
import referencing
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.specs.schema import BadSchema, Validator, compile_schema
from gateway.tool import Fix, Json

ISSUE: dict[str, Json] = {
    "type": "object",
    "properties": {
        "repo": {"type": "string", "pattern": "^[a-z0-9-]+/[a-z0-9._-]+$"},
        "title": {"type": "string", "minLength": 3, "maxLength": 20},
        "body": {"type": "string", "default": ""},
        "state": {"enum": ["open", "closed"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["repo", "title"],
}


def doubled(levels: int) -> dict[str, Json]:
    """A small schema whose checking doubles with each level."""
    steps: dict[str, Json] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": {**steps, f"d{levels}": {"const": 1}}, "$ref": "#/$defs/d0"}


def nested(levels: int) -> dict[str, Json]:
    """A schema nested so many levels deep (each `items` is one)."""
    schema: dict[str, Json] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


TREE = {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "name": {"type": "string"}}}
FORKED = {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}

BAD: list[tuple[Any, str, str]] = [
    ({"type": "strin"}, "/type", "takes"),
    ({"type": ["string", "string"]}, "/type", "takes"),
    ({"properties": {"a": {"minLength": -1}}}, "/properties/a/minLength", "at least 0"),
    ({"required": "a"}, "/required", "a list"),
    ({"properties": []}, "/properties", "an object"),
    ({"properties": {"a": 1}}, "/properties/a", "a mapping"),
    ({"items": [{}]}, "/items", "a mapping"),
    ({"tpye": "string"}, "/tpye", "did you mean type?"),
    ({"properties": {"a": {"requird": []}}}, "/properties/a/requird", "did you mean required?"),
    ({"definitions": {}}, "/definitions", "$defs"),
    ({"dependencies": {}}, "/dependencies", "dependentRequired"),
    ({"$id": "http://x/"}, "/$id", "leave it out"),
    ({"$anchor": "x"}, "/$anchor", "$defs"),
    ({"$dynamicRef": "#x"}, "/$dynamicRef", "$ref"),
    ({"contentEncoding": "base64"}, "/contentEncoding", "not be checked"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "2020-12"),
    ({"pattern": "(?=a)"}, "/pattern", "look-around"),
    ({"pattern": r"(a)\1"}, "/pattern", "back-references"),
    ({"pattern": "["}, "/pattern", "linear"),
    ({"patternProperties": {"(?!x)": {}}}, "/patternProperties/(?!x)", "look-around"),
    ({"format": "foo"}, "/format", "cannot be checked"),
    ({"$ref": "http://example.org/s"}, "/$ref", "into the schema itself"),
    ({"$ref": "file:///etc/passwd"}, "/$ref", "into the schema itself"),
    ({"$ref": "other.json#/x"}, "/$ref", "into the schema itself"),
    ({"$ref": "#/$defs/x"}, "/$ref", "nothing stands"),
    ({"$ref": "#/required", "required": ["a"]}, "/$ref", "nothing stands"),
    ({"$ref": "#"}, "", "refers to itself"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "/$defs/a", "refers to itself"),
    ({"allOf": [{"not": {"$ref": "#"}}]}, "", "refers to itself"),
    ({"uniqueItems": True}, "/uniqueItems", "maxItems"),
    ({"properties": {"a": {"type": "string", "default": 1}}}, "/properties/a/default", "does not fit"),
    ({"$defs": {"é/~": {"default": 1, "type": "null"}}}, "/$defs/é~1~0/default", "does not fit"),
    ({"enum": ["x" * 300_000]}, "", "bytes"),
    (nested(40), "", "32 levels"),
    ({"$defs": {f"d{n}": {} for n in range(1001)}}, "/$defs/d999", "1000 subschemas"),
    ({"anyOf": [{"const": n} for n in range(257)]}, "", "256 times"),
    (doubled(14), "", "256 times"),
    (FORKED, "", "256 times"),
]


@pytest.mark.parametrize(("schema", "at", "words"), BAD, ids=range(len(BAD)))
def test_bad_schemas_are_refused_at_load(schema: Any, at: str, words: str) -> None:
    """Each way a schema can be wrong or dangerous is refused with its place and a sentence."""
    with pytest.raises(BadSchema) as caught:
        compile_schema(schema, close=True)
    assert (at, True) in [(place, words in sentence) for place, sentence in caught.value.findings]


@pytest.mark.parametrize("schema", [True, [], "x", None, 1])
def test_a_schema_is_a_mapping(schema: Json) -> None:
    """Nothing but a mapping is taken at the top."""
    with pytest.raises(BadSchema):
        compile_schema(schema, close=True)


@pytest.mark.parametrize(
    "schema",
    [
        ISSUE,
        TREE,
        {"anyOf": [{"const": n} for n in range(256)]},
        doubled(7),
        {"anyOf": [{"type": "string"}, {"properties": {"child": {"$ref": "#"}}}]},
        {"uniqueItems": True, "maxItems": 10},
        {"$schema": "https://json-schema.org/draft/2020-12/schema"},
        {"properties": {"if": {"properties": {"not": {}}}}},
    ],
)
def test_ordinary_schemas_are_taken(schema: dict[str, Json]) -> None:
    """Recursion below, unions up to the limit and odd names are fine."""
    compile_schema(schema, close=True)


def test_all_findings_come_at_once() -> None:
    """Two mistakes are two findings."""
    with pytest.raises(BadSchema) as caught:
        compile_schema({"tpye": 1, "properties": {"a": {"$ref": "x"}}}, close=True)
    assert [at for at, _ in caught.value.findings] == ["/tpye", "/properties/a/$ref"]


OPEN: dict[str, Json] = {"additionalProperties": True}
A: dict[str, Json] = {"properties": {"a": {}}}
B: dict[str, Json] = {"properties": {"b": {}}}

CLOSED: list[tuple[dict[str, Any], Json, bool]] = [
    ({}, {}, True),
    ({}, {"a": 1}, False),
    (A, {"a": 1}, True),
    (A, {"a": 1, "b": 1}, False),
    ({**A, "additionalProperties": True}, {"b": 1}, True),
    ({**A, "additionalProperties": {"type": "null"}}, {"b": None}, True),
    ({"properties": {"a": {"type": "object"}}}, {"a": {"free": 1}}, True),
    ({"properties": {"a": A}}, {"a": {"b": 1}}, False),
    ({"properties": {"a": {"items": A}}}, {"a": [{"b": 1}]}, False),
    ({"patternProperties": {"^x": {}}}, {"x1": 1}, True),
    ({"patternProperties": {"^x": {}}}, {"y": 1}, False),
    ({"allOf": [A, B]}, {"a": 1, "b": 1}, True),
    ({"allOf": [A, B]}, {"a": 1, "c": 1}, False),
    ({**A, "anyOf": [B]}, {"a": 1, "b": 1}, True),
    ({**A, "anyOf": [B]}, {"a": 1, "c": 1}, False),
    ({"$defs": {"x": A}, "properties": {"p": {"$ref": "#/$defs/x"}}}, {"p": {"a": 1}}, True),
    ({"$defs": {"x": A}, "properties": {"p": {"$ref": "#/$defs/x"}}}, {"p": {"b": 1}}, False),
    ({"$defs": {"x": A}, "properties": {"p": {"$ref": "#/$defs/x", **B}}}, {"p": {"a": 1, "b": 1}}, True),
    ({"allOf": [{**A, **OPEN}]}, {"c": 1}, True),
    ({"properties": {"a": {}, "if": A}}, {"if": {"b": 1}}, False),
    ({**A, "if": {"properties": {"a": B}}, "then": {"required": ["z"]}}, {"a": {"c": 1}}, False),
    ({**A, "not": {"properties": {"a": {"properties": {"b": {"const": 1}}}}}}, {"a": {"b": 1, "c": 1}}, False),
    (TREE, {"left": {"right": {"name": "x"}}}, True),
    (TREE, {"left": {"right": {"nam": "x"}}}, False),
]


@pytest.mark.parametrize(("schema", "value", "fits"), CLOSED, ids=range(len(CLOSED)))
def test_objects_are_closed_unless_they_say_otherwise(schema: dict[str, Json], value: Json, fits: bool) -> None:
    """Unknown names are refused at every level, also through references; conditions keep their sense."""
    assert (compile_schema(schema, close=True).check(value) == ()) is fits


def test_an_output_schema_is_checked_as_written() -> None:
    """Without `close` nothing is added."""
    validator = compile_schema(A, close=False)
    assert validator.schema == A
    assert validator.check({"b": 1}) == ()


def test_closing_leaves_the_given_schema_alone() -> None:
    """The schema that was handed in is not changed."""
    before = json.dumps(ISSUE)
    assert compile_schema(ISSUE, close=True).schema["additionalProperties"] is False
    assert json.dumps(ISSUE) == before


REPAIRS: list[tuple[dict[str, Json], Fix]] = [
    ({}, Fix("/repo", "nothing", "a string (required)")),
    ({"repo": "a/b", "titel": "x"}, Fix("/title", "nothing", "a string (required)", "titel")),
    (
        {"repo": "a/b", "title": "abc", "bdy": "x"},
        Fix("/bdy", "an unknown name", "one of repo, title, body, state, count", "body"),
    ),
    ({"repo": 1, "title": "abc"}, Fix("/repo", "a whole number", "a string")),
    ({"repo": True, "title": "abc"}, Fix("/repo", "true or false", "a string")),
    (
        {"repo": "A", "title": "abc"},
        Fix("/repo", "a string of 1 characters", "a string matching ^[a-z0-9-]+/[a-z0-9._-]+$"),
    ),
    ({"repo": "a/b", "title": "x" * 30}, Fix("/title", "a string of 30 characters", "at most 20 characters")),
    (
        {"repo": "a/b", "title": "abc", "state": "opne"},
        Fix("/state", "a string of 4 characters", 'one of "open", "closed"', "open"),
    ),
    ({"repo": "a/b", "title": "abc", "count": 10}, Fix("/count", "a whole number", "a number of at most 9")),
    ({"repo": "a/b", "title": "abc", "count": 1.5}, Fix("/count", "a number", "a whole number")),
]


@pytest.mark.parametrize(("arguments", "fix"), REPAIRS, ids=range(len(REPAIRS)))
def test_a_fix_says_where_what_came_and_what_is_allowed(arguments: dict[str, Json], fix: Fix) -> None:
    """Each kind of mistake has a fix a model can act on."""
    assert fix in compile_schema(ISSUE, close=True).check(arguments)


def test_at_most_five_fixes() -> None:
    """A thousand mistakes give five fixes."""
    schema = {"items": {"type": "string"}}
    assert len(compile_schema(schema, close=True).check(list(range(400)))) == 5


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (1, Fix("", "a whole number", "a string or null")),
        ({"kind": "a"}, Fix("/size", "nothing", "a whole number (required)")),
    ],
)
def test_alternatives_are_explained_by_the_closest(value: Json, fix: Fix) -> None:
    """Of several branches the one whose type is right is explained, else the types are listed."""
    union: list[Json] = [{"type": "string"}, {"type": "null"}]
    record = {"type": "object", "properties": {"kind": {}, "size": {"type": "integer"}}, "required": ["kind", "size"]}
    schema: dict[str, Json] = {"anyOf": union if isinstance(value, int) else [*union, record]}
    assert compile_schema(schema, close=True).check(value) == (fix,)


def test_nothing_that_was_sent_is_repeated() -> None:
    """Neither a wrong value nor a long or hostile key comes back in a fix."""
    secret = "hunter2-" * 20
    for value in ({"repo": secret, "title": secret}, {secret: 1}, {"repo\x1b[2J": 1}, {"state": secret}):
        shown = repr(compile_schema(ISSUE, close=True).check(value))
        assert secret not in shown
        assert "\x1b" not in shown
        assert len(shown) < 2000


@pytest.mark.parametrize(
    "schema", [{"items": {"type": "string"}}, {"anyOf": [{"items": {"type": "string"}}, {"const": 1}]}]
)
def test_a_huge_wrong_value_is_refused_without_listing_its_errors(schema: dict[str, Json]) -> None:
    """A list of 300,000 wrong items gives one fix, not 300,000 errors."""
    assert len(compile_schema(schema, close=True).check([1] * 300_000)) == 1


FILLED: list[tuple[dict[str, Any], Any, Any]] = [
    (ISSUE, {"repo": "a/b"}, {"repo": "a/b", "body": ""}),
    ({"properties": {"n": {"type": "number"}}}, {"n": 12}, {"n": 12.0}),
    ({"properties": {"n": {"type": ["number", "null"]}}}, {"n": 12}, {"n": 12.0}),
    ({"properties": {"n": {"type": "integer"}}}, {"n": 12}, {"n": 12}),
    ({"properties": {"n": {"anyOf": [{"type": "number"}, {"type": "string"}]}}}, {"n": 12}, {"n": 12.0}),
    ({"properties": {"n": {"type": "number", "default": 3}}}, {}, {"n": 3.0}),
    ({"properties": {"l": {"items": {"type": "number"}}}}, {"l": [1, 2.5]}, {"l": [1.0, 2.5]}),
    (
        {"properties": {"l": {"prefixItems": [{"type": "integer"}, {"type": "number"}], "items": {"type": "number"}}}},
        {"l": [1, 2, 3]},
        {"l": [1, 2.0, 3.0]},
    ),
    ({"additionalProperties": {"type": "number"}, "properties": {"i": {}}}, {"i": 1, "x": 1}, {"i": 1, "x": 1.0}),
    ({"properties": {"o": {"properties": {"x": {"default": [1]}}}}}, {"o": {}}, {"o": {"x": [1]}}),
    ({"properties": {"o": {"properties": {"x": {"default": 1}}}}}, {}, {}),
    ({"properties": {"o": {"default": {}, "properties": {"x": {"default": 1}}}}}, {}, {"o": {"x": 1}}),
    ({"allOf": [{"properties": {"x": {"default": 1}}}]}, {}, {"x": 1}),
    ({"$defs": {"d": {"properties": {"x": {"default": 1}}}}, "$ref": "#/$defs/d"}, {}, {"x": 1}),
    ({"anyOf": [{"properties": {"x": {"default": 1}}}]}, {}, {}),
    ({"if": {"properties": {"x": {"type": "number", "default": 1}}}, **A}, {"a": 1}, {"a": 1}),
    (
        {"properties": {"v": {"type": "number"}, "next": {"$ref": "#"}}},
        {"v": 1, "next": {"v": 2, "next": {"v": 3}}},
        {"v": 1.0, "next": {"v": 2.0, "next": {"v": 3.0}}},
    ),
    ({"properties": {"n": {"type": "number"}}}, {"n": True}, {"n": True}),
]


@pytest.mark.parametrize(("schema", "given_value", "filled"), FILLED, ids=range(len(FILLED)))
def test_defaults_and_floats_are_filled_in(schema: dict[str, Json], given_value: Any, filled: Any) -> None:
    """Defaults and numbers are filled in at every level, and what was given stays as it was."""
    before = json.dumps(given_value)
    got = compile_schema(schema, close=False).fill(given_value)
    assert json.dumps(got) == json.dumps(filled)
    assert json.dumps(given_value) == before


def test_nothing_to_fill_is_no_work() -> None:
    """A schema without defaults and numbers hands the same object back."""
    arguments: dict[str, Json] = {"a": 1}
    assert compile_schema(A, close=True).fill(arguments) is arguments


def test_a_default_is_not_shared_between_calls() -> None:
    """Each call gets its own copy of a default list."""
    validator = compile_schema({"properties": {"l": {"default": []}}}, close=True)
    first, second = validator.fill({}), validator.fill({})
    assert first["l"] is not second["l"]


def test_numbers_are_exact() -> None:
    """19.99 is a multiple of 0.01, and a hundred-digit integer is an integer."""
    validator = compile_schema({"properties": {"m": {"multipleOf": 0.01}, "i": {"type": "integer"}}}, close=True)
    assert validator.check({"m": 19.99, "i": 10**99}) == ()


def test_patterns_are_linear() -> None:
    """Nested repetition over 100,000 characters is judged at once."""
    assert compile_schema({"properties": {"s": {"pattern": "^(a+)+$"}}}, close=True).check({"s": "a" * 100_000 + "!"})


def reference(schema: Any) -> Any:
    """The reference implementation, offline."""
    return jsonschema.Draft202012Validator(schema, registry=referencing.Registry())


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.text("ab", max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
)
leaves = st.one_of(
    st.builds(lambda kind: {"type": kind}, st.sampled_from(["string", "integer", "number", "object", "array", "null"])),
    st.builds(lambda low: {"minLength": low, "minimum": low, "minItems": low}, st.integers(0, 2)),
    st.builds(lambda options: {"enum": options}, st.lists(scalars, min_size=1, max_size=3)),
    st.just({"pattern": "^a"}),
    st.just({"required": ["a"]}),
    st.just({"uniqueItems": True, "maxItems": 3}),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda part: {"properties": {"a": part}}, inner),
        st.builds(lambda part: {"items": part}, inner),
        st.builds(lambda part: {"not": part}, inner),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"oneOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"allOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"if": one, "then": two}, inner, inner),
        st.builds(lambda one, two: {"properties": {"b": one}, "additionalProperties": two}, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(schemas, st.lists(values, min_size=1, max_size=4))
def test_verdicts_agree_with_the_reference(schema: dict[str, Json], some: list[Json]) -> None:
    """Closed or not, our verdict is that of the reference implementation on the schema we publish."""
    for close in (False, True):
        validator: Validator = compile_schema(schema, close=close)
        judge = reference(validator.schema)
        for value in some:
            fixes = validator.check(value)
            assert (not fixes) == judge.is_valid(value)
            assert len(fixes) <= 5


@settings(max_examples=200)
@given(schemas, st.lists(values, min_size=1, max_size=4))
def test_closing_only_ever_narrows_plain_schemas(schema: dict[str, Json], some: list[Json]) -> None:
    """A value that fits the closed schema fits the schema as written, where no `oneOf` or `not` can turn it round."""
    if "oneOf" in json.dumps(schema) or '"not"' in json.dumps(schema):
        return
    strict, plain = compile_schema(schema, close=True), compile_schema(schema, close=False)
    for value in some:
        assert strict.check(value) or not plain.check(value)
