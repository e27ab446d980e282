"""The strict decoder: everything it must take, everything it must refuse, and how it fails."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.strictjson import MalformedJson, TooLarge, canonical, loads

MIB = 1 << 20

TAKEN: list[tuple[bytes, object]] = [
    (b"null", None),
    (b"true", True),
    (b"false", False),
    (b"0", 0),
    (b"-0", 0),
    (b"123456789012345678901234567890", 123456789012345678901234567890),
    (b"9" * 100, int("9" * 100)),
    (b"-1", -1),
    (b"0.1", 0.1),
    (b"-0.0", -0.0),
    (b"1e5", 1e5),
    (b"1E+2", 100.0),
    (b"1e-400", 0.0),
    (b"1.7976931348623157e308", 1.7976931348623157e308),
    (b'""', ""),
    (b'"a"', "a"),
    (b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\/\b\f\n\r\t'),
    (b'"\\u0000"', "\0"),
    (b'"\\u00e9"', "é"),
    ('"é"'.encode(), "é"),
    ('"😀"'.encode(), "😀"),
    (b'"\\ud83d\\ude00"', "😀"),
    (b'"\\uD83D\\uDE00"', "😀"),
    (b'"\\\\ud83d"', "\\ud83d"),
    ('"\ufeff"'.encode(), "\ufeff"),
    (b'"\x7f"', "\x7f"),
    (b'"[[[[[[[["', "[[[[[[[["),
    (b"[]", []),
    (b"{}", {}),
    (b" \t\r\n[ 1 , 2 ] \n", [1, 2]),
    (b'{"a":1,"b":{"a":2}}', {"a": 1, "b": {"a": 2}}),
    (b'{"":0}', {"": 0}),
    (b'[{"a":1},{"a":1}]', [{"a": 1}, {"a": 1}]),
    (b"[" * 64 + b"]" * 64, None),
]

REFUSED: list[tuple[bytes, str]] = [
    (b"", "unexpected end"),
    (b"  ", "unexpected end"),
    (b"nul", "not JSON"),
    (b"True", "not JSON"),
    (b"NaN", "NaN"),
    (b"[NaN]", "NaN"),
    (b"Infinity", "NaN"),
    (b"-Infinity", "NaN"),
    (b"-NaN", "not JSON"),
    (b"1e400", "too large"),
    (b"-1e400", "too large"),
    (b"[1e99999]", "too large"),
    (b"9" * 101, "100 characters"),
    (b"9" * 5000, "100 characters"),
    (b"0." + b"1" * 99, "100 characters"),
    (b"+1", "not JSON"),
    (b"01", "after the one value"),
    (b"1.", "after the one value"),
    (b".5", "not JSON"),
    (b"1e", "after the one value"),
    (b"0x10", "after the one value"),
    (b"-", "not JSON"),
    ("１".encode(), "not JSON"),
    (b"1 2", "after the one value"),
    (b"{}{}", "after the one value"),
    (b"[]]", "after the one value"),
    (b"[1,]", "not JSON"),
    (b"[,1]", "not JSON"),
    (b"[1 2]", "not JSON"),
    (b"[1", "unexpected end"),
    (b"[", "unexpected end"),
    (b"]", "not JSON"),
    (b"{", "unexpected end"),
    (b'{"a"', "unexpected end"),
    (b'{"a":', "unexpected end"),
    (b'{"a":1', "unexpected end"),
    (b'{"a":1,}', "not JSON"),
    (b'{"a" 1}', "not JSON"),
    (b"{a:1}", "not JSON"),
    (b"{1:1}", "not JSON"),
    (b"{'a':1}", "not JSON"),
    (b'{"a":1,"a":2}', "twice"),
    (b'{"a":1,"a":1}', "twice"),
    (b'{"a":1,"\\u0061":2}', "twice"),
    (b'[{"x":{"a":1,"a":2}}]', "twice"),
    (b'"', "not JSON"),
    (b'"a', "not JSON"),
    (b'"a\nb"', "not JSON"),
    (b'"\x00"', "not JSON"),
    (b'"\x1f"', "not JSON"),
    (b'"\\x41"', "not JSON"),
    (b'"\\u12"', "not JSON"),
    (b'"\\u 123"', "not JSON"),
    (b'"\\u00e"', "not JSON"),
    (b'"\\', "not JSON"),
    (b'"\\ud83d"', "surrogate"),
    (b'"\\uDE00"', "surrogate"),
    (b'"\\ud83d\\ud83d"', "surrogate"),
    (b'"\\ude00\\ud83d"', "surrogate"),
    (b'{"\\ud800":1}', "surrogate"),
    (b'[["\\\\\\ud800"]]', "surrogate"),
    (b'"\xed\xa0\x80"', "UTF-8"),
    (b'"\xff"', "UTF-8"),
    (b'"\xc0\xaf"', "UTF-8"),
    (b'"\xe9"', "UTF-8"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    ('{"a":1}'.encode("utf-16"), "UTF-8"),
    ('{"a":1}'.encode("utf-16-le"), "not JSON"),
    ('{"a":1}'.encode("utf-32-be"), "not JSON"),
    (b"[1]\x00", "after the one value"),
    (b"\x0c[]", "not JSON"),
    (b"\xc2\xa0[]", "not JSON"),
    (b"[] // done", "after the one value"),
    (b"/* a */ []", "not JSON"),
    (b"[" * 65 + b"]" * 65, "deeper than 64"),
    (b"[" * 10_000, "deeper than 64"),
    (b'{"a":' * 10_000, "deeper than 64"),
    (b'["\\"",' * 100, "deeper than 64"),
    (b'["\\\\",' * 100, "deeper than 64"),
]


@pytest.mark.parametrize(("raw", "value"), TAKEN, ids=range(len(TAKEN)))
def test_strict_json_is_taken(raw: bytes, value: object) -> None:
    """Whatever RFC 8259 allows and this decoder does not name as refused is read as written."""
    got = loads(raw, max_bytes=MIB)
    if value is not None or raw == b"null":
        assert got == value
        assert type(got) is type(value)


@pytest.mark.parametrize(("raw", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_everything_looser_is_refused(raw: bytes, reason: str) -> None:
    """Each way of not being strict JSON has its own fixed phrase."""
    with pytest.raises(MalformedJson) as caught:
        loads(raw, max_bytes=MIB)
    assert reason in caught.value.reason


def test_size_is_checked_before_anything_is_read() -> None:
    """A body one byte over the limit is refused as too large even though it is not JSON at all."""
    with pytest.raises(TooLarge) as caught:
        loads(b"\xff" * 11, max_bytes=10)
    assert (caught.value.size, caught.value.limit) == (11, 10)
    assert loads(b'"12345678"', max_bytes=10) == "12345678"


def test_sixty_four_mebibytes_are_refused() -> None:
    """A 64 MiB body is turned away by its size."""
    with pytest.raises(TooLarge):
        loads(bytes(64 * MIB), max_bytes=MIB)


def test_position_counts_characters() -> None:
    """The position is that of the character which is wrong, and the text itself is never in the message."""
    with pytest.raises(MalformedJson) as caught:
        loads('{"é": hunter2}'.encode(), max_bytes=MIB)
    assert caught.value.position == 6
    assert "hunter2" not in str(caught.value)


def test_position_of_bad_utf8_counts_bytes() -> None:
    """Text that is not UTF-8 has no characters to count, so the position is a byte offset."""
    with pytest.raises(MalformedJson) as caught:
        loads('"é'.encode() + b"\xff", max_bytes=MIB)
    assert caught.value.position == 3


def test_brackets_in_strings_are_no_depth() -> None:
    """Only structure counts: a string full of brackets and escaped quotes is depth 1."""
    inner = "[{" * 500 + '"' + "\\" + "[{" * 500
    raw = json.dumps([inner, {inner: inner}]).encode()
    assert loads(raw, max_bytes=MIB, max_depth=2) == [inner, {inner: inner}]


def test_siblings_are_no_depth() -> None:
    """Ten thousand arrays side by side are two deep."""
    assert loads(b"[" + b"[]," * 10_000 + b"[]]", max_bytes=MIB, max_depth=2) == [[]] * 10_001


@pytest.mark.parametrize("depth", [0, 1, 2, 63, 64])
def test_depth_is_exact(depth: int) -> None:
    """Exactly the asked depth passes and one more does not."""
    raw = b"[" * depth + b"1" + b"]" * depth
    loads(raw, max_bytes=MIB, max_depth=depth)
    with pytest.raises(MalformedJson):
        loads(b"[" + raw + b"]", max_bytes=MIB, max_depth=depth)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=200)
@given(json_values, st.booleans())
def test_round_trip(value: Any, ascii_only: bool) -> None:
    """Whatever the standard encoder writes is read back equal, escaped or not."""
    assert loads(json.dumps(value, ensure_ascii=ascii_only).encode(), max_bytes=MIB) == value


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\ud8019eE.-+ntf ', max_size=60).map(str.encode))
def test_any_bytes_end_in_a_value_or_a_refusal(raw: bytes) -> None:
    """No input gets any other exception out, and what is taken has no NaN and can be written again."""
    try:
        value = loads(raw, max_bytes=MIB)
    except MalformedJson:
        return
    assert loads(json.dumps(value, allow_nan=False).encode(), max_bytes=MIB) == value


@settings(max_examples=200)
@given(json_values)
def test_canonical_bytes_are_strict_json_of_the_same_value(value: Any) -> None:
    """The canonical form reads back as the value and is written the same a second time."""
    written = canonical(value)
    again = loads(written, max_bytes=MIB)
    assert again == value
    assert canonical(again) == written


def test_spelling_does_not_change_the_canonical_bytes() -> None:
    """Key order, white space and escapes are spelling; 1 and 1.0 are two values."""
    spellings = [b'{"b":"\\u00e9","a":1}', '{ "a": 1, "b": "é" }'.encode()]
    forms = [canonical(loads(raw, max_bytes=MIB)) for raw in spellings]
    assert forms == ['{"a":1,"b":"é"}'.encode()] * 2
    assert canonical(1) != canonical(1.0)


def test_canonical_sorts_by_code_point() -> None:
    """Keys sort by code point in both encoders, so beyond the BMP as well."""
    keys = ["a", "Z", "é", "\uffee", "😀"]
    for extra in (1, 2**70):
        order = list(json.loads(canonical({key: extra for key in keys})))
        assert all(left < right for left, right in pairwise(order))


def test_canonical_takes_big_integers() -> None:
    """An integer of any size is written in full."""
    assert canonical({"b": 2**100, "a": "😀"}) == f'{{"a":"😀","b":{2**100}}}'.encode()


@pytest.mark.parametrize("value", [{1: 2}, {1: 2**70}, [{1: 2}, 2**70], {"a": object()}, "\ud800", b"x", {"a": {1}}])
def test_canonical_takes_nothing_but_json(value: object) -> None:
    """A key that is no string, a lone surrogate or a foreign type is a TypeError, never a silent conversion."""
    with pytest.raises(TypeError):
        canonical(value)


def test_finite_stays_finite() -> None:
    """The largest double is read as itself, not as infinity."""
    assert math.isfinite(float(loads(b"1.7976931348623157e308", max_bytes=MIB)))  # type: ignore[arg-type]  # a float
