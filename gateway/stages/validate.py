"""Stage 3: from whatever was sent as arguments to `Arguments` that fit the tool's schema. It never repairs values."""

from __future__ import annotations

from gateway.model import Arguments, Refusal, Request
from gateway.problems import problem
from gateway.tool import Fix, Tool


def validate(request: Request, tool: Tool) -> Arguments:
    """The arguments, valid under JSON Schema 2020-12, with defaults filled in and every `number` a float.

    Raises:
        Refusal: `invalid_arguments` with at most five fixes a model can act on.
    """
    sent = request.arguments
    if not isinstance(sent, dict):
        raise _invalid((Fix("", type(sent).__name__, "an object with the tool's arguments"),))
    wrong = tool.check.check(sent)
    if wrong:
        raise _invalid(tuple(wrong))
    return Arguments(tool.check.fill(sent))


def _invalid(fixes: tuple[Fix, ...]) -> Refusal:
    said = "; ".join(_sentence(fix) for fix in fixes)
    return Refusal(problem("invalid_arguments", f"{said[:1].upper()}{said[1:]}.", fix=fixes))


def _sentence(fix: Fix) -> str:
    where = f"at {fix.pointer}" if fix.pointer else "at the top"
    near = f" (did you mean {fix.nearest}?)" if fix.nearest else ""
    return f"{where}: {fix.received}, allowed: {fix.allowed}{near}"
