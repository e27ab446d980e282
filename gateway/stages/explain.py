"""What would be decided about a call, and why: stages 2 to 4 without a record. Nothing is reserved, nothing runs.

It never authenticates: who the caller is, is supposed by whoever asks, who has to be an operator.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from gateway.aggregates import Cell, Level
from gateway.model import Call, Caller, Problem, Reason, Refusal, Request
from gateway.policy.explain import Form, explained, refused
from gateway.policy.findings import nearest
from gateway.policy.near import own
from gateway.policy.words import lines
from gateway.ports import Bundle, Catalogue
from gateway.problems import problem
from gateway.stages.resolve import resolve
from gateway.stages.validate import validate
from gateway.tool import Json, Tool

_ID = "c_explained"
Look = Callable[[Sequence[Cell], float], Awaitable[Mapping[str, Level]]]


async def explain(
    caller: Caller,
    name: str,
    arguments: Json,
    catalogue: Catalogue,
    bundle: Bundle,
    look: Look,
    now: float,
    *,
    confined: bool = False,
) -> Form:
    """The explained decision (`policy/explain.py`), and in `lines` the same for people.

    `look` gives the levels of the past that the rules read. A hidden tool and arguments that do not fit are explained
    as well: `effect` is null then, because policy is not asked. `confined`: nothing is said of what other tenants have,
    their tools and the rules that are for their callers only.
    """
    request, near = Request(_ID, name, arguments, None), _near(caller, bundle, confined)
    try:
        tool = resolve(request, caller, catalogue, bundle)
        call = Call(_ID, caller, tool, validate(request, tool), now, 0)
    except Refusal as refusal:
        form = _refused(request, caller, catalogue, bundle, refusal.problem, near, confined)
    else:
        form = explained(bundle.explain(call, await look(bundle.cells(call), now)), near(tool))
    return form | {"lines": lines(form)}


def _refused(
    request: Request,
    caller: Caller,
    catalogue: Catalogue,
    bundle: Bundle,
    said: Problem,
    near: Callable[[Tool], Sequence[Reason]],
    confined: bool,
) -> Form:
    """What policy was not asked about. Of a hidden tool, why it is hidden."""
    rules: Sequence[Reason] = ()
    if said.code == "unknown_tool":
        tenants = (None, caller.principal.tenant)
        tools = {tool.name: tool for tool in catalogue.all() if not confined or tool.tenant in tenants}
        found = tools.get(request.tool)
        rules = () if found is None else near(found)
        said = _unseen(request.tool, caller, tools, bool(rules))
    return refused(request.tool, caller.principal, caller.session.id, bundle.digest, said, rules)


def _near(caller: Caller, bundle: Bundle, confined: bool) -> Callable[[Tool], Sequence[Reason]]:
    def near(tool: Tool) -> Sequence[Reason]:
        found = bundle.near(tool, caller.principal)
        return own(found) if confined else found

    return near


def _unseen(name: str, caller: Caller, tools: Mapping[str, Tool], ruled: bool) -> Problem:
    """Why there is no such tool for the caller. `ruled`: there are rules about it, which say more."""
    found = tools.get(name)
    if found is None:
        return problem("unknown_tool", f"there is no tool of that name: {nearest(name, list(tools))}")
    if found.tenant not in (None, caller.principal.tenant):
        return problem("unknown_tool", f"it is a tool of tenant {found.tenant}")
    return problem("unknown_tool", f"no rule permits it to {'this caller' if ruled else 'anybody'}")
