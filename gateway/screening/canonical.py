"""Canonical text (screening step S1): what a model is shown has no invisible and no terminal-control characters.

Removed: the C0 and C1 controls except line feed and tab, ANSI escape sequences (ECMA-48), zero-width and bidirectional
controls, tag characters, runs of variation selectors, lone surrogates. A single joiner or emoji selector between
visible characters of a script that needs it stays. Every step is linear; plain ASCII costs one scan and is returned
as it is. It never judges: `rules.py` does.
"""

from __future__ import annotations

import unicodedata

from gateway import regex

_CONTROLS = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
# Unicode's Default_Ignorable_Code_Point, the bidirectional controls and the interlinear marks.
_INVISIBLE = (
    r"\x{AD}\x{34F}\x{61C}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}\x{200B}-\x{200F}\x{202A}-\x{202E}"
    r"\x{2060}-\x{206F}\x{3164}\x{FE00}-\x{FE0F}\x{FEFF}\x{FFA0}\x{FFF0}-\x{FFFB}\x{1BCA0}-\x{1BCA3}"
    r"\x{1D173}-\x{1D17A}\x{E0000}-\x{E0FFF}"
)
_ANSI = (
    r"(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\x{9c}]*(?:\x07|\x1b\\|\x{9c})"
    r"|\x1b[ -/]*[0-~]"
)
_HIDDEN = regex.compile(rf"(?:{_ANSI}|[\x00-\x08\x0b-\x1f\x7f-\x{{9f}}{_INVISIBLE}])+")
_CARRIERS = regex.compile(r"[\x{FE00}-\x{FE0F}\x{E0020}-\x{E007E}\x{E0100}-\x{E01EF}]+")
_MARKS = regex.compile(r"[\p{Mn}\p{Me}\p{Cf}]+")

_STAYS = {"\ufe0e", "\ufe0f", "\u200c", "\u200d", "\ufe0f\u200d"}
_NEEDS_JOINERS = "\u0590"  # scripts from here on, and emoji; an ASCII letter never needs a joiner

_MIN_HIDDEN = 8  # an emoji flag spells up to 6 tag characters

# Letters of other scripts that look like ASCII ones (after Unicode's confusables.txt), lower and upper case.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝӏкмтвпАВЕКМНОРСТХУІЈЅԌԚԜαεοριυνκτχγΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɑɡɩʏᴀᴇᴏ",
    "aeopcyxijshdqwlkmtbnABEKMHOPCTXYIJSGQWaeopiuvktxyABEZHIKMNOPTYXiagiyaeo",
)
_HAS_LOOKALIKE = regex.compile(r"[\x{250}-\x{2AF}\x{370}-\x{52F}\x{131}\x{1D00}-\x{1D7F}]")


def canonical(text: str) -> str:
    """The text as it may be shown. Doing it twice changes nothing more."""
    if text.isascii():
        if _plain(text):
            return text
    else:
        text = well_formed(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _without_hidden(text)


def hidden(text: str) -> str:
    """The ASCII message that tag characters or variation selectors of `text` spell; "" when they spell none."""
    if text.isascii():
        return ""
    text = well_formed(text)
    runs = [text[start:end] for start, end in _CARRIERS.finditer(text)]
    codes = [_carried(ord(char)) for run in runs for char in run]
    spelled = "".join(chr(code) for code in codes if 0x20 <= code < 0x7F)
    return spelled if len(spelled) >= _MIN_HIDDEN else ""


def comparable(text: str) -> str:
    """The text as rules read it: compatibility forms, accents and look-alike letters folded to plain ones.

    Never shown. It may have another length, so offsets in it say nothing of `text`.
    """
    if text.isascii():
        return text
    # Long runs of marks make normalisation quadratic: they go before it as well as after.
    text = _without(_MARKS, text)
    text = _without(_MARKS, unicodedata.normalize("NFKD", text))
    return text.translate(_LOOKALIKES) if _HAS_LOOKALIKE.search(text) else text


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: only that can be encoded as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _plain(text: str) -> bool:
    return len(text.encode().translate(None, _CONTROLS)) == len(text)


def _carried(code: int) -> int:
    if code >= 0xE0100:
        return code - 0xE0100 + 16
    return code - 0xE0000 if code >= 0xE0020 else code - 0xFE00


def _without_hidden(text: str) -> str:
    kept: list[str] = []
    at = 0
    for start, end in _HIDDEN.finditer(text):
        kept.append(text[at:start])
        if text[start:end] in _STAYS and start and text[start - 1] >= _NEEDS_JOINERS:
            kept.append(text[start:end])
        at = end
    return text if not at else "".join(kept) + text[at:]


def _without(pattern: regex.Pattern, text: str) -> str:
    kept: list[str] = []
    at = 0
    for start, end in pattern.finditer(text):
        kept.append(text[at:start])
        at = end
    return text if not at else "".join(kept) + text[at:]
