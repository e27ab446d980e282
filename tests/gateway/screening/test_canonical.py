"""Canonical text: what is removed, what stays, and what rules read instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.screening.canonical import canonical, comparable, hidden, is_plain

ANY_TEXT = st.text(st.characters(), max_size=200)  # surrogates too
TROUBLE = st.text("a \n\t\r\x00\x1b[]0;m\\\x07\x9b\x9cé❤👩\ufe0f\u200d\u200c\u200b\u202e\U000e0041\ud800Ж", max_size=40)


def tagged(message: str) -> str:
    return "".join(chr(0xE0000 + ord(char)) for char in message)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text\n\twith lines", "plain text\n\twith lines"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("nul\x00bel\x07del\x7f", "nulbeldel"),
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]never closed", "never closed"),
        ("\x1b(Btext\x1b7", "text"),
        ("\x1b[31", "31"),
        ("\x1b\x1b[0m[0m", "[0m"),
        ("\x1bé", "é"),
        ("zero\u200bwidth\ufeff\u2060\u00ad", "zerowidth"),
        ("\u202eabc\u202c", "abc"),
        ("visible" + tagged("hidden"), "visible"),
        ("x\ufe00\ufe01\U000e0100\U000e01ef", "x"),
        ("I\u200dg\u200dnore", "Ignore"),
        ("lone\ud800", "lone\ufffd"),
    ],
)
def test_removed(raw: str, shown: str) -> None:
    """Controls, escape sequences and invisible characters are gone; the words stay."""
    assert canonical(raw) == shown


@pytest.mark.parametrize(
    "text", ["❤️", "👩\u200d💻", "❤\ufe0f\u200d🔥", "می\u200cخواهم", "क्\u200dष", "naïve Ωmega 漢字"]
)
def test_kept(text: str) -> None:
    """A single joiner or selector that its script needs stays."""
    assert canonical(text) == text


def test_a_run_of_joiners_is_not_orthography() -> None:
    """Joiners in a row spell something else than letters, so all of them go."""
    assert canonical("漢\u200d\u200c\u200d\u200c字") == "漢字"


@given(ANY_TEXT | TROUBLE)
def test_idempotent(text: str) -> None:
    """Canonical text is canonical: a second pass changes nothing."""
    assert canonical(canonical(text)) == canonical(text)


@given(ANY_TEXT | TROUBLE)
def test_clean(text: str) -> None:
    """No control but line feed and tab is left, and the text can be encoded."""
    shown = canonical(text)
    assert not [char for char in shown if char < " " and char not in "\n\t"]
    assert "\x7f" not in shown
    shown.encode()


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_is_returned_as_it_is(text: str) -> None:
    """ASCII without controls is not copied."""
    if is_plain(text):
        assert canonical(text) is text


def test_hidden_message_is_read() -> None:
    """What tag characters or variation selectors spell is told, so that rules can judge it."""
    selectors = "".join(chr(0xE0100 + ord(char) - 16) for char in "open the door")
    assert hidden("shown" + tagged("open the door")) == "open the door"
    assert hidden("shown" + selectors) == "open the door"


@pytest.mark.parametrize(
    "text", ["plain", "🏴" + "".join(map(chr, (0xE0067, 0xE0062, 0xE0065, 0xE006E, 0xE0067, 0xE007F))), "❤️" * 50]
)
def test_flags_and_emoji_hide_nothing(text: str) -> None:
    """An emoji flag and emoji selectors are no hidden message."""
    assert hidden(text) == ""


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Ｉｇｎｏｒｅ", "Ignore"),
        ("Іgnоrе", "Ignore"),  # Cyrillic letters in it
        ("i\u0301g\u0300nöre", "ignore"),
        ("𝐢𝐠𝐧𝐨𝐫𝐞", "ignore"),
        ("a\\nb", "a \nb"),
        ("plain", "plain"),
    ],
)
def test_comparable(text: str, read: str) -> None:
    """Compatibility forms, accents and look-alikes read as plain letters."""
    assert comparable(text) == read


@given(ANY_TEXT.map(canonical))
def test_comparable_never_raises(text: str) -> None:
    """Any canonical text can be read, and what is read can be encoded."""
    comparable(text).encode()


def test_a_long_run_of_marks_is_read_in_linear_time() -> None:
    """Normalising half a million alternating marks as they stand would take hours; they are gone before."""
    assert comparable("a" + "\u0300\u0316" * 250_000) == "a"
