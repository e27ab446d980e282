"""What would be decided about a call, and why: stages 2 to 4 without a record. Nothing is reserved, nothing runs.

It never authenticates: who the caller is, is supposed by whoever asks, who has to be an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.aggregates import Cell, Level
from gateway.model import Call, Caller, Problem, Refusal, Request
from gateway.policy.explain import Form, explained, refused
from gateway.policy.findings import nearest
from gateway.policy.words import lines
from gateway.ports import Bundle, Catalogue
from gateway.problems import problem
from gateway.stages.resolve import resolve
from gateway.stages.validate import validate
from gateway.tool import Json, Tool

_ID = "c_explained"
Look = Callable[[Sequence[Cell], float], Mapping[str, Level]]


def explain(
    caller: Caller, name: str, arguments: Json, catalogue: Catalogue, bundle: Bundle, look: Look, now: float
) -> Form:
    """The explained decision (`policy/explain.py`), and in `lines` the same for people.

    `look` gives the levels of the past that the rules read. A hidden tool and arguments that do not fit are explained
    as well: `effect` is null then, because policy is not asked.
    """
    form = _explain(caller, Request(_ID, name, arguments, None), catalogue, bundle, look, now)
    return form | {"lines": lines(form)}


def _explain(caller: Caller, request: Request, catalogue: Catalogue, bundle: Bundle, look: Look, now: float) -> Form:
    try:
        tool = resolve(request, caller, catalogue, bundle)
        fitting = validate(request, tool)
    except Refusal as refusal:
        found, principal = catalogue.find(request.tool), caller.principal
        hidden = refusal.problem.code == "unknown_tool"
        near = bundle.near(found, principal) if found is not None and hidden else ()
        said = _unseen(request.tool, caller, catalogue, bool(near)) if hidden else refusal.problem
        return refused(request.tool, principal, caller.session.id, bundle.digest, said, near)
    call = Call(_ID, caller, tool, fitting, now, 0)
    decision = bundle.explain(call, look(bundle.cells(call), now))
    return explained(decision, bundle.near(tool, caller.principal))


def _unseen(name: str, caller: Caller, catalogue: Catalogue, ruled: bool) -> Problem:
    """Why there is no such tool for the caller. `ruled`: there are rules about it, which say more."""
    found = catalogue.find(name)
    if found is None:
        return problem("unknown_tool", f"there is no tool of that name: {nearest(name, _names(catalogue.all()))}")
    if found.tenant not in (None, caller.principal.tenant):
        return problem("unknown_tool", f"it is a tool of tenant {found.tenant}")
    return problem("unknown_tool", f"no rule permits it to {'this caller' if ruled else 'anybody'}")


def _names(tools: Sequence[Tool]) -> list[str]:
    return [tool.name for tool in tools]
