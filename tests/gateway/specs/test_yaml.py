"""The strict YAML loader: what scalars mean, what is refused and where, and that places are right."""

import math

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.specs.yaml import MAX_BYTES, SpecError, load, load_all, pointer

SCALARS: list[tuple[str, object]] = [
    ("no", "no"),
    ("Yes", "Yes"),
    ("on", "on"),
    ("y", "y"),
    ("010", "010"),
    ("-007", "-007"),
    ("01.5", "01.5"),
    ("1:30", "1:30"),
    ("12:30:45", "12:30:45"),
    ("1_000", "1_000"),
    ("2024-01-01", "2024-01-01"),
    ("0b11", "0b11"),
    ("+0x1F", "+0x1F"),
    ("=", "="),
    ("1.2.3", "1.2.3"),
    ("10s", "10s"),
    ("--", "--"),
    ("...x", "...x"),
    ("NULL", None),
    ("~", None),
    ("", None),
    ("null", None),
    ("nUll", "nUll"),
    ("true", True),
    ("FALSE", False),
    ("tRue", "tRue"),
    ("0", 0),
    ("-0", 0),
    ("+12", 12),
    ("0o17", 15),
    ("0x1F", 31),
    ("9" * 100, int("9" * 100)),
    ("1.5", 1.5),
    (".5", 0.5),
    ("1.", 1.0),
    ("-1e3", -1000.0),
    ("1e3", 1000.0),
    ("'1'", "1"),
    ('"true"', "true"),
    ('"\\u00e9"', "é"),
    ("'<<'", "<<"),
]

REFUSED: list[tuple[bytes, int, int, str]] = [
    (b"", 1, 1, "empty"),
    (b"# nothing\n", 1, 1, "empty"),
    (b"a: 1\na: 2\n", 2, 1, "twice"),
    (b"a:\n  b: 1\n  'b': 2\n", 3, 3, "twice"),
    (b"- {x: 1, x: 1}\n", 1, 10, "twice"),
    (b"a: &x 1\n", 1, 4, "anchors"),
    (b"a: &x [1]\nb: *x\n", 1, 4, "anchors"),
    (b"a: *x\n", 1, 4, "aliases"),
    (b"a: {<<: {b: 1}}\n", 1, 5, "merge"),
    (b"a: !!str 1\n", 1, 4, "tags"),
    (b"a: !x {b: 1}\n", 1, 4, "tags"),
    (b"a: ! 1\n", 1, 4, "tags"),
    (b"a: !!python/object/apply:os.system [x]\n", 1, 4, "tags"),
    (b"!!str a: 1\n", 1, 1, "tags"),
    (b"%YAML 1.1\n---\na: 1\n", 1, 1, "directives"),
    (b"%TAG ! tag:x,2000:\n---\na: 1\n", 1, 1, "directives"),
    (b"1: a\n", 1, 1, "key is a string"),
    (b"true: a\n", 1, 1, "key is a string"),
    (b"x:\n  null: a\n", 2, 3, "key is a string"),
    (b"{: a}\n", 1, 2, "not YAML"),
    (b"? [a]\n: b\n", 1, 3, "key is a string"),
    (b"? {a: b}\n: c\n", 1, 3, "key is a string"),
    (b"a: .nan\n", 1, 4, "finite"),
    (b"a: -.Inf\n", 1, 4, "finite"),
    (b"a: 1e400\n", 1, 4, "too large"),
    (b"a: 0." + b"1" * 200, 1, 4, "too large"),
    (b"a: 1\n---\nb: 2\n", 3, 1, "one document"),
    (b"a: [1\n", 2, 1, "not YAML"),
    (b"a:\n\t- 1\n", 2, 1, "not YAML"),
    (b"a: b: c\n", 1, 5, "not YAML"),
    (b'a: "\\ud800"\n', 1, 7, "not YAML"),
    (b"a: \x07\n", 1, 1, "not YAML"),
    (b"a: 1\nb: \xff\n", 2, 4, "UTF-8"),
    (b"\xef\xbb\xbfa: 1\n", 1, 1, "byte order mark"),
    ("a: 1\n".encode("utf-16"), 1, 1, "UTF-8"),
    (b"[" * 33 + b"]" * 33, 1, 33, "32 levels"),
    (b"[" * 100_000, 1, 33, "32 levels"),
    (b"{a: " * 100, 1, 129, "32 levels"),
    (b"#" * (MAX_BYTES + 1), 1, 1, "bytes"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=range(len(SCALARS)))
def test_scalars_are_core_schema(text: str, value: object) -> None:
    """A scalar means what YAML 1.2's core schema says, and a leading zero makes text of a number."""
    got = load(f"a: {text}\n".encode(), "x.yaml").value
    assert got == {"a": value}
    assert isinstance(got, dict)
    assert type(got["a"]) is type(value)


@pytest.mark.parametrize(("raw", "line", "column", "words"), REFUSED, ids=range(len(REFUSED)))
def test_everything_else_is_refused_with_its_place(raw: bytes, line: int, column: int, words: str) -> None:
    """A refusal names file, line and column and says in words what is wrong."""
    with pytest.raises(SpecError) as caught:
        load(raw, "x.yaml")
    error = caught.value
    assert words in error.sentence
    assert (error.file, error.line, error.column) == ("x.yaml", line, column)
    assert str(error).startswith(f"x.yaml:{line}:{column}: ")


def test_places_follow_json_pointers() -> None:
    """Each key and each item is found again by its JSON Pointer, escaped as RFC 6901 says."""
    found = load(b"a:\n  b/c: 1\n  d~e:\n  - x\n  - {y: 2}\n", "x.yaml")
    assert found.value == {"a": {"b/c": 1, "d~e": ["x", {"y": 2}]}}
    assert found.places == {
        "": (1, 1),
        "/a": (1, 1),
        "/a/b~1c": (2, 3),
        "/a/d~0e": (3, 3),
        "/a/d~0e/0": (4, 5),
        "/a/d~0e/1": (5, 5),
        "/a/d~0e/1/y": (5, 6),
    }
    assert pointer("a", "b/c", 0, "d~e") == "/a/b~1c/0/d~0e"


def test_a_missing_part_is_placed_at_what_surrounds_it() -> None:
    """A finding about a key that is not there points to the mapping that lacks it."""
    found = load(b"a:\n  b: {}\n", "x.yaml")
    assert found.place("/a/b/c/d") == (2, 3)
    assert str(found.error("/a/b/c", "c is needed")) == "x.yaml:2:3: c is needed"


def test_several_documents_only_when_asked() -> None:
    """`load_all` reads each document with its own places."""
    first, second = load_all(b"a: 1\n---\nb: 2\n", "x.yaml")
    assert (first.value, second.value) == ({"a": 1}, {"b": 2})
    assert second.places["/b"] == (3, 1)


def test_thirty_two_levels_are_taken() -> None:
    """The depth limit is exact."""
    assert load(b"[" * 32 + b"]" * 32, "x.yaml").value is not None


def _no_number(text: str) -> bool:
    """Whether the writer, which knows YAML 1.1 only, quotes it where YAML 1.2 reads a number (`0E0`)."""
    try:
        float(text)
    except ValueError:
        return True
    return False


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), max_size=12)
trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts.filter(_no_number),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc~/ é1", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150)
@given(trees)
def test_round_trip(tree: object) -> None:
    """What a YAML writer quotes and writes is read back equal."""
    text = pyyaml.safe_dump(tree, default_style='"' if isinstance(tree, str) else None, allow_unicode=True)
    # The writer knows YAML 1.1 only: it tags floats without a dot, which is refused here.
    if "!!" not in text:
        assert load(text.encode(), "x.yaml").value == tree


@settings(max_examples=300)
@given(st.text("ab:-[]{}&*!|>'\"%@`#,?\n 01.~<é\t\\", max_size=40))
def test_any_text_ends_in_a_value_or_a_finding(text: str) -> None:
    """Nothing but SpecError comes out, and every number that is taken is finite."""
    try:
        value = load(text.encode(), "x.yaml").value
    except SpecError:
        return
    assert not isinstance(value, float) or math.isfinite(value)
