"""Canonical text (screening step S1): what a model is shown has no invisible and no terminal-control characters.

Removed: the C0 and C1 controls except line feed and tab, ANSI escape sequences (ECMA-48), zero-width and bidirectional
controls, tag characters, runs of variation selectors, lone surrogates. A single joiner or emoji selector between
visible characters of a script that needs it stays. Every step is linear; plain ASCII costs one scan and is returned
as it is. It never judges: `rules.py` does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Set

from gateway import regex

_CONTROLS = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
# C0 and C1; Unicode's Default_Ignorable_Code_Point; the bidirectional controls and the interlinear marks.
_INVISIBLE = (
    (0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160),
    (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)  # fmt: skip
_HIDDEN = regex.compile("[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in _INVISIBLE) + "]")

# ECMA-48: a control sequence is `ESC [`, parameters, intermediates, one final character; the others of these open a
# string that ends at BEL or at `ESC` and a backslash.
_PARAMETERS = "0123456789:;<=>?"
_INTERMEDIATES = " !\"#$%&'()*+,-./"
_STRINGS = ("]", "P", "X", "^", "_")

# Joiners and emoji selectors: one alone, or this pair, belongs to the letters around it.
_JOINERS = "\ufe0e\ufe0f\u200c\u200d"
_PAIR = "\ufe0f\u200d"
_NEEDS_JOINERS = "\u0590"  # scripts from here on, and emoji; a Latin letter never needs a joiner
_REMOVED = frozenset(chr(code) for first, last in _INVISIBLE for code in range(first, last + 1)) - set(_JOINERS)

# Tag characters and variation selectors: each can stand for a byte.
_CARRIERS = regex.compile(r"[\x{FE00}-\x{FE0F}\x{E0020}-\x{E007E}\x{E0100}-\x{E01EF}]")
_MIN_HIDDEN = 8  # an emoji flag spells up to 6 tag characters

# Letters of other scripts that look like ASCII ones (after Unicode's confusables.txt), lower and upper case.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝӏкмтвпАВЕКМНОРСТХУІЈЅԌԚԜαεοριυνκτχγΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɑɡɩʏᴀᴇᴏ",
    "aeopcyxijshdqwlkmtbnABEKMHOPCTXYIJSGQWaeopiuvktxyABEZHIKMNOPTYXiagiyaeo",
)
_HAS_LOOKALIKE = regex.compile(r"[\x{250}-\x{2AF}\x{370}-\x{52F}\x{131}\x{1D00}-\x{1D7F}]")


def canonical(text: str) -> str:
    """The text as it may be shown. Doing it twice changes nothing more."""
    if is_plain(text):
        return text
    text = well_formed(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _HIDDEN.search(text) is None:
        return text
    if "\x1b" in text or "\x9b" in text:
        text = _without_ansi(text)
    return _without_loose_joiners(_without(text, _REMOVED))


def is_plain(text: str) -> bool:
    """Whether the text is ASCII without controls: then it is canonical, and so is every part of it."""
    return text.isascii() and len(text.encode().translate(None, _CONTROLS)) == len(text)


def hidden(text: str) -> str:
    """The ASCII message that tag characters or variation selectors of `text` spell; "" when they spell none."""
    if text.isascii() or _CARRIERS.search(text := well_formed(text)) is None:
        return ""
    codes = [_carried(ord(char)) for char in text if char >= "\ufe00"]
    spelled = "".join(chr(code) for code in codes if 0x20 <= code < 0x7F)
    return spelled if len(spelled) >= _MIN_HIDDEN else ""


def comparable(text: str) -> str:
    """The text as rules read it: compatibility forms, accents and look-alike letters folded to plain ones.

    Never shown. When `text` is ASCII the offsets are those of `text`; otherwise they say nothing of it.
    """
    text = unescaped(text)
    if text.isascii():
        return text
    # Long runs of marks make normalisation quadratic: they go before it as well as after.
    text = _without_marks(unicodedata.normalize("NFKD", _without_marks(text)))
    return text.translate(_LOOKALIKES) if _HAS_LOOKALIKE.search(text) else text


def unescaped(text: str) -> str:
    """The text with escaped line feeds and tabs, as in JSON and source code, as white space of two characters."""
    if "\\" in text:
        for escaped in ("\\n", "\\r", "\\t"):
            text = text.replace(escaped, " \n")
    return text


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: only that can be encoded as UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _carried(code: int) -> int:
    if 0xE0100 <= code < 0xE01F0:
        return code - 0xE0100 + 16
    return code - 0xE0000 if 0xE0020 <= code < 0xE007F else 0


def _without(text: str, unwanted: Set[str]) -> str:
    for char in unwanted & set(text):
        text = text.replace(char, "")
    return text


def _without_marks(text: str) -> str:
    return _without(text, {char for char in set(text) if unicodedata.category(char) in ("Mn", "Me", "Cf")})


def _without_ansi(text: str) -> str:
    first, *parts = text.replace("\x9b", "\x1b[").split("\x1b")
    kept = [first]
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        if part.startswith("["):
            kept.append(_after_final(part[1:], part[1:].lstrip(_PARAMETERS), "@"))
        elif part.startswith(_STRINGS):
            kept.append(_after_string(part[1:], after))
        else:
            kept.append(_after_final(part, part, "0"))
    return "".join(kept)


def _after_final(part: str, rest: str, lowest: str) -> str:
    """What follows the final character; all of `part` when it has none, for then it is no sequence."""
    rest = rest.lstrip(_INTERMEDIATES)
    return rest[1:] if lowest <= rest[:1] <= "~" else part


def _after_string(part: str, after: str) -> str:
    ends = [at for at in (part.find("\x07"), part.find("\x9c")) if at >= 0]
    if ends:
        return part[min(ends) + 1 :]
    return "" if after.startswith("\\") else part


def _without_loose_joiners(text: str) -> str:
    kept: list[str] = []
    at = 0
    for start, end in _runs(sorted(place for joiner in _JOINERS for place in _places(text, joiner))):
        alone = end - start == 1 or text[start:end] == _PAIR
        if not (alone and start and text[start - 1] >= _NEEDS_JOINERS):
            kept.append(text[at:start])
            at = end
    return "".join(kept) + text[at:]


def _runs(places: list[int]) -> Iterator[tuple[int, int]]:
    start = end = -1
    for place in places:
        if place != end:
            if end > 0:
                yield start, end
            start = place
        end = place + 1
    if end > 0:
        yield start, end


def _places(text: str, char: str) -> Iterator[int]:
    at = text.find(char)
    while at >= 0:
        yield at
        at = text.find(char, at + 1)
