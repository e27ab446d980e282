"""What somebody else wrote, as text that a person can trust their eyes with: escaped, bounded, on lines of its own.

It decides nothing and removes nothing in silence: what is not shown is counted, and the digest of the whole stands
beside it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator

from gateway import strictjson
from gateway.tool import Json

LONGEST = 4096  # characters shown of one value
WIDEST = 64  # members shown of one list or object
DEEPEST = 8  # levels shown
MOST = 16_000  # characters shown in all
LINES = 200  # shown of one text
_SPELLED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # controls, formats (bidi, zero width), separators
# Blank, or drawn over what stands before them, though their categories are those of letters, marks and symbols.
_BLANK = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")


def line(text: str, most: int = LONGEST) -> str:
    """A text as one line of at most `most` characters and a note of how many more there are.

    Whatever moves, hides, turns or colours text is spelled out as `\\u{…}`; so is a backslash, as two.
    """
    shown = "".join(map(_spelled, text[:most]))
    more = len(text) - most
    return shown if more <= 0 else f"{shown}… ({more} more characters)"


def shown(value: Json) -> str:
    """A JSON value as lines of canonical, escaped, bounded text.

    Members stand in order of their names, one to a line. What was cut is said where it was, and then once for all with
    the SHA-256 of the canonical JSON of the whole value.
    """
    text, cut = "", False
    for part, whole in _lines(value, 0):
        cut = cut or not whole
        if len(text) + len(part) > MOST:
            text, cut = text + "…\n", True
            break
        text += part + "\n"
    if not cut:
        return text.rstrip("\n")
    spelled = strictjson.canonical(value)
    return f"{text}cut: the whole is {len(spelled)} bytes, sha256:{hashlib.sha256(spelled).hexdigest()}"


def text(said: str, lines: int = LINES) -> str:
    """A text of several lines, each escaped and bounded; what was cut is said at the end."""
    given = said.split("\n")
    kept = [line(each) for each in given[:lines]]
    if len(given) > lines:
        kept.append(f"… ({len(given) - lines} more lines)")
    return "\n".join(kept)


def digest(value: Json) -> str:
    """`sha256:` and hex of the canonical JSON."""
    return "sha256:" + hashlib.sha256(strictjson.canonical(value)).hexdigest()


def _lines(value: Json, depth: int, name: str = "", end: str = "") -> Iterator[tuple[str, bool]]:
    """Each line, and whether it shows all that it stands for."""
    begin = "  " * depth + name
    if not isinstance(value, dict | list) or not value:
        text, whole = _one(value)
        yield f"{begin}{text}{end}", whole
        return
    pairs = sorted(value.items()) if isinstance(value, dict) else [("", each) for each in value]
    opens, closes = "{}" if isinstance(value, dict) else "[]"
    if depth >= DEEPEST:
        yield f"{begin}{opens}… ({len(pairs)} members, too deep to show){closes}{end}", False
        return
    yield begin + opens, True
    for number, (key, each) in enumerate(pairs[:WIDEST], 1):
        label, named = _quoted(key)
        begins = f"{label}: " if isinstance(value, dict) else ""
        for text, whole in _lines(each, depth + 1, begins, "," if number < len(pairs) else ""):
            yield text, whole and named
    if len(pairs) > WIDEST:
        yield f"{'  ' * (depth + 1)}… ({len(pairs) - WIDEST} more members)", False
    yield "  " * depth + closes + end, True


def _one(value: Json) -> tuple[str, bool]:
    if isinstance(value, str):
        return _quoted(value)
    return line(strictjson.canonical(value).decode()), True


def _quoted(text: str) -> tuple[str, bool]:
    """A string in quotation marks, which it cannot end itself; what was cut is said outside of them."""
    body = "".join('\\"' if each == '"' else _spelled(each) for each in text[:LONGEST])
    more = len(text) - LONGEST
    return (f'"{body}"', True) if more <= 0 else (f'"{body}"… ({more} more characters)', False)


def _spelled(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if " " <= char <= "~":
        return char
    hidden = char in _BLANK or unicodedata.category(char) in _SPELLED or _selects(char)
    spaced = unicodedata.category(char) == "Zs"  # a blank that is no space
    return f"\\u{{{ord(char):x}}}" if hidden or spaced or unicodedata.combining(char) else char


def _selects(char: str) -> bool:
    """Variation selectors, which are marks that nobody sees."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or "\u180b" <= char <= "\u180f"
