"""Templates: what a value becomes in a path, a query, a header and JSON, and what is never evaluated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Refusal
from gateway.runners.template import Missing, Text, fill_json, parse_json
from gateway.tool import Json


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ("plain",)),
        ("", ("",)),
        ("{a}", ("", "a", "")),
        ("x{a}{b-1.c_d}y", ("x", "a", "", "b-1.c_d", "y")),
        ("{ a } {} {a!r} {a[0]} {{a}} {", ("{ a } {} {a!r} {a[0]} {", "a", "} {")),
        ("query { user(id: {id}) { name } }", ("query { user(id: ", "id", ") { name } }")),
    ],
)
def test_a_placeholder_is_a_name_in_braces(text: str, parts: tuple[str, ...]) -> None:
    """Anything else in braces is itself: no conversion, no index, no escape."""
    assert Text.parse(text).parts == parts


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("plain-1._~", "plain-1._~"),
        ("a/b", "a%2Fb"),
        ("../..", "..%2F.."),
        ("%2e%2e", "%252e%252e"),
        ("?x=1&y#z", "%3Fx%3D1%26y%23z"),
        ("a b+c;d", "a%20b%2Bc%3Bd"),
        ("é", "%C3%A9"),
        ("\r\nHost: x", "%0D%0AHost%3A%20x"),
        ("{other}", "%7Bother%7D"),
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
    ],
)
def test_a_path_value_is_encoded_with_no_safe_character(value: Json, path: str) -> None:
    """Only RFC 3986's unreserved characters stand as they are; a value is never a template itself."""
    assert Text.parse("/x/{v}").path({"v": value, "other": "no"}) == f"/x/{path}"


@pytest.mark.parametrize("value", ["", None, [], {}, ["a"]])
def test_a_path_value_has_to_be_a_text_or_number(value: Json) -> None:
    """An empty segment and a list are refused with the argument's name, and without its value."""
    with pytest.raises(Refusal) as refused:
        Text.parse("/x/{v}").path({"v": value})
    assert refused.value.problem.code == "invalid_arguments"
    assert refused.value.problem.fix[0].pointer == "/v"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_query_value_is_one_value(value: str) -> None:
    """No text in an argument adds a parameter, a fragment or a line."""
    filled = Text.parse("q={v}").query({"v": value})
    assert filled.startswith("q=")
    assert not set(filled[2:]) & set("&#=+?/ \r\n\t")
    assert filled.isascii()


def test_the_literals_of_a_query_value_are_encoded_too() -> None:
    """What an operator writes into a query value is a value."""
    assert Text.parse_query_value("a&b={v}").query({"v": "c&d"}) == "a%26b%3Dc%26d"


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\x00", "caf\u00e9", " a", "a ", "\u2028", None, []])
def test_a_header_value_is_one_line_of_ascii(value: Json) -> None:
    """Line breaks, controls, other scripts and outer spaces are refused."""
    with pytest.raises(Refusal) as refused:
        Text.parse("{v}").header({"v": value})
    assert refused.value.problem.code == "invalid_arguments"


def test_a_whole_placeholder_keeps_its_json_type() -> None:
    """A number stays a number, a list a list; within a text it is spelled."""
    template = parse_json({"a": "{n}", "b": "n={n}", "c": ["{l}", 1, None], "{n}": True, "d": {"e": "{o}"}})
    given: dict[str, Json] = {"n": 5, "l": [1, {"x": "{n}"}], "o": {"k": None}}
    assert fill_json(template, given) == {
        "a": 5,
        "b": "n=5",
        "c": [[1, {"x": "{n}"}], 1, None],
        "{n}": True,
        "d": {"e": {"k": None}},
    }


def test_a_member_whose_argument_is_missing_is_left_out() -> None:
    """Elsewhere a missing argument cannot be left out, and is named."""
    assert fill_json(parse_json({"a": "{x}", "b": "{y}"}), {"y": 1}) == {"b": 1}
    for template in ("{x}", ["{x}"], {"a": "x is {x}"}):
        with pytest.raises(Missing, match="x"):
            fill_json(parse_json(template), {})


def test_attributes_are_out_of_reach() -> None:
    """What walks attributes elsewhere is plain text here."""
    text = "{v.__class__.__init__.__globals__} {0.x} {v!r:>10}"
    with pytest.raises(Missing, match=r"v\.__class__\.__init__\.__globals__"):
        Text.parse(text).plain({"v": 1})
