"""What somebody else wrote, as people are shown it: nothing moves, hides or turns text, nothing is cut in silence."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import strictjson
from gateway.display import DEEPEST, LONGEST, MOST, WIDEST, digest, line, shown, text
from gateway.tool import Json

VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("plain", "plain"),
        ("grün 漢字", "grün 漢字"),
        ("a\nb\tc\r", r"a\u{a}b\u{9}c\u{d}"),
        ("\x1b[2J\x9b31m", r"\u{1b}[2J\u{9b}31m"),
        ("to\u202egnp.exe", r"to\u{202e}gnp.exe"),
        ("\u2066x\u2069\u200f", r"\u{2066}x\u{2069}\u{200f}"),
        ("ze\u200bro\u200d\ufeff\u00ad", r"ze\u{200b}ro\u{200d}\u{feff}\u{ad}"),
        ("a\u00a0b\u3000c\u2028d", r"a\u{a0}b\u{3000}c\u{2028}d"),
        ("z\u0336\u0353", r"z\u{336}\u{353}"),
        ("\u3164\u115f\u2800\ufe0f", r"\u{3164}\u{115f}\u{2800}\u{fe0f}"),
        ("\U000e0041\U000e0101", r"\u{e0041}\u{e0101}"),
        ("\ud800", r"\u{d800}"),
        (r"\u{202e}", r"\\u{202e}"),
    ],
)
def test_a_line_is_what_it_looks_like(written: str, seen: str) -> None:
    """Controls, escapes, bidi, zero width, odd blanks, marks and tags are spelled out; an escape cannot be forged."""
    assert line(written) == seen


def test_a_long_text_says_how_much_is_not_shown() -> None:
    """Of a line, and of many lines."""
    assert line("x" * 10, 4) == "xxxx… (6 more characters)"
    assert text("a\n\x1b\nc\nd", 2) == "a\n\\u{1b}\n… (2 more lines)"


def test_arguments_are_canonical_and_one_to_a_line() -> None:
    """In order of their names, whatever order they came in; a string cannot end itself."""
    said = {"z": [1, 2.5, None], "a": {"to": 'x", "amount": 1, "y": "'}, "e": {}, "l": []}
    assert shown(said).split("\n") == [
        "{",
        '  "a": {',
        r'    "to": "x\", \"amount\": 1, \"y\": \""',
        "  },",
        '  "e": {},',
        '  "l": [],',
        '  "z": [',
        "    1,",
        "    2.5,",
        "    null",
        "  ]",
        "}",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"t": "x" * (LONGEST + 7)}, "… (7 more characters)"),
        ({"x" * (LONGEST + 7): 1}, "… (7 more characters): 1"),
        (list(range(WIDEST + 3)), "… (3 more members)"),
        ([str(n) * 300 for n in range(WIDEST)], "…"),
    ],
    ids=["long", "long name", "wide", "much"],
)
def test_what_is_cut_is_said_with_the_digest_of_the_whole(value: Json, said: str) -> None:
    """Where it was cut, and at the end how large the whole is; what is shown is bounded."""
    text, spelled = shown(value), strictjson.canonical(value)
    assert said in text
    last = f"cut: the whole is {len(spelled)} bytes, sha256:{hashlib.sha256(spelled).hexdigest()}"
    assert text.split("\n")[-1] == last
    assert len(text) <= MOST + len(last) + 2
    assert digest(value) in last


def test_what_is_deep_is_cut() -> None:
    """Below so many levels it is only counted."""
    value: Json = ["bottom", "b"]
    for _ in range(DEEPEST):
        value = {"in": value}
    assert "[… (2 members, too deep to show)]" in shown(value)
    assert "bottom" not in shown(value)


@given(VALUES)
def test_nothing_that_is_shown_can_deceive(value: Json) -> None:
    """Only line ends of ours, and no character that is a control, a format, a mark or an odd blank."""
    for each in shown(value).replace("\n", ""):
        assert each == "…" or unicodedata.category(each) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert unicodedata.combining(each) == 0
        assert each == " " or unicodedata.category(each) != "Zs"


@given(VALUES, VALUES)
def test_two_values_never_look_alike(one: Json, other: Json) -> None:
    """What is shown whole says which value it is."""
    if "cut: the whole is" not in shown(one) + shown(other):
        assert (shown(one) == shown(other)) == (strictjson.canonical(one) == strictjson.canonical(other))


@pytest.mark.parametrize(
    "long",
    [
        "\u202e" * LONGEST,
        ["x" * LONGEST] * 9,
        [["\u202e" * LONGEST] * WIDEST] * WIDEST,
        {"\x1b" * LONGEST: "\x1b" * LONGEST},
    ],
    ids=["spelled out", "several", "deep", "name"],
)
@pytest.mark.parametrize("depth", [0, 3])
def test_nothing_long_hides_what_comes_after_it(long: Json, depth: int) -> None:
    """However much one argument takes, those after it are shown too."""
    value: Json = {"a_comment": long, "amount": 500, "to": "eve"}
    for _ in range(depth):
        value = {"an_order": value, "pay": True}
    lines = [each.strip() for each in shown(value).split("\n")]
    assert {'"amount": 500,', '"to": "eve"'} <= set(lines)
    assert lines.count('"pay": true') == depth
    assert len(shown(value)) <= MOST + 100


@given(VALUES, st.integers(0, 3))
def test_what_is_shown_is_bounded(value: Json, nested: int) -> None:
    """Also where there is much of everything."""
    for _ in range(nested):
        value = {"a" * 90: [value] * 40, "b": value}
    assert len(shown(value)) <= MOST + 100
