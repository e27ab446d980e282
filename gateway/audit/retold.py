"""A recorded call as a case: the caller, the session, what of the past it stood on, the call, and what was decided.

Pure. It decides nothing: whether the case holds says `toolgate test`, under whatever policy it is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.audit.query import Record, Shown
from gateway.reliability.written import read_entries

Form = dict[str, Any]
_BEFORE_POLICY = frozenset({"unknown_tool", "invalid_arguments"})
_ENDS = frozenset({"call.outcome", "call.refused", "call.resolved"})


class Untellable(ValueError):
    """No case can say what this call was. The text says why."""


@dataclass(slots=True)
class Told:
    """The case, as a file of cases holds it, and what of the call it does not say."""

    case: Form
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Past:
    """An admitted call that added to what the decision read."""

    shown: Shown
    ended: str = "running"


def retell(asked: Shown, before: Iterable[Shown]) -> Told:
    """The case of a call, from its first record and the ledger before that, in order. Raises Untellable."""
    record = asked.record
    who, session = _part(record, "principal"), _part(record, "session")
    if not session:
        raise Untellable("what its session was like is not on record")
    told = Told({"name": f"recorded as {record['call_id']}"})
    told.case["as"] = _caller(record, who)
    told.case["session"] = {
        "id": record["session_id"],
        "labels": sorted(session["labels"]),
        "calls": session["calls"],
        "cost": session["cost"],
        "age": max(0.0, float(record_time(record) - session["opened_at"])),
    }
    past = list(_history(asked, before, told.notes))
    if past:
        told.case["session"]["history"] = past
    told.case["call"] = {_tool(record): _arguments(asked)}
    told.case["expect"] = _expect(record)
    if "parent_call_id" in record:
        told.notes.append("code in a sandbox made this call; the case makes it directly")
    return told


def record_time(record: Record) -> float:
    """When the call was opened, in unix seconds."""
    at = record.get("opened_at")
    if not isinstance(at, int | float):
        raise Untellable("when it was made is not on record")
    return float(at)


def _history(asked: Shown, before: Iterable[Shown], notes: list[str]) -> Iterator[Form]:
    """The calls whose entries are in the cells that the decision read, oldest first."""
    reads = _part(asked.content, "reads") if isinstance(asked.content, Mapping) else {}
    keys = {str(read["key"]) for read in reads.values() if isinstance(read, Mapping)}
    found = _admitted(before, keys, record_time(asked.record)) if keys else {}
    owner = _caller(asked.record, _part(asked.record, "principal"))
    if any(_caller(past.shown.record, _part(past.shown.record, "principal")) != owner for past in found.values()):
        notes.append("calls of other callers are told as this caller's own")
    if any(past.shown.record.get("session_id") != asked.record.get("session_id") for past in found.values()):
        notes.append("calls of other sessions are told as made in this one")
    for past in found.values():
        ago = record_time(asked.record) - record_time(past.shown.record)
        call = {_tool(past.shown.record): _arguments(past.shown)}
        yield {"call": call, "ago": f"{max(1, math.floor(ago * 1000))}ms", "ended": past.ended}


def _admitted(before: Iterable[Shown], keys: set[str], now: float) -> dict[str, _Past]:
    found: dict[str, _Past] = {}
    for shown in before:
        record, call_id = shown.record, str(shown.record.get("call_id"))
        if record["type"] == "call.intent" and isinstance(shown.content, Mapping):
            entries = read_entries(shown.content.get("reserves"))
            if any(e.cell.key in keys and e.cell.within > now - record_time(record) for e in entries):
                found[call_id] = _Past(shown)
        elif call_id in found and record["type"] == "call.in_doubt":
            found[call_id].ended = "failed"  # it may have happened
        elif call_id in found and record["type"] in _ENDS:
            found[call_id].ended = _ended(record)
    return {call_id: past for call_id, past in found.items() if past.ended != "refused"}


def _ended(record: Record) -> str:
    if record["type"] == "call.resolved":
        return "done" if record.get("as") == "done" else "refused"
    return str(_part(record, "outcome").get("status"))


def _caller(record: Record, who: Mapping[str, Any]) -> Form:
    caller = {"agent": who["agent"], "tenant": record["tenant"]}
    optional = {"user": who.get("user"), "groups": sorted(who.get("groups") or ())}
    return caller | {name: value for name, value in optional.items() if value}


def _tool(record: Record) -> str:
    return str(_part(record, "tool").get("name"))


def _arguments(shown: Shown) -> Any:
    if shown.unreadable:
        raise Untellable(f"the arguments of {shown.record['call_id']} cannot be read: {shown.unreadable}")
    if not isinstance(shown.content, Mapping) or "arguments" not in shown.content:
        raise Untellable(f"the arguments of {shown.record['call_id']} are not on record")
    return shown.content["arguments"]


def _expect(record: Record) -> Form:
    decision, code = _part(record, "decision"), _part(record, "outcome").get("code")
    if not decision:
        if code not in _BEFORE_POLICY:
            raise Untellable(f"it was refused with {code} before policy was asked")
        return {"refused": code}
    rules = decision.get("rules") or []
    if decision["effect"] == "permit":
        return {"permit": rules[0]}
    return {"deny": rules[0] if rules else decision["code"]}


def _part(value: Any, name: str) -> Mapping[str, Any]:
    part = value.get(name) if isinstance(value, Mapping) else None
    return part if isinstance(part, Mapping) else {}
