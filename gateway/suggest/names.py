"""Names in the file that is written: of rules, and of the constants that stand in `values`.

What callers wrote stands in constants, never in an expression.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

_LETTERS = frozenset(string.ascii_lowercase + string.digits)


class Constants:
    """Strings, and lists of them, by name; what is wanted twice has one name."""

    def __init__(self) -> None:
        self.known: dict[str, str | list[str]] = {}

    def name(self, wanted: str, content: str | Sequence[str]) -> str:
        """How an expression writes the string or list, as `v.NAME`."""
        kept = content if isinstance(content, str) else list(content)
        base = slug(wanted, "_", 50)
        base = base if base[:1].isalpha() else f"x_{base}"
        number, name = 1, base
        while name in self.known and self.known[name] != kept:
            number += 1
            name = f"{base}_{number}"
        self.known[name] = kept
        return f"v.{name}"


def slug(text: str, joint: str, longest: int) -> str:
    """Lower-case letters and digits, with `joint` for any run of others, and none of it at the ends."""
    mapped = "".join(each if each in _LETTERS else " " for each in text.lower())
    return joint.join(mapped.split())[:longest].strip(joint) or "x"


def unique(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with a number, and from now on taken."""
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    taken.add(name)
    return name
