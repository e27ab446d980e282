"""What is wrong with a condition, in words: what it does with which argument of which tool, and what would be right.

It judges nothing: `mismatch.py` has done so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.policy.arguments import label
from gateway.policy.mismatch import Kind, Mismatch
from gateway.policy.syntax import ITEM, Apply, Bound, Constant, Expr, Loop, Name, Path, Select, parts, path_of
from gateway.policy.typed import Items, Type, worded
from gateway.tool import Tool

_TEXTUAL = ("startsWith", "endsWith", "contains", "matches")
_ARITHMETIC = {"_+_": "+", "_-_": "-", "_*_": "*", "_/_": "/", "_%_": "%", "-_": "-"}
_LOGIC = {"_&&_": "&&", "_||_": "||", "!_": "!", "_?_:_": "?"}
_ORDER = {"_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">="}
_NUMBERS = ("int", "double")


@dataclass(frozen=True, slots=True)
class Spot:
    """The operands that a mismatch is about: as written in the clause, and as paths where they are.

    `named` says that it is a step of a path, which is told by its name.
    """

    written: tuple[str, ...] = ()
    paths: tuple[Path | None, ...] = ()
    named: bool = False


@dataclass(frozen=True, slots=True)
class Operand:
    """One side: its kind, and what to call it."""

    kind: Kind
    name: str
    path: Path | None
    written: str

    @property
    def word(self) -> str:
        return worded(_type(self.kind))

    def __str__(self) -> str:
        return f"{self.name} is {self.word}"


def spot_of(whole: Expr, node: Expr | None, function: str) -> Spot:
    """The operands of a part of an expression that a function, or what stands for one, is about."""
    bound = None if node is None else _bound(whole, node, {})
    if node is None or bound is None:
        return Spot()
    operands: tuple[Expr, ...] = (node.over if isinstance(node, Loop) else node,)
    if function not in ("range", "result"):
        operands = node.arguments if isinstance(node, Apply) else operands
        operands = (node.operand,) if isinstance(node, Select) else operands
    found = [path_of(each, bound) for each in operands]
    paths = tuple(None if each is None else each.path for each in found)
    own = path_of(node, bound)
    named = own is not None and own.path[-1] != ITEM and not isinstance(node, Name)
    return Spot(tuple(each.written if isinstance(each, Constant) else "" for each in operands), paths, named)


def sentence(wrong: Mismatch, spot: Spot, tool: Tool) -> str:
    """What is wrong, where in the clause, and what would be right."""
    operands = [_operand(number, kind, spot, tool) for number, kind in enumerate(wrong.kinds)]
    say = _mixed if wrong.mixed else _SAY.get(wrong.function, _other)
    return f"{say(wrong, operands)} ({place(wrong.line, wrong.column)})"


def place(line: int, column: int) -> str:
    """Where in a clause, in words."""
    return f"in the clause, line {line} column {column}" if line > 1 else f"in the clause, column {column}"


def _operand(number: int, kind: Kind, spot: Spot, tool: Tool) -> Operand:
    path = spot.paths[number] if number < len(spot.paths) else None
    if path is None:
        written = spot.written[number] if number < len(spot.written) else ""
        side = ("the left side", "the right side")[number > 0] if len(spot.paths) == 2 else "what stands there"
        return Operand(kind, written or side, None, written)
    root, _, rest = path[0].partition(".")
    name = label((rest if rest.startswith(("v.", "state.")) else path[0], *path[1:]))
    return Operand(kind, f"{name} of the tool {tool.name}" if root in ("args", "arg") else name, path, name)


def _type(kind: Kind) -> Type:
    if kind.name == "list":
        return Items(_type(kind.of[0])) if kind.of else Items("any")
    return "map" if kind.name.startswith("toolgate.") else kind.name


def _bound(whole: Expr, node: Expr, bound: Bound) -> Bound | None:
    """The loop variables that a part of an expression sees."""
    if whole is node:
        return bound
    for part, inner in parts(whole, bound):
        found = _bound(part, node, inner)
        if found is not None:
            return found
    return None


# ── one sentence for each way to be wrong ────────────────────────────────────────────────────────────────────────────


def _mixed(wrong: Mismatch, operands: list[Operand]) -> str:
    whole = next((each for each in operands if each.kind.name == "int" and each.path is None and each.written), None)
    said = " and ".join(map(str, operands))
    if whole:
        return f"integer and double mixed: {said}: write {whole.written}.0"
    return f"integer and double mixed: {said}: compare integers with integers, or write double(…) around the integer"


def _equal(wrong: Mismatch, operands: list[Operand]) -> str:
    one, other = operands
    known, against = (one, other) if one.path is not None else (other, one)
    if against.kind.name == "null_type":
        return f"{known}, never null: where it may be left out, write !has({known.written or '…'})"
    right = f"compare {known.written} with {known.word}" if known.path else "compare values of one kind"
    return f"{one} and {other}, which are never equal: {right}"


def _in(wrong: Mismatch, operands: list[Operand]) -> str:
    one, other = operands
    if other.kind.name == "string":
        return f"`in` looks into a list, and {other}: write {other.written or '…'}.contains(…)"
    if other.kind.name != "list":
        return f"`in` looks into a list, and {other}: write =="
    if one.kind.name == "list":
        said = f"{one.written or '…'}.all(each, each in {other.written or '…'}) or .exists"
        return f"{one}, and `in` looks for one value: write {said}"
    return f"{one} and {other}, so it is never in there: give {worded(Items(_type(one.kind)))}"


def _ordered(wrong: Mismatch, operands: list[Operand]) -> str:
    one, other = operands
    sign = _ORDER[wrong.function]
    if one.kind == other.kind:
        return f"{one}, and {sign} compares numbers, texts and times only"
    known = one if one.path is not None else other
    right = f"compare {known.written} with {known.word}" if known.path else "compare values of one kind"
    return f"{one} and {other}, which {sign} cannot compare: {right}"


def _added(wrong: Mismatch, operands: list[Operand]) -> str:
    sign = _ARITHMETIC[wrong.function]
    if len(operands) == 2 and all(each.kind.name in _NUMBERS for each in operands) and sign != "%":
        whole = next(each for each in operands if each.kind.name == "int")
        right = f"{whole.written}.0" if whole.path is None and whole.written else f"double({whole.written or '…'})"
        return f"{operands[0]} and {operands[1]}, which {sign} does not mix: write {right}"
    takes = "integers" if sign == "%" else "numbers of one kind"
    also = ", two texts or two lists" if sign == "+" else ""
    return f"{' and '.join(map(str, operands))}: {sign} takes {takes}{also}"


def _textual(wrong: Mismatch, operands: list[Operand]) -> str:
    bad = next((each for each in operands if each.kind.name != "string"), operands[0])
    said = f"{wrong.function}() takes text, and {bad}"
    if bad.kind.name == "list" and bad.path is not None:
        return f"{said}: write {bad.written}.all(each, each.{wrong.function}(…)) or .exists"
    if bad.kind.name in _NUMBERS:
        return f"{said}: write string({bad.written or '…'}).{wrong.function}(…), or compare it as a number"
    return f"{said}: name what holds the text"


def _logic(wrong: Mismatch, operands: list[Operand]) -> str:
    bad = next((each for each in operands if each.kind.name not in ("bool", "dyn")), operands[0])
    return f"{_LOGIC[wrong.function]} takes true or false, and {bad}: compare it with something"


def _index(wrong: Mismatch, operands: list[Operand]) -> str:
    one, other = operands
    if one.kind.name == "list":
        return f"{one}, and its items are counted: write {one.written or '…'}[0], not {other.name}"
    if _type(one.kind) == "map":
        return f"{one}, and its fields have names: write a text in the brackets, not {other.name}"
    return f"{one}, which has neither items nor fields"


def _select(wrong: Mismatch, operands: list[Operand]) -> str:
    return f"{operands[0]}, which has no fields"


def _range(wrong: Mismatch, operands: list[Operand]) -> str:
    return f"all(), exists() and their like go through a list, and {operands[0]}"


def _undefined(wrong: Mismatch, operands: list[Operand]) -> str:
    return f"there is no {label(wrong.path)}: leave it out, or add it to the tool's schema"


def _result(wrong: Mismatch, operands: list[Operand]) -> str:
    return f"a clause is true or false, and this one gives {operands[0].word}: compare it with something"


def _other(wrong: Mismatch, operands: list[Operand]) -> str:
    return f"{wrong.function}() does not take this: {' and '.join(map(str, operands))}"


_SAY: Mapping[str, Callable[[Mismatch, list[Operand]], str]] = {
    **dict.fromkeys(("_==_", "_!=_"), _equal),
    **dict.fromkeys(_ORDER, _ordered),
    **dict.fromkeys(_ARITHMETIC, _added),
    **dict.fromkeys(_TEXTUAL, _textual),
    **dict.fromkeys(_LOGIC, _logic),
    "@in": _in,
    "_[_]": _index,
    "select": _select,
    "range": _range,
    "undefined": _undefined,
    "result": _result,
}
