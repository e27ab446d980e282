"""The one JSON decoder for anything that comes from outside: bytes in, plain Python values out, or a refusal.

It takes RFC 8259 JSON in UTF-8 and nothing looser. Refused, on top of plain syntax errors: a byte order mark, UTF-16,
NaN and the infinities, numbers that overflow to infinity, number tokens over 100 characters, a key given twice in one
object, lone surrogates (also escaped ones), nesting deeper than asked, anything after the one value.

It never guesses an encoding, never lets a RecursionError out, and never puts the text it read into an error.
"""

import json
import math
from itertools import accumulate
from typing import NoReturn

import orjson

MAX_NUMBER_CHARS = 100

_SPACE = " \t\n\r"
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_PLAIN_JSON_ONLY = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class MalformedJson(ValueError):
    """The bytes are not strict JSON.

    `reason` is a fixed phrase that never quotes the input. `position` counts characters from 0 (bytes when the text is
    not UTF-8); None where the parser cannot tell.
    """

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason if position is None else f"{reason} at position {position}")
        self.reason = reason
        self.position = position


class TooLarge(ValueError):
    """The body has more bytes than allowed; it was not looked at. `size` and `limit` are bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes, at most {limit} are taken")
        self.size = size
        self.limit = limit


def loads(raw: bytes, *, max_bytes: int, max_depth: int = 64) -> object:
    """Decode one JSON value.

    `max_depth` counts arrays and objects around the innermost value (a scalar has depth 0).
    Gives None, bool, int, float, str, list or dict. Raises TooLarge or MalformedJson, nothing else.
    """
    if len(raw) > max_bytes:
        raise TooLarge(len(raw), max_bytes)
    if raw.count(b"[") + raw.count(b"{") > max_depth:
        _check_depth(raw, max_depth)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedJson("not valid UTF-8", error.start) from None
    start = 0 if not text or text[0] not in _SPACE else len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise MalformedJson(_phrase(text, stop.value), stop.value) from None
    except json.JSONDecodeError as error:
        raise MalformedJson(_phrase(text, error.pos), error.pos) from None
    if end != len(text) and text[end:].strip(_SPACE):
        raise MalformedJson("something after the one value", end)
    if b"\\" in raw and ("\\ud" in text or "\\uD" in text):
        _check_surrogates(raw)
    return value


def canonical(value: object) -> bytes:
    """Our canonical bytes of a JSON value, the input of every digest: no white space, keys sorted by code point.

    Two spellings of one value give the same bytes; 1 and 1.0 stay different. Written by orjson; a value that holds an
    integer beyond 64 bits is written by `json` as a whole, so one value always has one form. Non-ASCII stands as UTF-8.
    Raises TypeError for anything that is not plain JSON with string keys.
    """
    try:
        return orjson.dumps(value, option=_PLAIN_JSON_ONLY)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error):
            raise TypeError(str(error)) from None
    _check_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _check_depth(raw: bytes, max_depth: int) -> None:
    """Count nesting before anything is built; strings are dropped first, so brackets in them do not count.

    Up to the first syntax error this sees exactly the strings the parser sees, and the parser stops there.
    """
    # An escaped quote does not end a string; pairs of backslashes go first so that only real escapes are left.
    outside = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE).split(b'"')[::2])
    for depth in accumulate(map(_STEP.__getitem__, outside)):
        if depth > max_depth:
            raise MalformedJson(f"nested deeper than {max_depth}")


def _check_surrogates(raw: bytes) -> None:
    """Refuse half of an escaped surrogate pair: `json` lets it through, orjson does not."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedJson("lone surrogate in a string", error.pos) from None


def _check_keys(value: object) -> None:
    """`json` would quietly turn other keys into strings."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("Dict key must be str")
        for item in value.values():
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedJson("a key stands twice in one object")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise MalformedJson("NaN and Infinity are not JSON")


def _integer(token: str) -> int:
    if len(token) > MAX_NUMBER_CHARS:
        raise MalformedJson(f"a number of more than {MAX_NUMBER_CHARS} characters")
    return int(token)


def _number(token: str) -> float:
    if len(token) > MAX_NUMBER_CHARS:
        raise MalformedJson(f"a number of more than {MAX_NUMBER_CHARS} characters")
    number = float(token)
    if not math.isfinite(number):
        raise MalformedJson("a number too large for a double")
    return number


def _phrase(text: str, position: int) -> str:
    if text.startswith("\ufeff"):
        return "byte order mark"
    return "unexpected end" if position >= len(text) else "not JSON"


# The decoder's own scanner: `decode` would add two pattern matches a body, only to skip white space.
_scan = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number
).scan_once  # type: ignore[attr-defined]  # documented nowhere, kept since Python 2.6; typeshed leaves it out
