"""Stage 2: from a name to a `Tool` this caller may see. It never says whether a hidden tool exists."""

from __future__ import annotations

from gateway.model import Caller, Parent, Refusal, Request
from gateway.ports import Bundle, Catalogue
from gateway.problems import refuse
from gateway.specs.fetch import FETCH, fetch_tool
from gateway.tool import SandboxBackend, Tool

MAX_DEPTH = 4  # calls within calls


def resolve(request: Request, caller: Caller, catalogue: Catalogue, bundle: Bundle) -> Tool:
    """The tool the request names.

    A message the door could not read names no tool, so its defect is refused here, before the look-up.

    Raises:
        Refusal: `insufficient_scope`, the request's own defect, `unknown_tool`;
        for a nested call also `no_permit` (its parent's spec does not grant it) and `sandbox_limit` (too deep).
    """
    if "agent" not in caller.principal.scopes:
        raise refuse("insufficient_scope", "Calling a tool needs a key with the scope agent.")
    if request.defect is not None:
        raise Refusal(request.defect)
    if request.parent is not None:
        _must_be_granted(request, request.parent)
        if request.tool == FETCH:
            return fetch_tool(request.parent.intent.call.tool)
    principal = caller.principal
    tool = catalogue.find(request.tool)
    if tool is None or tool.tenant not in (None, principal.tenant) or tool.name not in bundle.visible(principal):
        raise refuse("unknown_tool", "There is no tool of that name for you.")
    return tool


def _must_be_granted(request: Request, parent: Parent) -> None:
    """What code may call, and what stands in for a tool, is in that tool's spec. Looked at first, so that code cannot
    probe for other names. What is asked because of a call of the code is named in the spec of what the code called."""
    calling, name = parent.intent.call.tool, request.tool
    granted = name == calling.fallback if parent.instead else _granted(name, calling)
    if request.cause is None and not granted:
        raise refuse("no_permit", "The spec of the calling tool does not grant this to its code.")
    if parent.depth > MAX_DEPTH:
        raise refuse("sandbox_limit", f"Calls within calls go {MAX_DEPTH} deep at most.")


def _granted(name: str, calling: Tool) -> bool:
    backend = calling.backend
    if not isinstance(backend, SandboxBackend):
        return False
    return bool(backend.network) if name == FETCH else name in backend.tools
