"""Values as YAML, so that nothing a caller wrote can be more than the value that it was. ASCII only, one line each.

Strings are double-quoted always, and everything but letters, digits and plain punctuation in them is escaped; `#` lines
take text from calls through `quoted` as well. It never writes an expression of policy: those take names of values.
"""

from __future__ import annotations

import json
import math
import string

from gateway.tool import Json

LONGEST_KEY = 60  # characters: YAML takes keys of 1,024 in a mapping on one line, and one may be written as ten
DEEPEST = 16
_PLAIN = frozenset(string.ascii_letters + string.digits + string.punctuation + " ") - {'"', "\\"}


class Unwritable(ValueError):
    """The value cannot stand in a file on one line."""


def quoted(text: str) -> str:
    """A string as a double-quoted scalar of YAML 1.2."""
    return '"' + "".join(each if each in _PLAIN else _escaped(each) for each in text) + '"'


def flow(value: Json, depth: int = 0) -> str:
    """Any JSON value in flow style. Raises `Unwritable`."""
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if depth < DEEPEST and isinstance(value, list | tuple):
        return "[" + ", ".join(flow(each, depth + 1) for each in value) + "]"
    if depth < DEEPEST and isinstance(value, dict) and all(len(key) <= LONGEST_KEY for key in value):
        return "{" + ", ".join(f"{quoted(key)}: {flow(each, depth + 1)}" for key, each in value.items()) + "}"
    raise Unwritable("no value of JSON, or one too deep, or with a key too long")


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
