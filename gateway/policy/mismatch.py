"""What the CEL checker has against an expression, read from its words: what is really wrong, and what may stand.

The checker knows an object as a message, which is stricter than the mapping that a condition meets: what fits a mapping
is let through here. It never compiles anything and knows no tool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from gateway.policy.engine import BadExpression
from gateway.policy.syntax import Path

_OVERLOAD = "found no matching overload for '"
_APPLIED = "' applied to '("
_NUMBERS = ("int", "double", "uint")
_UNKNOWN = ("dyn", "any")
_EQUAL, _ORDER = ("_==_", "_!=_"), ("_<_", "_<=_", "_>_", "_>=_")


@dataclass(frozen=True, slots=True)
class Kind:
    """A type as CEL writes it: `list(map(string, int))`."""

    name: str
    of: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something wrong at a place (from 1) of an expression: what is applied to what.

    `function` is CEL's name of it, or `select`, `range`, `undefined`, `result`. `mixed`: whole and decimal numbers are
    compared, which works, but reads as if it could not.
    """

    line: int
    column: int
    function: str
    kinds: tuple[Kind, ...]
    mixed: bool = False
    path: Path = ()


def read(fault: BadExpression, messages: Mapping[str, Path]) -> Mismatch | Set[Path]:
    """What is wrong; or the objects that have to be taken for mappings, none where nothing is wrong."""
    if "*error*" in fault.reason:
        return frozenset()  # follows from another fault
    function, kinds = _applied(fault.reason)
    if not function:
        return frozenset()
    found = Mismatch(fault.line, fault.column, function, kinds)
    if function == "undefined":
        field, struct = (each.name for each in kinds)
        return Mismatch(fault.line, fault.column, function, (), path=(*messages.get(struct, ("?",)), field))
    if not _works(function, kinds, messages):
        return found
    loose = {messages[name] for kind in kinds for name in _names(kind) if name in messages}
    if loose or function not in (*_EQUAL, *_ORDER, "@in", "_[_]"):
        return loose
    return Mismatch(fault.line, fault.column, function, kinds, mixed=True)


def kind_of(text: str) -> Kind:
    """A type from CEL's spelling of it."""
    name, bracket, rest = text.partition("(")
    return Kind(name.strip(), tuple(map(kind_of, _split(rest[: rest.rfind(")")]))) if bracket else ())


def _applied(reason: str) -> tuple[str, tuple[Kind, ...]]:
    """The function and what it was applied to; the function is empty where the sentence is an unknown one."""
    _, found, rest = reason.partition(_OVERLOAD)
    if found:
        function, _, given = rest.partition(_APPLIED)
        return function, tuple(map(kind_of, _split(given[: given.rfind(")")])))
    quoted = reason.split("'")
    if reason.startswith("undefined field '"):
        return "undefined", (Kind(quoted[1]), Kind(quoted[3]))
    if reason.startswith("expression of type '"):
        return "range" if "range of a comprehension" in reason else "select", (kind_of(quoted[1]),)
    _, found, given = reason.partition("this one gives ")
    return ("result", (kind_of(given),)) if found else ("", ())


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that stand in no bracket."""
    depth = start = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    if text.strip():
        yield text[start:]


def _works(function: str, kinds: tuple[Kind, ...], messages: Mapping[str, Path]) -> bool:
    """Whether it works on plain values all the same: JSON objects are mappings, and numbers of two kinds compare."""
    first, last = kinds[0], kinds[-1]
    if function in _EQUAL:
        return _alike(first, last, messages)
    if function in _ORDER:
        return first.name in _NUMBERS and last.name in _NUMBERS
    if function == "@in":
        if last.name == "list":
            return _alike(first, last.of[0], messages)
        return last.name in messages and first.name in ("string", *_UNKNOWN)
    if function == "_[_]":
        if first.name == "list":
            return last.name in _NUMBERS
        return first.name in messages and last.name in ("string", *_UNKNOWN)
    if function == "_?_:_":
        return first.name in ("bool", *_UNKNOWN)
    if function == "_+_":
        return first.name == last.name == "list"
    if function == "int":
        return first.name == "bool"  # 1 or 0: the engine converts it, its checker does not know
    return function in ("size", "range") and first.name in messages


def _alike(one: Kind, other: Kind, messages: Mapping[str, Path]) -> bool:
    """Whether values of the two can be equal."""
    if any(each.name in _UNKNOWN or "%" in each.name for each in (one, other)):
        return True
    if one.name in _NUMBERS and other.name in _NUMBERS:
        return True
    mapped = [each.name == "map" or each.name in messages for each in (one, other)]
    if all(mapped):
        both = zip(one.of, other.of, strict=False)
        return all(_alike(left, right, messages) for left, right in both)
    if one.name != other.name or any(mapped):
        return False
    return all(_alike(left, right, messages) for left, right in zip(one.of, other.of, strict=True))


def _names(kind: Kind) -> Iterator[str]:
    yield kind.name
    for each in kind.of:
        yield from _names(each)
