"""JSON taken apart into its strings and put together again: every key and every string value, in document order.

Screening looks at all of them as one text, so nothing depends on how a result is cut into fields. Depth is bounded;
it never changes anything itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite

from gateway import regex
from gateway.tool import Json

MAX_DEPTH = 64
SEPARATOR = "\n\x00\n"  # canonical text has no NUL, so it stands in no leaf; patterns for one line stop at it

_PLAIN_NAME = regex.compile(r"[A-Za-z0-9_.-]{1,64}")


class NotJson(ValueError):
    """A value JSON does not have, or one nested deeper than 64 levels."""


@dataclass(slots=True)
class Leaves:
    """The strings of a value; `keys` holds the positions of those that are keys. `size` is about its size in bytes."""

    strings: list[str] = field(default_factory=list)
    keys: set[int] = field(default_factory=set)
    size: int = 0


def gather(value: Json, numbers: bool = False) -> Leaves:
    """The strings of a JSON value, and its numbers as strings too when asked. Raises NotJson."""
    leaves = Leaves()
    _gather(value, leaves, numbers, 0)
    return leaves


def rebuild(value: Json, strings: Sequence[str], numbers: bool = False) -> Json:
    """`value` with the strings `gather` gave replaced, in order. Equal keys of one object: the last one stays."""
    return _rebuild(value, iter(strings), numbers)


def pointer(value: Json, position: int, numbers: bool = False) -> str:
    """The JSON Pointer of the string at `position`, or of the member it is the key of.

    A name that is not a plain identifier is shown as `*`: the pointer is read by the agent.
    """
    count = 0
    for at, taken in _walk(value, "", numbers):
        count += taken
        if count > position:
            return at
    return ""


def _gather(value: Json, leaves: Leaves, numbers: bool, depth: int) -> None:
    if isinstance(value, str):
        leaves.strings.append(value)
        leaves.size += len(value) + 2
    elif isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise NotJson("nested too deep")
        leaves.size += 2
        if isinstance(value, dict):
            _gather_members(value, leaves, numbers, depth)
        else:
            for item in value:
                _gather(item, leaves, numbers, depth + 1)
    else:
        leaves.size += 8
        _scalar(value)
        if numbers and _is_number(value):
            leaves.strings.append(str(value))


def _gather_members(value: dict[Json, Json], leaves: Leaves, numbers: bool, depth: int) -> None:
    for key, item in value.items():
        if not isinstance(key, str):
            raise NotJson("a key that is not a string")
        leaves.keys.add(len(leaves.strings))
        leaves.strings.append(key)
        leaves.size += len(key) + 4
        _gather(item, leaves, numbers, depth + 1)


def _scalar(value: Json) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int) and value.bit_length() <= 1024:
        return
    if not (isinstance(value, float) and isfinite(value)):
        raise NotJson("a value JSON does not have")


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rebuild(value: Json, strings: Iterator[str], numbers: bool) -> Json:
    if isinstance(value, str):
        return next(strings)
    if isinstance(value, dict):
        return {next(strings): _rebuild(item, strings, numbers) for item in value.values()}
    if isinstance(value, list):
        return [_rebuild(item, strings, numbers) for item in value]
    if numbers and _is_number(value):
        shown = next(strings)
        return value if shown == str(value) else shown
    return value


def _walk(value: Json, at: str, numbers: bool) -> Iterator[tuple[str, int]]:
    """Pointers in the order of `gather`, each with how many strings it stands for."""
    if isinstance(value, dict):
        for key, item in value.items():
            below = f"{at}/{key if _PLAIN_NAME.fullmatch(key) else '*'}"
            yield below, 1
            yield from _walk(item, below, numbers)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{at}/{index}", numbers)
    elif isinstance(value, str) or (numbers and _is_number(value)):
        yield at, 1
