"""The calls that were really made: those with an intent and an outcome that was done, with their arguments.

What cannot be read, or does not fit the tools there are now, is counted by its reason, never guessed. It reads only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from gateway.audit.content import Contents, Unreadable
from gateway.audit.query import Record
from gateway.model import Principal
from gateway.specs.fetch import fetch_tool
from gateway.tool import Json, SandboxBackend, Tool

METADATA = "the arguments are not on record"
GONE = "the content cannot be read any more"
NO_TOOL = "there is no such tool any more"
MISFIT = "the arguments do not fit the tool as it is now"
ELSEWHERE = "not on record here, because they were archived"
UNLIKE = "the record is not as this version writes it"


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that was done. `at` in unix seconds; `arguments` as they were checked, defaults filled in."""

    call_id: str
    at: float
    principal: Principal
    tool: Tool
    arguments: Mapping[str, Json]


@dataclass(slots=True)
class Past:
    """What the ledger told: the calls in order, and for each reason how many calls say nothing."""

    calls: list[Seen] = field(default_factory=list)
    silent: Counter[str] = field(default_factory=Counter)


def past_of(records: Iterable[Record], contents: Contents, tools: Sequence[Tool], agent: str | None = None) -> Past:
    """The calls among records that are in order; of one agent where that is given."""
    named, past, opened = _named(tools), Past(), dict[str, Record]()
    for record in records:
        try:
            if record["type"] == "call.intent":
                if agent in (None, cast(Any, record["principal"])["agent"]):
                    opened[str(record["call_id"])] = record
            elif record["type"] == "call.outcome":
                intent = opened.pop(str(record["call_id"]), None)
                if intent is not None and cast(Any, record["outcome"])["status"] == "done":
                    _take(past, intent, contents, named)
        except (KeyError, TypeError, ValueError, AttributeError):
            past.silent[UNLIKE] += 1
    return past


def _take(past: Past, record: Record, contents: Contents, named: Mapping[str, Tool]) -> None:
    tool = named.get(str(cast(Any, record["tool"])["name"]))
    if tool is None:
        past.silent[NO_TOOL] += 1
        return
    try:
        content = contents.open(record)
    except Unreadable:
        past.silent[GONE] += 1
        return
    if not isinstance(content, dict) or not isinstance(content.get("arguments"), dict):
        past.silent[METADATA] += 1
        return
    arguments = cast(dict[str, Json], content["arguments"])
    if tool.check.check(arguments):
        past.silent[MISFIT] += 1
        return
    filled = tool.check.fill(dict(arguments))
    at = float(cast(float, record["opened_at"]))
    past.calls.append(Seen(str(record["call_id"]), at, _principal(record), tool, filled))


def _principal(record: Record) -> Principal:
    said = cast(Any, record["principal"])
    return Principal(said["agent"], str(record["tenant"]), said["user"], frozenset(said.get("groups") or ()))


def _named(tools: Sequence[Tool]) -> dict[str, Tool]:
    """By name, and with what code can fetch by, where some tool's code can."""
    fetching = (tool for tool in tools if isinstance(tool.backend, SandboxBackend) and tool.backend.network)
    return {tool.name: tool for tool in (*map(fetch_tool, fetching), *tools)}
