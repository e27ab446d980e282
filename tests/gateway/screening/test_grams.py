"""The gram index: what stands in a text is found wherever it stands, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.screening.grams import GramIndex

FEW = st.text("ab", min_size=1, max_size=30)  # so few letters that strings share grams, and stand in one another


@given(st.lists(FEW, max_size=12), st.text("ab", max_size=80), st.integers(0, 12))
def test_it_finds_what_a_plain_search_finds(strings: list[str], text: str, dropped: int) -> None:
    """Exactly the strings that stand in the text, whatever others there are, also after some were taken away."""
    index = GramIndex()
    for number, string in enumerate(strings):
        index.add(string, str(number))
    gone, left = strings[:dropped], strings[dropped:]
    for number, string in enumerate(gone):
        index.discard(string, str(number))
    assert set(index.within(text)) == {string for string in left if string in text}


@given(st.text(min_size=8, max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_it_finds_letters_of_any_width(string: str, before: str, after: str) -> None:
    """Grams are of bytes, strings of letters: one of any script is found at any place."""
    index = GramIndex()
    index.add(string, "one")
    assert index.within(before + string + after) == {string: "one"}


def test_strings_that_begin_alike_are_kept_apart() -> None:
    """Ten thousand credentials of one kind, whose beginning is the same: each text meets only its own."""
    index = GramIndex()
    strings = [f"kind-of-token-that-begins-alike-{number:08x}" for number in range(10_000)]
    for number, string in enumerate(strings):
        index.add(string, str(number))
    for number in (0, 4_711, 9_999):
        assert index.within(f"see {strings[number]} there") == {strings[number]: str(number)}
    assert index.within("kind-of-token-that-begins-alike-") == {}


def test_a_string_keeps_its_first_name() -> None:
    """Of several names the first one counts, until it is taken away."""
    index = GramIndex()
    index.add("one-and-the-same-string", "a")
    index.add("one-and-the-same-string", "b")
    assert index.within("one-and-the-same-string") == {"one-and-the-same-string": "a"}
    index.discard("one-and-the-same-string", "a")
    assert index.within("one-and-the-same-string") == {"one-and-the-same-string": "b"}
    index.discard("one-and-the-same-string", "b")
    assert index.within("one-and-the-same-string") == {}
