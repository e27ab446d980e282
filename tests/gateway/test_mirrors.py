"""Arguments repeated in headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mirrors import Mirror, mirrors, unwrapped, wrapped
from gateway.tool import Json


def schema(**marks: Json) -> dict[str, Json]:
    return {"type": "object", "properties": marks}


def mark(name: Json, kind: Json = "string") -> dict[str, Json]:
    return {"type": kind, "x-mcp-header": name}


def test_marks_are_found_through_properties() -> None:
    """At any depth, under the lower-case name of the header."""
    assert mirrors(schema(a=mark("Region"), b=schema(c=mark("N", "integer")))) == (
        Mirror(("a",), "string", "mcp-param-region"),
        Mirror(("b", "c"), "integer", "mcp-param-n"),
    )


@pytest.mark.parametrize(
    "marks",
    [
        {"a": mark("two words")},
        {"a": mark("")},
        {"a": mark(3)},
        {"a": mark("N", "number")},
        {"a": mark("N", ["string"])},
        {"a": mark("same"), "b": mark("Same")},
        {"a": mark("good"), "b": mark("bad name")},
        {"a": {"anyOf": [mark("Hidden")]}},
    ],
)
def test_one_unusable_mark_drops_them_all(marks: dict[str, Json]) -> None:
    """Names are RFC 9110 tokens, unique whatever their case, on strings, integers and booleans."""
    assert mirrors(schema(**marks)) == ()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"a": {"b": "x"}}, "x"),
        ({"a": {"b": True}}, "true"),
        ({"a": {"b": 42}}, "42"),
        ({"a": {"b": None}}, None),
        ({"a": {"b": [1]}}, None),
        ({"a": "x"}, None),
        ([], None),
    ],
)
def test_the_value_of_an_argument(arguments: Json, value: str | None) -> None:
    """What is not there, null or no scalar has no header."""
    assert Mirror(("a", "b"), "string", "mcp-param-x").value(arguments) == value


@given(st.text())
def test_wrapping_is_undone_by_unwrapping(text: str) -> None:
    """Any text survives, as printable ASCII without white space at the ends."""
    header = wrapped(text)
    assert header.isascii()
    assert header == header.strip()
    assert unwrapped(header) == text


@pytest.mark.parametrize(
    "header", ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?/w==?=", "=?base64?QR==?="]
)
def test_a_broken_wrapper_is_no_value(header: str) -> None:
    """Padding, alphabet, UTF-8 and the unused bits have to be right."""
    assert unwrapped(header) is None


@pytest.mark.parametrize("header", ["SGVsbG8=", "=?base64?SGVsbG8=", "SGVsbG8=?=", "=?base64?="])
def test_half_a_wrapper_is_literal(header: str) -> None:
    """Only both ends make a wrapper."""
    assert unwrapped(header) == header
