"""Stage 2: from a name to a `Tool` this caller may see. It never says whether a hidden tool exists."""

from __future__ import annotations

from gateway.model import Caller, Refusal, Request
from gateway.ports import Bundle, Catalogue
from gateway.problems import refuse
from gateway.tool import Tool


def resolve(request: Request, caller: Caller, catalogue: Catalogue, bundle: Bundle) -> Tool:
    """The tool the request names.

    A message the door could not read names no tool, so its defect is refused here, before the look-up.

    Raises:
        Refusal: `insufficient_scope`, the request's own defect, `malformed` for an idempotency key, `unknown_tool`.
    """
    if "agent" not in caller.principal.scopes:
        raise refuse("insufficient_scope", "Calling a tool needs a key with the scope agent.")
    if request.defect is not None:
        raise Refusal(request.defect)
    if request.idempotency_key is not None:
        raise refuse("malformed", "Idempotency-Key is not supported yet: send the call without it.")
    principal = caller.principal
    tool = catalogue.find(request.tool)
    if tool is None or tool.tenant not in (None, principal.tenant) or tool.name not in bundle.visible(principal):
        raise refuse("unknown_tool", "There is no tool of that name for you.")
    return tool
