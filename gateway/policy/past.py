"""The history of a case's session: calls that were made before, as the reservations they left behind.

It judges no call: what a case says was made counts, whatever a rule would have said of it then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.aggregates import Ended, Reservation
from gateway.model import Arguments, Call, Caller
from gateway.policy.findings import nearest
from gateway.policy.shapes import PastShape
from gateway.ports import Bundle
from gateway.tool import Json, Tool


@dataclass(frozen=True, slots=True)
class Past:
    """A call admitted `ago` seconds before the case's own, and how it ended: None when it is still under way."""

    tool: str
    arguments: Json
    ago: float
    ended: Ended | None


class Misfit(ValueError):
    """A call of a history that nobody could have made. Its text says why."""


def past_of(shapes: Sequence[PastShape]) -> tuple[Past, ...]:
    """A history as a case writes it."""
    found = []
    for shape in shapes:
        ((tool, arguments),) = shape.call.items()
        found.append(Past(tool, arguments, shape.ago, None if shape.ended == "running" else shape.ended))
    return tuple(found)


def reserved(
    history: Sequence[Past], caller: Caller, now: float, bundle: Bundle, tools: Mapping[str, Tool]
) -> list[tuple[Reservation, Ended | None]]:
    """What the calls of a history reserved, oldest first, and how each ended. Raises Misfit."""
    found = []
    for number, past in enumerate(history):
        call = _call(number, past, caller, now, tools)
        found.append((Reservation(call.id, call.now, (), tuple(bundle.entries(call))), past.ended))
    return sorted(found, key=lambda each: each[0].at)


def _call(number: int, past: Past, caller: Caller, now: float, tools: Mapping[str, Tool]) -> Call:
    tool = tools.get(past.tool)
    where = f"history {number + 1}"
    if tool is None:
        raise Misfit(f"{where}: there is no tool {past.tool!r}: {nearest(past.tool, tools)}")
    wrong = tool.check.check(past.arguments)
    if wrong:
        at = wrong[0].pointer or "the arguments"
        raise Misfit(f"{where}: no call of {tool.name}: {at} is {wrong[0].received}, allowed is {wrong[0].allowed}")
    arguments = tool.check.fill(dict(cast(Mapping[str, Json], past.arguments)))
    return Call(f"c_past{number + 1}", caller, tool, Arguments(arguments), now - past.ago, 0)
