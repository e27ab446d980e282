"""Decoded views: what is decoded, where it came from, and where it stops."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.screening.canonical import canonical, comparable
from gateway.screening.views import MAX_BLOBS, compared_view, squeezed, squeezed_view, views

MESSAGE = "meet me at the old mill at noon"


def encoded(message: str) -> dict[str, str]:
    raw = message.encode()
    twice = base64.b64encode(base64.b64encode(raw)).decode()
    return {
        "base64": base64.b64encode(raw).decode(),
        "base64 url": base64.urlsafe_b64encode(raw).decode().rstrip("="),
        "base64 twice": twice,
        "hex": raw.hex(),
        "percent": "".join(f"%{byte:02X}" for byte in raw),
        "percent in part": message.replace("e", "%65"),
        "entities": "".join(f"&#{byte};" for byte in raw),
        "hex entities": "".join(f"&#x{byte:x};" for byte in raw),
        "unicode escapes": "".join(f"\\u{byte:04x}" for byte in raw),
        "byte escapes": "".join(f"\\x{byte:02x}" for byte in raw),
        "percent over hex": "".join(f"%{byte:02x}" for byte in raw.hex().encode()),
    }


@pytest.mark.parametrize("form", encoded(MESSAGE))
def test_decoded(form: str) -> None:
    """Each encoding is read, and points back at the encoded piece."""
    piece = encoded(MESSAGE)[form]
    text = f"before {piece} after"
    texts = {view: place for view, place in views(text).found if MESSAGE in view}
    assert texts
    view, place = next(iter(texts.items()))
    at = view.index(MESSAGE)
    start, end = place(at, at + len(MESSAGE))
    assert text[start:end].rstrip("=") == piece.rstrip("=")


def test_wrapped_base64() -> None:
    """A blob broken into lines, as encoders write it, is one blob."""
    long = " ".join([MESSAGE] * 5)
    assert [view for view, _ in views(base64.encodebytes(long.encode()).decode()).found] == [long]


@pytest.mark.parametrize(
    "text", ["", "words and 12 numbers", "100 % sure & true", "C:\\new", "&unknown;", "%zz", "\\u12"]
)
def test_nothing_encoded(text: str) -> None:
    """Ordinary text has no views."""
    assert views(text).found == ()


@pytest.mark.parametrize(
    "text",
    [
        "9f86d081884c7d659a2feaa0c55ad015" * 2,
        "getConfigurationManagerInstanceByName",
        "/usr/lib/python3/dist-packages/x",
    ],
)
def test_what_decodes_to_no_text_is_no_view(text: str) -> None:
    """Digests, names and paths look encoded but say nothing."""
    assert views(text).found == ()


def test_bounds_are_told() -> None:
    """More encoded messages than the bound leave the views incomplete, and say so."""
    blobs = [base64.b64encode(f"message number {n:04} of many".encode()).decode() for n in range(MAX_BLOBS + 1)]
    assert views(" ".join(blobs[:-1])).complete
    assert not views(" ".join(blobs)).complete
    assert not views("%41" * 70_000).complete


def test_a_repeated_blob_is_decoded_wherever_it_stands() -> None:
    """Repeating an encoded message neither hides it nor uses up the bounds."""
    blob = base64.b64encode(MESSAGE.encode()).decode()
    found = views(" ".join([blob] * 50))
    assert found.complete
    assert len({place(0, 1) for _, place in found.found}) == 50


@given(st.text(max_size=300).map(canonical) | st.text("%&#;\\xu0aA4=-_ \n", max_size=200))
def test_every_place_is_in_the_text(text: str) -> None:
    """No input makes it raise, and every view's offsets stay inside the text."""
    for view, place in views(text).found:
        if view:
            start, end = place(0, len(view))
            assert 0 <= start < end <= len(text)


@given(st.text("ab \n\"'+,\\n", max_size=60))
def test_squeezed_view_agrees(text: str) -> None:
    """The squeezed text and its view are the same, and every character maps back to itself."""
    view = squeezed_view(text)
    assert view.text == squeezed(text)
    for at, char in enumerate(view.text):
        start, end = view.place(at, at + 1)
        assert text[start:end] == char


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_rules_read_has_the_way_back(text: str) -> None:
    """The folded text is the one rules read, and each piece of it came from somewhere in the text, in order."""
    view = compared_view(text)
    if view is not None:
        assert view.text == comparable(text)
        places = [view.place(at, at + 1) for at in range(len(view.text))]
        assert all(0 <= start < end <= len(text) for start, end in places)
        assert places == sorted(places)


def test_a_folded_word_is_found_where_it_stands() -> None:
    """Ligatures, accents, fractions, letters of other scripts and escapes before it shift nothing."""
    text = "ﬁrst½ é \\n сlear İ — ignоrе́ “me”"
    view = compared_view(text)
    assert view is not None
    at = view.text.index("ignore")
    assert text[slice(*view.place(at, at + 6))] in ("ignоrе", "ignоrе\u0301")
