"""What a record is looked up by: the columns of the index, and whether a record is wanted. Pure: it reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.tool import Json
from gateway.wanted import BadCursor, Wanted

_MOST = 1 << 63
_SAME = ("call", "parent", "session", "tenant", "agent", "user", "tool", "effect", "code", "status")


class Place(NamedTuple):
    """Where a record stands in the order of all shards: hybrid logical clock, shard, seq."""

    hlc: int
    shard: str
    seq: int

    def cursor(self) -> str:
        """The place as text, for whoever asks for what follows it."""
        return f"{self.hlc:016x}.{self.seq}.{self.shard}"


def place_at(cursor: str) -> Place:
    """The place a cursor stands for. Raises `BadCursor`."""
    hlc, _, rest = cursor.partition(".")
    seq, _, shard = rest.partition(".")
    if len(hlc) != 16 or not set(hlc) <= set("0123456789abcdef") or not (seq.isascii() and seq.isdecimal()):
        raise BadCursor("not a cursor that was given out")
    place = Place(int(hlc, 16), shard, int(seq[:20]))
    if place.hlc >= _MOST or place.seq >= _MOST or not shard.isprintable():
        raise BadCursor("not a cursor that was given out")
    return place


class Columns(NamedTuple):
    """A record's values in plain, under the names of `Wanted`; what it does not have is `None`."""

    call: str | None
    parent: str | None
    session: str | None
    tenant: str | None
    agent: str | None
    user: str | None
    tool: str | None
    type: str | None
    effect: str | None
    code: str | None
    rules: tuple[str, ...]
    status: str | None


def place_of(record: Mapping[str, Json]) -> Place:
    """The place of a record. Raises `ValueError` for a clock or seq that no writer of ours would write."""
    hlc, seq = int(str(record["hlc"]), 16), record["seq"]
    if not 0 <= hlc < _MOST or not isinstance(seq, int) or not 0 <= seq < _MOST:
        raise ValueError("its clock or its seq is out of range")
    return Place(hlc, str(record["shard"]), seq)


def columns_of(record: Mapping[str, Json]) -> Columns:
    """The columns of a record of any type."""
    principal, outcome, decision = (_part(record, name) for name in ("principal", "outcome", "decision"))
    return Columns(
        call=_text(record, "call_id"),
        parent=_text(record, "parent_call_id"),
        session=_text(record, "session_id"),
        tenant=_text(record, "tenant"),
        agent=_text(principal, "agent"),
        user=_text(principal, "user"),
        tool=_text(_part(record, "tool"), "name"),
        type=_text(record, "type"),
        effect=_text(decision, "effect"),
        code=_text(outcome, "code") or _text(decision, "code"),
        rules=_rules(outcome, decision),
        status=_text(outcome, "status"),
    )


def matches(wanted: Wanted, place: Place, has: Columns) -> bool:
    """Whether a record is one of those wanted."""
    first, end = clocks(wanted)
    if not first <= place.hlc < end or (wanted.rule is not None and wanted.rule not in has.rules):
        return False
    if wanted.type is not None and not _typed(wanted.type, has.type or ""):
        return False
    return all(getattr(wanted, name) in (None, getattr(has, name)) for name in _SAME)


def clocks(wanted: Wanted) -> tuple[int, int]:
    """The first clock wanted, and the first that is not any more."""
    return _clock(wanted.since, 0), _clock(wanted.until, _MOST - 1)


def _clock(at: float | None, otherwise: int) -> int:
    return otherwise if at is None else min(max(0, int(at * 1000)) << 16, _MOST - 1)


def _typed(asked: str, own: str) -> bool:
    return own.startswith(asked[:-1]) if asked.endswith("*") else own == asked


def _rules(outcome: Mapping[str, Json], decision: Mapping[str, Json]) -> tuple[str, ...]:
    listed = decision.get("rules")
    named = [_text(outcome, "rule"), _text(decision, "rule"), *(listed if isinstance(listed, list) else [])]
    return tuple(dict.fromkeys(rule for rule in named if isinstance(rule, str) and "\n" not in rule))


def _part(record: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(part: Mapping[str, Json], name: str) -> str | None:
    value = part.get(name)
    return value if isinstance(value, str) else None
