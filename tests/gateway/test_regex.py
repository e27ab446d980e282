"""Linear-time patterns: what is refused, where offsets point, and that time stays linear."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import regex
from gateway.regex import BadPattern, PatternSet


@pytest.mark.parametrize(
    "pattern", ["(?=a)", "(?<!a)b", r"(a)\1", "(?P<x>a)(?P=x)", "[", "a**", "(", "a{1001}", "\ud800", "a" * 5000]
)
def test_what_re2_cannot_do_is_refused(pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Look-around, back-references and broken patterns are refused when compiled, and nothing is written to stderr."""
    with pytest.raises(BadPattern) as caught:
        regex.compile(pattern)
    assert caught.value.reason
    with pytest.raises(BadPattern):
        PatternSet().add(pattern)
    assert capfd.readouterr() == ("", "")


def test_offsets_are_characters() -> None:
    """Spans index the str that was searched, also after letters of two, three and four bytes."""
    text = "é漢😀 key=12 é key=3"
    found = regex.compile(r"key=\d+")
    assert found.search(text) == (4, 10)
    assert [text[start:end] for start, end in found.finditer(text)] == ["key=12", "key=3"]


@given(st.text(alphabet="aé漢😀 ", max_size=40))
def test_every_span_cuts_out_what_matched(text: str) -> None:
    """For any mix of widths the spans are exactly the runs that were asked for."""
    assert "".join(text[start:end] for start, end in regex.compile("[é😀]+").finditer(text)) == "".join(
        letter for letter in text if letter in "é😀"
    )


def test_fullmatch_needs_the_whole_text() -> None:
    """A match of a part is no full match."""
    found = regex.compile("[a-z]+")
    assert found.fullmatch("abc") == (0, 3)
    assert found.fullmatch("abc1") is None
    assert found.search("123") is None


def test_empty_matches_do_not_loop() -> None:
    """A pattern that matches nothing at all still ends."""
    assert list(regex.compile("x*").finditer("éa")) == [(0, 0), (1, 1), (2, 2)]


def test_catastrophic_pattern_is_harmless() -> None:
    """Nested repetition over 100,000 characters ends; a backtracking engine would not within a lifetime."""
    assert regex.compile("^(a+)+$").search("a" * 100_000 + "!") is None


def test_set_says_which_patterns_occur() -> None:
    """One pass gives the numbers of all patterns found, ascending, and an empty list for none."""
    many = PatternSet()
    assert [many.add(pattern) for pattern in ("(?i)ignore", "é+", "zzz")] == [0, 1, 2]
    many.compile()
    assert many.match("éé IGNORE") == [0, 1]
    assert many.match("nothing") == []


def test_empty_set_matches_nothing() -> None:
    """A set without patterns is allowed."""
    none = PatternSet()
    none.compile()
    assert none.match("anything") == []


def test_set_order_of_use_is_checked() -> None:
    """Matching before compiling and adding after it are programming errors."""
    many = PatternSet()
    with pytest.raises(RuntimeError):
        many.match("a")
    many.compile()
    with pytest.raises(RuntimeError):
        many.add("a")
