"""The syntax tree of a CEL expression, read from the engine's serialised form, and what can be asked of it.

The form is the `CheckedExpr` message of the CEL specification (cel/expr/checked.proto, cel/expr/syntax.proto) in
protobuf wire format, wrapped in an `Any`. It never evaluates anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal. Only text is kept: `None` for any other kind."""

    text: str | None


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
    checked = _one(serialised, 2)
    return _expr(_one(checked, 4))


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all its parts, outermost first."""
    yield expr
    for part in _parts(expr):
        yield from walk(part)


@dataclass(frozen=True, slots=True)
class Reference:
    """A variable and the fields followed from it as far as they are literal: `args.url.host` is (args, url, host).

    `tested` says that it stands inside `has(...)`.
    """

    path: Path
    tested: bool = False


def references(expr: Expr, bound: frozenset[str] = frozenset()) -> Iterator[Reference]:
    """Every variable the expression reads, loop variables left out."""
    chain = _chain(expr)
    if chain is not None:
        if chain.path[0] not in bound:
            yield chain
        return
    if isinstance(expr, Loop):
        yield from references(expr.over, bound)
        bound = bound | {expr.variable, _ACCUMULATOR}
        for part in expr.body:
            yield from references(part, bound)
        return
    for part in _parts(expr):
        yield from references(part, bound)


_ACCUMULATOR = "@result"
_INDEX = "_[_]"


def _chain(expr: Expr) -> Reference | None:
    """A name followed by fields (`a.b`, `a["b"]`), or None when it is anything else."""
    if isinstance(expr, Name):
        return Reference((expr.name,))
    if isinstance(expr, Select):
        inner = _chain(expr.operand)
        return inner and Reference((*inner.path, expr.field), expr.test)
    if isinstance(expr, Apply) and expr.function == _INDEX and isinstance(expr.arguments[1], Constant):
        inner, key = _chain(expr.arguments[0]), expr.arguments[1].text
        return None if inner is None or key is None else Reference((*inner.path, key))
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


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind == 2:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield number, message[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _all(message: bytes, number: int) -> list[bytes]:
    return [value for field, value in _fields(message) if field == number and isinstance(value, bytes)]


def _one(message: bytes, number: int) -> bytes:
    found = _all(message, number)
    if not found:
        raise ValueError(f"field {number} is missing")
    return found[-1]


def _text(message: bytes, number: int) -> str:
    return b"".join(_all(message, number)[-1:]).decode()


def _expr(message: bytes) -> Expr:
    for number, value in _fields(message):
        if number >= 3 and isinstance(value, bytes):
            return _KINDS[number](value)
    raise ValueError("an expression of no kind")


def _constant(message: bytes) -> Expr:
    return Constant(next((value.decode() for value in _all(message, 6)), None))


def _name(message: bytes) -> Expr:
    return Name(_text(message, 1).removeprefix("."))


def _select(message: bytes) -> Expr:
    return Select(_expr(_one(message, 1)), _text(message, 2), any(number == 3 for number, _ in _fields(message)))


def _apply(message: bytes) -> Expr:
    return Apply(_text(message, 2), tuple(_expr(part) for part in _all(message, 1) + _all(message, 3)))


def _list(message: bytes) -> Expr:
    return Build(tuple(_expr(part) for part in _all(message, 1)))


def _struct(message: bytes) -> Expr:
    entries = _all(message, 2)
    return Build(tuple(_expr(part) for entry in entries for part in _all(entry, 3) + _all(entry, 4)))


def _loop(message: bytes) -> Expr:
    step = _expr(_one(message, 6))
    body = (_expr(_one(message, 4)), _expr(_one(message, 5)), step, _expr(_one(message, 7)))
    universal = isinstance(step, Apply) and step.function == "_&&_"
    return Loop(_text(message, 1), _expr(_one(message, 2)), body, universal)


_KINDS = {3: _constant, 4: _name, 5: _select, 6: _apply, 7: _list, 8: _struct, 9: _loop}
