"""Declared session state, compiled: which cell a call reads, and what a call adds to which cell.

Pure: it never counts (`reliability/cells.py` does), and holds no content: a value that is compared or told apart is
there as its digest.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

from gateway.aggregates import OF_VALUE, Cell, Entry, Kind, Level
from gateway.model import Call
from gateway.policy import language, rules, shapes
from gateway.policy.arguments import misnamed
from gateway.policy.syntax import Path
from gateway.policy.variables import TooMuch
from gateway.specs import facts
from gateway.specs.yaml import SpecError
from gateway.tool import Json, Tool

Over = Literal["session", "user", "agent", "tenant"]
TYPES: Mapping[Kind, str] = {
    "count": "int",
    "count_distinct": "int",
    "sum": "double",
    "formerly": "bool",
    "since": "double",
}
_ABSENT = object()
_written = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_NUMBERS = {"number", "integer"}
MAX_COMPARED = 1000  # values in the whole of what an aggregate compares or tells apart


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One declared aggregate. `variable` is the full name its programs use, `name` the one people read.

    `of` are the past calls it is about; `takes` the argument or fact of theirs that is added up or told apart; `same`
    the one that a past call shares with the call being decided. `stem` is what all its cells' keys begin with: part,
    name and the digest of the definition, the part's tenant with it, so a changed definition starts anew.
    """

    variable: str
    name: str
    kind: Kind
    within: float
    over: Over
    of: rules.Match
    part: rules.Part
    takes: Path | None
    same: Path | None
    stem: str

    def feeds_on(self, tool: Tool) -> bool:
        """Whether calls of the tool are among those it is about."""
        return self.of.takes_tool(tool)


def state_types(part: language.Part, prefix: str) -> dict[str, str]:
    """The variables of a part's aggregates, with their types."""
    return {_variable(name, prefix): TYPES[_kind(shape)] for name, shape in part.shape.state.items()}


def compile_state(part: language.Part, owner: rules.Part, prefix: str) -> list[Aggregate]:
    """The aggregates of a part, in the order of the file. `prefix` tells the parts of a bundle apart."""
    return [_compile(name, shape, owner, prefix) for name, shape in part.shape.state.items()]


def cell_of(aggregate: Aggregate, call: Call) -> Cell | None:
    """The cell that a call reads, which is also the one it adds to. None where the value to compare is absent.

    Raises TooMuch for a value too large to compare.
    """
    key = f"{aggregate.stem}\x1f{_owner(aggregate.over, call)}"
    if aggregate.same is not None:
        value = _value(aggregate.same, call)
        if value is _ABSENT:
            return None
        key = f"{key}{OF_VALUE}{_compared(value)}"
    return Cell(aggregate.name, key, aggregate.kind, aggregate.within)


def stem_of(key: str) -> str:
    """The stem of a cell's key: which definition it is a cell of."""
    return "\x1f".join(key.split("\x1f", 3)[:3])


def entry_of(aggregate: Aggregate, call: Call) -> Entry | None:
    """What a call adds to an aggregate its tool feeds. None where it has no value to add, or none to compare.

    Raises TooMuch like `cell_of`.
    """
    cell = cell_of(aggregate, call)
    if cell is None or aggregate.takes is None:
        return None if cell is None else Entry(cell)
    value = _value(aggregate.takes, call)
    if aggregate.kind == "sum":
        amount = _amount(value)
        return None if amount is None else Entry(cell, amount)
    return None if value is _ABSENT else Entry(cell, _compared(value))


def shown(kind: Kind, level: Level) -> Json:
    """A level as expressions see it."""
    if TYPES[kind] == "double":
        return float(level.value)
    return bool(level.value) if kind == "formerly" else int(level.value)


# ── what is wrong with a declaration ─────────────────────────────────────────────────────────────────────────────────


def state_errors(part: language.Part, compiled: Sequence[Aggregate], tools: Sequence[Tool]) -> Iterator[SpecError]:
    """Paths that the tools an aggregate is about do not have, and sums of what is no number."""
    for aggregate in compiled:
        name = aggregate.name.removeprefix("state.")
        fed = [tool for tool in tools if aggregate.feeds_on(tool)]
        for key, path in ((aggregate.kind, aggregate.takes), ("same", aggregate.same)):
            sentence = None if path is None else misnamed(path, False, fed)
            if path is not None and key == "sum":
                sentence = sentence or _not_a_number(path, fed)
            if sentence:
                yield part.error(sentence, "state", name, key)


def incomparable(aggregate: Aggregate, tools: Sequence[Tool]) -> str | None:
    """What is wrong with reading the aggregate in a rule about these tools: a call must have what `same` compares.

    Of tools that feed it, the declaration is told.
    """
    if aggregate.same is None:
        return None
    sentence = misnamed(aggregate.same, False, [tool for tool in tools if not aggregate.feeds_on(tool)])
    return sentence and f"{aggregate.name} compares a past call with this one, but {sentence}"


def _not_a_number(path: Path, tools: Sequence[Tool]) -> str | None:
    label = ".".join(path)
    if path[0] == "arg":
        return f"a sum adds up a number of the arguments: write args.NAME, {label} is a fact"
    for tool in tools:
        schema: Json = tool.input_schema
        for step in path[1:]:
            below = schema.get("properties") if isinstance(schema, Mapping) else None
            schema = below.get(step) if isinstance(below, Mapping) else None
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        kinds = set(kind) if isinstance(kind, list | tuple) else {kind}
        if not kinds <= _NUMBERS:
            said = f"of the type {kind}" if kind else "of no declared type"
            return f"a sum adds up numbers, and {label} of the tool {tool.name} is {said}: sum a number, or count"
    return None


# ── from shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _compile(name: str, shape: shapes.AggregateShape, owner: rules.Part, prefix: str) -> Aggregate:
    kind = _kind(shape)
    given: shapes.OfShape | str = getattr(shape, kind)
    takes = _path(given) if isinstance(given, str) else None
    about = shape.of if isinstance(given, str) else given
    definition = _digest([owner.tenant, shape.model_dump(mode="json", exclude_none=True)])
    return Aggregate(
        variable=_variable(name, prefix),
        name=f"state.{name}",
        kind=kind,
        within=shape.within,
        over=shape.over,
        of=rules.Match(**{key: tuple(globs) for key, globs in about or () if globs is not None}),
        part=owner,
        takes=takes,
        same=None if shape.same is None else _path(shape.same),
        stem=f"{owner.id}\x1f{name}\x1f{definition}",
    )


def _kind(shape: shapes.AggregateShape) -> Kind:
    return next(cast(Kind, kind) for kind in shapes.KINDS if getattr(shape, kind) is not None)


def _variable(name: str, prefix: str) -> str:
    return f"{prefix}.state.{name}"


def _path(text: str) -> Path:
    return tuple(text.split("."))


# ── of one call ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _owner(over: Over, call: Call) -> str:
    """Whose past it is. A user and an agent of one name are two owners."""
    principal = call.caller.principal
    if over == "session":
        return call.caller.session.uid
    if over == "tenant":
        return principal.tenant
    if over == "user" and principal.user is not None:
        return f"{principal.tenant}\x1fuser\x1f{principal.user}"
    return f"{principal.tenant}\x1fagent\x1f{principal.agent}"


def _value(path: Path, call: Call) -> Json:
    value: Json = call.arguments
    if path[0] == "arg":
        kind = call.tool.facts.get(path[1])
        value = {} if kind is None else facts.derive({path[1]: kind}, call.arguments)
    for step in path[1:]:
        value = value.get(step, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


def _amount(value: Json) -> Decimal | None:
    """Exact as it was written in JSON. Below zero is zero: no call may lower a sum."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return max(Decimal(str(value)) if isinstance(value, float) else Decimal(value), Decimal(0))


def _compared(value: Json) -> str:
    """The digest of a value of a call. A large one would keep every other call waiting, so it is not taken."""
    parts = itertools.islice(_parts(value), MAX_COMPARED + 1) if isinstance(value, Mapping | list) else ()
    if len(list(parts)) > MAX_COMPARED:
        raise TooMuch(f"The policy compares a part of the arguments that is more than {MAX_COMPARED} values.")
    return _digest(value)


def _parts(value: Json) -> Iterator[Json]:
    yield value
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _parts(each)


def _digest(value: Json) -> str:
    """SHA-256, in hex, of the value: equal for what JSON Schema calls equal, so 1.0 is not another value than 1."""
    return hashlib.sha256(_written(_plain(value)).encode()).hexdigest()


def _plain(value: Json) -> Json:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
