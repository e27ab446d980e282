"""The syntax tree of a CEL expression, read from the engine's serialised form, and what can be asked of it.

The form is the `CheckedExpr` message of the CEL specification (cel/expr/checked.proto, cel/expr/syntax.proto) in
protobuf wire format, wrapped in an `Any`. It never evaluates anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Path = tuple[str, ...]
ITEM = "[]"  # the step of a path from a list to what stands in it


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: its text, `None` for any other kind, and how it is written."""

    text: str | None
    written: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A variable, by its full and possibly dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or `has(operand.field)` when `test`."""

    operand: Expr
    field: str
    test: bool


@dataclass(frozen=True, slots=True)
class Apply:
    """A function or operator with its arguments; a method's target comes first."""

    function: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """A list, map or message literal: its parts in order."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A macro over a list or map (`all`, `exists`, `map` …). `universal` says that it is `all`."""

    variable: str
    over: Expr
    body: tuple[Expr, ...]
    universal: bool


Expr = Constant | Name | Select | Apply | Build | Loop


def parse_checked(serialised: bytes) -> Expr:
    """The tree of a serialised checked expression. Raises ValueError when the form is not the expected one."""
    return _expr(_one(_split(_one(_split(serialised), 2)), 4), {})


def parse_located(serialised: bytes) -> tuple[Expr, Mapping[int, Expr]]:
    """The tree, and its parts by their place in the text, counted in characters from 0. Raises ValueError likewise.

    A selection and an index stand at their dot or bracket, an operator at its sign, a call at its parenthesis.
    """
    checked = _split(_one(_split(serialised), 2))
    numbered: dict[int, Expr] = {}
    whole = _expr(_one(checked, 4), numbered)
    found: dict[int, Expr] = {}
    for entry in _split(_one(checked, 5)).get(4, ()):
        pair = _split(entry)
        number, at = pair.get(1, [0])[0], pair.get(2, [0])[0]
        if number in numbered:
            found.setdefault(at, numbered[number])
    return whole, found


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all its parts, outermost first."""
    yield expr
    for part in _parts(expr):
        yield from walk(part)


def revisits(expr: Expr, name: str) -> bool:
    """Whether a loop looks at the variable anew for each item, as in `args.a.all(x, x in args.b)`."""
    loops = (each for each in walk(expr) if isinstance(each, Loop))
    within = (part for loop in loops for body in loop.body for part in walk(body))
    return any(isinstance(part, Name) and part.name == name for part in within)


@dataclass(frozen=True, slots=True)
class Reference:
    """A variable and the fields followed from it as far as they are literal: `args.url.host` is (args, url, host).

    `tested` says that it stands inside `has(...)`.
    """

    path: Path
    tested: bool = False


Bound = Mapping[str, Path | None]  # loop variables, with the path of what they stand for where it is known
_ACCUMULATOR = "@result"
_INDEX = "_[_]"
_NOTHING: Bound = MappingProxyType({})


def references(expr: Expr) -> Iterator[Reference]:
    """Every variable the expression reads, loop variables left out. A path ends before the items of a list."""
    return map(cut, followed(expr))


def cut(reference: Reference) -> Reference:
    """The reference as far as it leads to before the items of a list."""
    path = reference.path
    return Reference(path[: path.index(ITEM)]) if ITEM in path else reference


def followed(expr: Expr, bound: Bound = _NOTHING) -> Iterator[Reference]:
    """The same, through the items of lists: in `args.to.all(a, a.name)` also (args, to, [], name)."""
    chain = path_of(expr, bound)
    if chain is not None:
        yield chain
        return
    for part, inner in parts(expr, bound):
        yield from followed(part, inner)


def parts(expr: Expr, bound: Bound = _NOTHING) -> Iterator[tuple[Expr, Bound]]:
    """The parts an expression is made of, each with the loop variables that it sees."""
    if not isinstance(expr, Loop):
        yield from ((part, bound) for part in _parts(expr))
        return
    yield expr.over, bound
    over = path_of(expr.over, bound)
    inner = {**bound, expr.variable: None if over is None else (*over.path, ITEM), _ACCUMULATOR: None}
    yield from ((part, inner) for part in expr.body)


def path_of(expr: Expr, bound: Bound = _NOTHING) -> Reference | None:
    """A name followed by fields (`a.b`, `a["b"]`) or items (`a[0]`), or None when it is anything else."""
    if isinstance(expr, Name):
        known = bound.get(expr.name, (expr.name,))
        return None if known is None else Reference(known)
    if isinstance(expr, Select):
        inner = path_of(expr.operand, bound)
        return inner and Reference((*inner.path, expr.field), expr.test)
    if isinstance(expr, Apply) and expr.function == _INDEX and isinstance(expr.arguments[1], Constant):
        inner, key = path_of(expr.arguments[0], bound), expr.arguments[1].text
        return inner and Reference((*inner.path, ITEM if key is None else key))
    return None


def _parts(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Select():
            return (expr.operand,)
        case Apply():
            return expr.arguments
        case Build():
            return expr.parts
        case Loop():
            return (expr.over, *expr.body)
        case _:
            return ()


# ── protobuf wire format ─────────────────────────────────────────────────────────────────────────────────────────────

Fields = dict[int, list[Any]]  # number → values: int for a varint, bytes for anything else
Numbered = dict[int, Expr]  # the number CEL gives a part → the part


def _split(message: bytes) -> Fields:
    found: Fields = {}
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    byte = message[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _one(fields: Fields, number: int) -> bytes:
    found = fields.get(number)
    if not found or not isinstance(found[-1], bytes):
        raise ValueError(f"field {number} is missing")
    return found[-1]


def _text(fields: Fields, number: int) -> str:
    return _one(fields, number).decode() if number in fields else ""


def _expr(message: bytes, numbered: Numbered) -> Expr:
    fields = _split(message)
    for number, read in _KINDS.items():
        if number in fields:
            made = read(_split(_one(fields, number)), numbered)
            numbered[fields.get(2, [0])[0]] = made
            return made
    raise ValueError("an expression of no kind")


def _constant(fields: Fields, numbered: Numbered) -> Expr:
    text = _text(fields, 6) if 6 in fields else None
    if text is not None:
        return Constant(text, json.dumps(text, ensure_ascii=False))
    if 3 in fields:
        whole = fields[3][0]
        return Constant(None, str(whole - 2**64 if whole >= 2**63 else whole))
    if 5 in fields:
        return Constant(None, repr(struct.unpack("<d", fields[5][0])[0]))
    return Constant(None, ("false", "true")[fields[2][0]] if 2 in fields else "null" if 1 in fields else "")


def _name(fields: Fields, numbered: Numbered) -> Expr:
    return Name(_text(fields, 1).removeprefix("."))


def _select(fields: Fields, numbered: Numbered) -> Expr:
    return Select(_expr(_one(fields, 1), numbered), _text(fields, 2), 3 in fields)


def _apply(fields: Fields, numbered: Numbered) -> Expr:
    of = (*fields.get(1, ()), *fields.get(3, ()))
    return Apply(_text(fields, 2), tuple([_expr(each, numbered) for each in of]))


def _list(fields: Fields, numbered: Numbered) -> Expr:
    return Build(tuple([_expr(each, numbered) for each in fields.get(1, ())]))


def _struct(fields: Fields, numbered: Numbered) -> Expr:
    entries = map(_split, fields.get(2, ()))
    of = [each for entry in entries for each in (*entry.get(3, ()), *entry.get(4, ()))]
    return Build(tuple([_expr(each, numbered) for each in of]))


def _loop(fields: Fields, numbered: Numbered) -> Expr:
    over, first, going, step, result = (_expr(_one(fields, number), numbered) for number in (2, 4, 5, 6, 7))
    universal = isinstance(step, Apply) and step.function == "_&&_"
    return Loop(_text(fields, 1), over, (first, going, step, result), universal)


_KINDS: Mapping[int, Callable[[Fields, Numbered], Expr]] = {
    3: _constant,
    4: _name,
    5: _select,
    6: _apply,
    7: _list,
    8: _struct,
    9: _loop,
}
