"""The routes under `/v1/approvals`: what waits for a person, shown so that eyes can be trusted, and the answer to it.

They are for operators and approvers, each of its own tenant; of any other it is said that there is none. What a caller
sees of its own call stands under `/v1/calls`, and names nobody who may answer.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway import display
from gateway.doors.bodies import read_shape
from gateway.doors.openapi import REFUSED
from gateway.doors.paging import Place, cursor_of, place_of
from gateway.model import Outcome, Principal, Refusal
from gateway.parked import LONGEST_WHY, Parked
from gateway.pipeline import Gate
from gateway.problems import refuse
from gateway.tool import Json

_MAX_BODY = 16 * 1024  # bytes
ANSWERERS = frozenset({"operator", "approver"})
_ROUTE = "/v1/approvals"
_APPROVAL: dict[str, Json] = {
    "type": "object",
    "required": ["id", "state", "tool", "agent", "shown", "arguments_digest", "needs", "yours", "answers"],
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["pending", "granted", "denied", "used", "expired"]},
        "shown": {"type": "string", "description": "The arguments, safe to look at"},
        "preview": {"type": ["string", "null"]},
        "arguments_digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "expires_at": {"type": "number"},
        "yours": {"type": "array", "items": {"type": "string"}},
    },
}


class Said(BaseModel):
    """The body of an answer. `why` is told to the model after a no."""

    model_config = ConfigDict(extra="forbid", strict=True)

    why: str = Field(default="", max_length=LONGEST_WHY)


class Listed(BaseModel):
    """The query of `GET /v1/approvals`."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["pending", "granted", "denied", "used", "expired"] | None = None
    tool: str | None = Field(default=None, max_length=256)
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = Field(default=None, max_length=256)


def described() -> Mapping[str, Json]:
    """The routes for the OpenAPI page of those who may answer."""
    one: Json = {"name": "approval_id", "in": "path", "required": True, "schema": {"type": "string"}}
    fields = Listed.model_json_schema()["properties"]
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    answer: Json = {"required": True, "content": {"application/json": {"schema": Said.model_json_schema()}}}
    page: Json = {
        "type": "object",
        "required": ["approvals", "next_cursor"],
        "properties": {
            "approvals": {"type": "array", "items": _APPROVAL},
            "next_cursor": {"type": ["string", "null"]},
        },
    }
    found: dict[str, Json] = {
        _ROUTE: {"get": _operation("approvals", "Calls that wait for a person", page) | {"parameters": query}},
        f"{_ROUTE}/{{approval_id}}": {"get": _operation("approval", "One of them") | {"parameters": [one]}},
    }
    for name, said in (("approve", "Say yes"), ("deny", "Say no")):
        more: dict[str, Json] = {"parameters": [one], "requestBody": answer}
        found[f"{_ROUTE}/{{approval_id}}/{name}"] = {"post": _operation(f"{name}_call", said) | more}
    return found


def _operation(name: str, summary: str, answer: Json = _APPROVAL) -> dict[str, Json]:
    good: Json = {"description": "As it stands now", "content": {"application/json": {"schema": answer}}}
    return {"operationId": name, "summary": summary, "responses": {"200": good, "default": REFUSED}}


def add_approvals(app: FastAPI, gate: Gate, known: Callable[[Request], Any]) -> None:
    """Adds the routes. `known` gives who asks."""

    async def approver(principal: Annotated[Principal, Depends(known)]) -> Principal:
        if ANSWERERS.isdisjoint(principal.scopes):
            raise refuse("insufficient_scope", "This needs a key with the scope operator or approver.")
        return principal

    @app.get("/v1/approvals")
    async def list_approvals(
        principal: Annotated[Principal, Depends(approver)], asked: Annotated[Listed, Query()]
    ) -> JSONResponse:
        """Calls of the tenant that wait or waited for a person, oldest first, in pages."""
        now, begin = gate.clock.now(), place_of(asked.cursor)
        found = sorted((each for each in await gate.approvals_of(principal) if _at(each) > begin), key=_at)
        fitting = [
            each for each in found if asked.state in (None, each.standing(now)) and asked.tool in (None, each.tool)
        ]
        page = fitting[: asked.limit]
        more = cursor_of(_at(page[-1])) if len(fitting) > len(page) else None
        # In a thread, for callers say how much there is to spell out, and other calls go on meanwhile.
        shown = await asyncio.to_thread(lambda: [_shown(each, principal, gate) for each in page])
        return JSONResponse({"approvals": shown, "next_cursor": more})

    @app.get("/v1/approvals/{approval_id}")
    async def show_approval(approval_id: str, principal: Annotated[Principal, Depends(approver)]) -> JSONResponse:
        """One of the tenant."""
        parked = await gate.approval_of(principal, approval_id)
        return JSONResponse(_shown(parked, principal, gate))

    @app.post("/v1/approvals/{approval_id}/approve")
    async def approve(
        approval_id: str, principal: Annotated[Principal, Depends(approver)], request: Request
    ) -> JSONResponse:
        """A yes to every rule that still needs one and that this person may answer."""
        said = await read_shape(request, Said, _MAX_BODY)
        parked = await gate.answer(principal, approval_id, True, why=said.why)
        return JSONResponse(_shown(parked, principal, gate))

    @app.post("/v1/approvals/{approval_id}/deny")
    async def deny(
        approval_id: str, principal: Annotated[Principal, Depends(approver)], request: Request
    ) -> JSONResponse:
        """A no, which is one for all."""
        said = await read_shape(request, Said, _MAX_BODY)
        parked = await gate.answer(principal, approval_id, False, why=said.why)
        return JSONResponse(_shown(parked, principal, gate))


async def of_own_call(outcome: Outcome, principal: Principal, gate: Gate) -> Mapping[str, Json]:
    """What the caller of a parked call sees of its approval; nothing for any other call."""
    asked = outcome.problem.approval if outcome.problem else None
    if outcome.status != "parked" or asked is None:
        return {}
    try:
        parked = await gate.approval_of(principal, asked)
    except Refusal:  # it is not remembered any more, or cannot be asked for now
        return {"approval": {"id": asked, "state": None, "expires_at": None}}
    state = parked.standing(gate.clock.now())
    return {"approval": {"id": parked.id, "state": state, "expires_at": parked.expires_at}}


def _at(parked: Parked) -> Place:
    return parked.asked_at, parked.id


def _shown(parked: Parked, principal: Principal, gate: Gate) -> dict[str, Json]:
    open_ = {each.rule for each in parked.open_rules()}
    state = parked.standing(gate.clock.now())
    return {
        "id": parked.id,
        "state": state,
        "tool": {"name": parked.tool, "digest": parked.tool_digest},
        "agent": parked.agent,
        "user": parked.user,
        "call_id": parked.call_id,
        "asked_at": parked.asked_at,
        "expires_at": parked.expires_at,
        "shown": display.shown(parked.arguments),
        "arguments_digest": display.digest(parked.arguments),
        "preview": None if parked.preview is None else display.text(parked.preview.text),
        "needs": [{"rule": each.rule, "by": list(each.by), "open": each.rule in open_} for each in parked.needs],
        "yours": gate.answerable(principal, parked) if state == "pending" else [],
        "answers": [
            {
                "yes": each.yes,
                "rules": list(each.rules),
                "person": each.person,
                "via": each.via,
                "at": each.at,
                "why": each.why,
            }
            for each in parked.answers
        ],
        "used_by": parked.used_by,
    }
