"""JSON taken apart and put together."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.screening.leaves import MAX_DEPTH, NotJson, gather, pointer, rebuild

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


@given(JSON, st.booleans())
def test_put_together_again(value: object, numbers: bool) -> None:
    """Nothing is lost or moved when no string changes."""
    assert rebuild(value, gather(value, numbers).strings, numbers) == value


def test_order_and_keys() -> None:
    """Strings come in document order; keys are known as such."""
    leaves = gather({"a": ["x", {"b": "y"}], "c": 1})
    assert leaves.strings == ["a", "x", "b", "y", "c"]
    assert leaves.keys == {0, 2, 4}


def test_pointers() -> None:
    """Each string has a pointer; a name that could carry a message is not repeated in it."""
    value = {"a": ["x", {"do this now!": "y"}]}
    assert [pointer(value, at) for at in range(5)] == ["/a", "/a/0", "/a/1/*", "/a/1/*", ""]


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1: "a"}, object(), 1 << 5000, (1, 2)])
def test_not_json(value: object) -> None:
    """What JSON does not have is refused."""
    with pytest.raises(NotJson):
        gather(value)


def test_depth() -> None:
    """64 levels are taken, 65 are not, and a thousand do not end in a RecursionError."""
    value: object = "x"
    for _ in range(MAX_DEPTH):
        value = [value]
    assert gather(value).strings == ["x"]
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotJson):
        gather(value)


def test_numbers_as_strings() -> None:
    """A number can be replaced when numbers were asked for; the others keep their type."""
    assert rebuild([1234, 5], ["[redacted]", "5"], numbers=True) == ["[redacted]", 5]
