"""Clauses over arguments by their values: sets of words, bounds of numbers and sizes, and so on into objects.

It takes all values that one argument had over the calls of a rule, and never writes one of them into an expression.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.policy.typed import Type, below, inside
from gateway.suggest.bounds import Beyond, Bound
from gateway.suggest.names import Constants
from gateway.suggest.values import LARGEST, SHORT, above, at_most, few, is_secret
from gateway.tool import Json

_DEEPEST = 3
_LONGEST_BEYOND = 4000  # characters of a text, or items of a list, that a test holds
_RESERVED = {
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
}  # by CEL
_RESERVED |= {"import", "let", "loop", "package", "namespace", "return", "var", "void", "while"}


@dataclass(frozen=True, slots=True)
class Spot:
    """Where values stand: as an expression writes it, as names of constants begin, and what the schema says there."""

    text: str
    name: str
    schema: Mapping[str, Json]
    type: Type
    path: tuple[str, ...] = ()


def can_name(name: str) -> bool:
    """Whether an expression can select it."""
    return name.isascii() and name.isidentifier() and name not in _RESERVED


def bound_values(spot: Spot, seen: Sequence[Json], constants: Constants) -> Bound:
    """The bound of all values that were seen at a spot, of whatever kinds; at least one."""
    values = [value for value in seen if value is not None]
    if not values:
        return Bound((f"{spot.text} == null",))
    bound = _one_kind(spot, values, constants)
    if len(values) == len(seen):
        return bound
    return Bound(tuple(f"{spot.text} == null || ({each})" for each in bound.clauses), bound.beyond, bound.silent)


def _one_kind(spot: Spot, values: Sequence[Json], constants: Constants) -> Bound:
    if all(isinstance(value, bool) for value in values):
        return _booleans(spot, set(map(bool, values)))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return _numbers(spot, [value for value in values if isinstance(value, int | float)])
    if all(isinstance(value, str) for value in values):
        return _strings(spot, list(map(str, values)), constants)
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) == len(values):
        return _lists(spot, lists, constants)
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) == len(values) and len(spot.path) < _DEEPEST:
        return bound_object(spot, objects, constants)
    return Bound(silent=(spot.text,))


def _booleans(spot: Spot, seen: set[bool]) -> Bound:
    if len(seen) > 1:
        return Bound(silent=(spot.text,))
    (only,) = seen
    return Bound((f"{spot.text} == {str(only).lower()}",), (Beyond("the other value", spot.path, not only),))


def _numbers(spot: Spot, seen: Sequence[int | float]) -> Bound:
    kind = inside(spot.type)
    beyond: int | float
    whole = kind == "int" or (kind != "double" and all(isinstance(each, int) for each in seen))
    if any(isinstance(each, int) and abs(each) > LARGEST for each in seen):
        return Bound(silent=(spot.text,))
    text = spot.text if kind in ("int", "double") or whole else f"double({spot.text})"
    if whole:
        most = at_most(int(max(seen)))
        least = 0 if min(seen) >= 0 else -at_most(-int(min(seen)))
        shown, beyond = (str(most), str(least)), most
    else:
        top = min(float(above(max(seen))), sys.float_info.max)
        bottom = 0.0 if min(seen) >= 0 else max(-float(above(-min(seen))), -sys.float_info.max)
        shown, beyond = (repr(top), repr(bottom)), top
    clauses = (f"{text} <= {shown[0]}", f"{text} >= {shown[1]}")
    return Bound(clauses, (Beyond("an amount above", spot.path, _larger(beyond, whole)),))


def _larger(most: int | float, whole: bool) -> int | float:
    """Well above it, as far as such numbers go."""
    if whole:
        return min(max(int(most), 0) * 10 + 1, LARGEST)
    return min(max(most, 0.0) * 10 + 1, sys.float_info.max)


def _strings(spot: Spot, seen: list[str], constants: Constants) -> Bound:
    secret = any(is_secret(each, spot.text) for each in set(seen))
    words = None if secret else few(seen, "enum" in spot.schema or "const" in spot.schema)
    if words is not None:
        listed = spot.schema.get("enum")
        others = [each for each in listed if each not in words] if isinstance(listed, list | tuple) else ["elsewhere"]
        beyond = tuple(Beyond("another word", spot.path, each) for each in others[:1])
        return Bound((f"{spot.text} in {constants.name(spot.name, words)}",), beyond)
    most = at_most(max(map(len, seen)))
    longer = (Beyond("a longer text", spot.path, "x" * (most + 1)),) if most < _LONGEST_BEYOND else ()
    return Bound((f"size({spot.text}) <= {most}",), longer)


def _lists(spot: Spot, seen: Sequence[list[Json]], constants: Constants) -> Bound:
    most = at_most(max(map(len, seen)))
    sized = f"size({spot.text}) <= {most}"
    items = [item for each in seen for item in each]
    longer: tuple[Beyond, ...] = ()
    if (
        items
        and isinstance(items[0], str)
        and len(items[0]) <= SHORT
        and most < SHORT
        and not is_secret(items[0], spot.text)
    ):
        longer = (Beyond("a longer list", spot.path, [items[0]] * (most + 1)),)
    strings = [item for item in items if isinstance(item, str)]
    schema = spot.schema.get("items")
    listed = isinstance(schema, Mapping) and "enum" in schema
    secret = any(is_secret(item, spot.text) for item in set(strings))
    words = few(strings, listed) if len(strings) == len(items) and not secret else None
    if words is None or below(spot.type, "[]") == "any":
        return Bound((sized,), longer)
    each = f"{sized} && {spot.text}.all(item, item in {constants.name(spot.name, words)})"
    return Bound((each,), longer)


def bound_object(spot: Spot, seen: Sequence[Mapping[str, Json]], constants: Constants) -> Bound:
    """The bounds of all declared parts of an object together."""
    named = spot.schema.get("properties")
    properties = named if isinstance(named, Mapping) else {}
    bounds = [_part(spot, str(name), schema, seen, constants) for name, schema in properties.items()]
    if {name for each in seen for name in each} - properties.keys():
        bounds.append(Bound(silent=(f"undeclared parts of {spot.text}",)))
    return joined(bounds)


def joined(bounds: Sequence[Bound]) -> Bound:
    """All of them as one."""
    return Bound(
        tuple(clause for each in bounds for clause in each.clauses),
        tuple(beyond for each in bounds for beyond in each.beyond),
        tuple(name for each in bounds for name in each.silent),
    )


def _part(spot: Spot, name: str, schema: Json, seen: Sequence[Mapping[str, Json]], constants: Constants) -> Bound:
    inner = inner_spot(spot, name, schema)
    values = [each[name] for each in seen if name in each]
    if inner is None:
        return Bound(silent=(f"a part of {spot.text} that no expression can name",))
    bound = Bound() if not values else bound_values(inner, values, constants)
    return bound if always(spot.schema, name) else guarded(inner.text, bound, bool(values))


def inner_spot(spot: Spot, name: str, schema: Json) -> Spot | None:
    """A part of an object; None where no expression can name it."""
    if not can_name(name):
        return None
    known = schema if isinstance(schema, Mapping) else {}
    text, path = f"{spot.text}.{name}", (*spot.path, name)
    return Spot(text, f"{spot.name}_{name}", known, below(spot.type, name) or "any", path)


def always(schema: Mapping[str, Json], name: str) -> bool:
    """Whether the schema of an object sees to it that the part is there."""
    named, properties = schema.get("required", ()), schema.get("properties")
    known = properties.get(name) if isinstance(properties, Mapping) else None
    has_default = isinstance(known, Mapping) and "default" in known
    return has_default or (isinstance(named, list | tuple) and name in named)


def guarded(text: str, bound: Bound, seen: bool) -> Bound:
    """The bound of a part that a call may leave out; without values, of one that every call left out."""
    if not seen:
        return Bound((f"!has({text})",))
    return Bound(tuple(f"!has({text}) || ({each})" for each in bound.clauses), bound.beyond, bound.silent)
