"""What MCP clients are shown: a `Tool` as a tool definition, an `Outcome` as the result of `tools/call`.

Pure. It never decides what is shown to whom, and puts nothing into a result that screening has not passed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from gateway.doors import render
from gateway.model import Outcome
from gateway.tool import Json, Tool

Shape = dict[str, Json]


def definition(tool: Tool) -> Shape:
    """One entry of `tools/list`. The hints say what the operator declared as effects, never what a name suggests."""
    shown: Shape = {"name": tool.name}
    if tool.title is not None:
        shown["title"] = tool.title
    shown["description"] = tool.description
    shown["inputSchema"] = tool.input_schema
    if tool.output_schema is not None:
        shown["outputSchema"] = tool.output_schema
    shown["annotations"] = hints(tool)
    shown["_meta"] = {"dev.toolgate/digest": tool.digest}
    return shown


def hints(tool: Tool) -> Shape:
    """The four hints. Code that runs in a sandbox (`exec`) changes nothing outside it; `egress` is the open world."""
    return {
        "readOnlyHint": not tool.effects & {"write", "destructive"},
        "destructiveHint": "destructive" in tool.effects,
        "idempotentHint": tool.idempotent,
        "openWorldHint": "egress" in tool.effects,
    }


def result(outcome: Outcome, trace_id: str | None, *, modern: bool) -> Shape:
    """The result of a call: always a text block, because some clients show a model nothing else.

    The problem's machine part stands in `_meta` alone: structured content is what the output schema describes. Until
    2025-11-25 it can only be an object, so there any other value is in the text alone.
    """
    shown: Shape = {"content": render.content(outcome), "isError": outcome.problem is not None}
    if outcome.structured is not None and outcome.problem is None and (modern or isinstance(outcome.structured, dict)):
        shown["structuredContent"] = outcome.structured
    meta: Shape = {"dev.toolgate/call-id": outcome.call_id, "dev.toolgate/verdict": render.verdict(outcome.verdict)}
    if outcome.repeat:
        meta["dev.toolgate/repeat"] = True
    if outcome.truncated:
        meta["dev.toolgate/truncated"] = True
    if outcome.notes:
        meta["dev.toolgate/notes"] = list(outcome.notes)
    if outcome.artifacts:
        meta["dev.toolgate/artifacts"] = render.artifacts(outcome)
    if outcome.problem is not None:
        meta["dev.toolgate/problem"] = render.members(outcome.problem, outcome.call_id, trace_id)
    shown["_meta"] = meta
    return shown


def as_object(value: Json) -> Shape:
    """The value when it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def page(tools: Sequence[Tool], after: str, size: int) -> tuple[Sequence[Tool], str | None]:
    """The `size` tools whose names follow `after`, and where the next page starts; `None` when that was all.

    A cursor is the last name shown, so it stays right when tools come and go between two pages.
    """
    rest = [t for t in tools if t.name > after] if after else tools
    return rest[:size], rest[size - 1].name if len(rest) > size else None


def to_cursor(name: str) -> str:
    """The opaque form of where the next page starts."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def from_cursor(cursor: Json) -> str | None:
    """The name a cursor stands for; `None` for anything that is no cursor of ours."""
    if not isinstance(cursor, str) or len(cursor) > 256 or not cursor.isascii():
        return None
    try:
        name = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    return name if name and to_cursor(name) == cursor else None
