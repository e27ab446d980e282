"""Confirmations over MCP: the question that a parked call's result carries, and the answer that the next call brings.

Only 2026-07-28 has this (`resultType: input_required`), and only for a client that says in that very request that it
can ask its person by a form. It never asks for anybody else's yes: an answer on the requester's own connection can only
be the requester's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol

from gateway.display import line, shown, text
from gateway.doors import render
from gateway.doors.mcp_headers import CAPABILITIES_KEY
from gateway.doors.mcp_shapes import Shape, as_object
from gateway.doors.mcp_state import About, Carried, States
from gateway.model import Outcome, Principal, Problem, Refusal
from gateway.parked import Parked
from gateway.ports import Approvals, Clock
from gateway.problems import problem
from gateway.tool import Json

ASKED: Final = "confirm"  # the name of the one question
OK: Final = "ok"  # the name of the one field of its form
STATE: Final = "requestState"
_FORM: Final[Shape] = {
    "type": "object",
    "properties": {OK: {"type": "boolean", "title": "Make this call", "default": False}},
    "required": [OK],
}


class Answers(Protocol):
    """What it takes to ask and to hear."""

    async def answer(
        self, principal: Principal, approval_id: str, yes: bool, *, via: Literal["elicitation"]
    ) -> Parked: ...
    @property
    def approvals(self) -> Approvals: ...
    @property
    def clock(self) -> Clock: ...


def elicits(params: Mapping[str, Json]) -> bool:
    """Whether a client says that it can show its person a form. Without a mode, a form is what is meant."""
    meta = as_object(params.get("_meta"))
    declared = as_object(meta.get(CAPABILITIES_KEY)).get("elicitation")
    return isinstance(declared, dict) and (not declared or isinstance(declared.get("form"), dict))


class Asking:
    """Asks the requester's person on the requester's own connection. `secret` signs what a client carries meanwhile.

    `params` are those of `tools/call`, with a tool's name in them.
    """

    def __init__(self, gate: Answers, secret: bytes) -> None:
        self._gate = gate
        self._states = States(secret)

    async def heard(self, params: Mapping[str, Json], principal: Principal) -> Problem | None:
        """Gives the answer that a call brings along; what is wrong with it, if something is. A call that brings none,
        or half of one, may go on: it is asked again."""
        if params.get(STATE) is None:
            return None
        found = self._states.read(params[STATE], _about(params, principal)) if elicits(params) else None
        if found is None:
            return problem("malformed", f"{STATE} is not one that was given to this client for this very call.")
        if self._gate.clock.now() >= found.until:
            return problem("approval_expired", "Nothing ran: the answer came too late.")
        yes = said(params.get("inputResponses"))
        if yes is None:
            return None
        try:
            await self._gate.answer(principal, found.approval, yes, via="elicitation")
        except Refusal as refusal:
            return refusal.problem
        return None

    async def question(self, params: Mapping[str, Json], principal: Principal, outcome: Outcome) -> Shape | None:
        """The result that asks the requester's person; None where that is not for them to say, or cannot be asked."""
        asks = outcome.status == "parked" and elicits(params)
        if not asks or outcome.problem is None or outcome.problem.approval is None:
            return None
        try:
            parked = await self._gate.approvals.get(principal.tenant, outcome.problem.approval)
        except Refusal:  # the store cannot be asked now; the call is parked, and the text of that says what to do
            return None
        if parked is None or parked.owner != principal.key or not parked.to_confirm():
            return None
        state = self._states.write(Carried(parked.id, parked.expires_at), _about(params, principal))
        form: Shape = {"mode": "form", "message": asked(parked), "requestedSchema": _FORM}
        ask: Json = {ASKED: {"method": "elicitation/create", "params": form}}
        told = render.members(outcome.problem, outcome.call_id)
        meta: Json = {"dev.toolgate/call-id": outcome.call_id, "dev.toolgate/problem": told}
        return {"resultType": "input_required", "inputRequests": ask, STATE: state, "_meta": meta}


def said(responses: Json) -> bool | None:
    """What the person answered: yes only by a form that was sent off with a yes in it; None when nothing was said.

    To dismiss the question is to say no: what was not confirmed does not happen.
    """
    given = as_object(as_object(responses).get(ASKED))
    action = given.get("action")
    if action in ("decline", "cancel"):
        return False
    ok = as_object(given.get("content")).get(OK)
    return ok if action == "accept" and isinstance(ok, bool) else None


def asked(parked: Parked) -> str:
    """What the person reads: everything that the yes would be for, with nothing in it that hides or moves text."""
    rules = " and ".join(dict.fromkeys(each.rule for each in parked.to_confirm()))
    parts = [
        f"{line(parked.agent)} wants to call {line(parked.tool)}. Rule {line(rules)} permits it only with your yes. "
        "The arguments:",
        shown(parked.arguments),
    ]
    if parked.preview is not None:
        parts += ["What it would change:", text(parked.preview.text)]
    if not parked.confirms:
        parts.append("It needs the yes of others too.")
    return "\n\n".join([*parts, "A yes holds for this one call, as it stands here."])


def _about(params: Mapping[str, Json], principal: Principal) -> About:
    arguments = params.get("arguments")
    return About(principal.key, "tools/call", params.get("name"), {} if arguments is None else arguments)
