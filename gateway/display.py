"""What somebody else wrote, as text that a person can trust their eyes with: escaped, bounded, on lines of its own.

It decides nothing and removes nothing in silence: what is not shown is counted, and the digest of the whole stands
beside it.
"""

from __future__ import annotations

import hashlib
import unicodedata

from gateway import strictjson
from gateway.tool import Json

LONGEST = 4096  # characters shown of one value
WIDEST = 64  # members shown of one list or object
DEEPEST = 8  # levels shown
MOST = 16_000  # characters shown in all
LINES = 200  # shown of one text
RESERVED = 200  # characters kept for each member that is yet to come, as far as there are so many
_LEAST = 16  # characters shown of a string, however little room is left
_MARGIN = 1024  # characters kept for the ends of what was cut
_SPELLED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # controls, formats (bidi, zero width), separators
# Blank, or drawn over what stands before them, though their categories are those of letters, marks and symbols.
_BLANK = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")


def line(text: str, most: int = LONGEST) -> str:
    """A text as one line of at most `most` characters and a note of how many of its own more there are.

    Whatever moves, hides, turns or colours text is spelled out as `\\u{…}`; so is a backslash, as two.
    """
    shown, more = _fitted(text, most)
    return shown + _more(more)


def shown(value: Json) -> str:
    """A JSON value as lines of canonical, escaped, bounded text.

    Members stand in order of their names, one to a line, and none takes the room of those after it: what is cut is cut
    from the long ones. It is said where that was, and then once for all with the SHA-256 of the canonical JSON of the
    whole value.
    """
    lines, whole = _lines(value, 0, MOST - _MARGIN)
    text = "\n".join(lines)
    if whole:
        return text
    spelled = strictjson.canonical(value)
    return f"{text}\ncut: the whole is {len(spelled)} bytes, sha256:{hashlib.sha256(spelled).hexdigest()}"


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


def _lines(value: Json, depth: int, room: int, name: str = "", end: str = "") -> tuple[list[str], bool]:
    """Lines of about `room` characters, and whether they show all that there is."""
    begin = "  " * depth + name
    if not isinstance(value, dict | list) or not value:
        text, whole = _one(value, min(max(room - len(begin), _LEAST), LONGEST))
        return [f"{begin}{text}{end}"], whole
    opens, closes = "{}" if isinstance(value, dict) else "[]"
    if depth >= DEEPEST:
        return [f"{begin}{opens}… ({len(value)} members, too deep to show){closes}{end}"], False
    pairs = sorted(value.items()) if isinstance(value, dict) else [("", each) for each in value]
    lines, whole, left = [begin + opens], True, room - len(begin)
    for number, (key, each) in enumerate(pairs):
        if number == WIDEST or left <= 0:
            lines.append(f"{'  ' * (depth + 1)}… ({len(pairs) - number} more members)")
            whole = False
            break
        later = min(len(pairs), WIDEST) - number - 1
        share = max(left - RESERVED * later, left // (later + 1))
        label, named = _quoted(key, min(max(share, _LEAST), LONGEST)) if isinstance(value, dict) else ("", True)
        comma = "," if number + 1 < len(pairs) else ""
        drawn, all_of_it = _lines(each, depth + 1, share, label and f"{label}: ", comma)
        lines += drawn
        left -= sum(map(len, drawn)) + len(drawn)
        whole = whole and named and all_of_it
    lines.append("  " * depth + closes + end)
    return lines, whole


def _one(value: Json, most: int) -> tuple[str, bool]:
    if isinstance(value, str):
        return _quoted(value, most)
    return line(strictjson.canonical(value).decode()), True


def _quoted(text: str, most: int) -> tuple[str, bool]:
    """A string in quotation marks, which it cannot end itself; what was cut is said outside of them."""
    body, more = _fitted(text, most, '"')
    return f'"{body}"{_more(more)}', not more


def _fitted(text: str, most: int, mark: str = "") -> tuple[str, int]:
    """As much of a text, spelled, as fits `most` characters, and how many of its own are left out."""
    parts: list[str] = []
    left = most
    for number, char in enumerate(text[: most + 1]):
        part = f"\\{char}" if char == mark else _spelled(char)
        left -= len(part)
        if left < 0:
            return "".join(parts), len(text) - number
        parts.append(part)
    return "".join(parts), 0


def _more(number: int) -> str:
    return f"… ({number} more characters)" if number else ""


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
