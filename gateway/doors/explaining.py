"""`POST /v1/policy:explain`: what policy would say of a call, and why. Nothing runs, nothing is reserved.

The request and the answer are those of an access evaluation of the OpenID AuthZEN Authorization API 1.0; the
explanation is the answer's `context`. It never makes a call, and answers nobody but an operator.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.doors.asgi import MAX_BODY
from gateway.doors.bodies import read_shape
from gateway.doors.openapi import REFUSED
from gateway.model import SESSION_TTL, Principal, Session
from gateway.pipeline import Gate
from gateway.problems import refuse
from gateway.tool import Json

ROUTE = "/v1/policy:explain"
Name = Annotated[str, Field(min_length=1, max_length=128)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9_.:-]{1,64}$")]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Belonging(_Closed):
    """What else the caller is; the tenant is that of the operator's key when left out."""

    tenant: Name | None = None
    user: Name | None = None
    groups: list[Name] = Field(default=[], max_length=1000)


class Subject(_Closed):
    """Who would call: an agent, by name."""

    type: Literal["agent"] = "agent"
    id: Name
    properties: Belonging = Belonging()


class Action(_Closed):
    """What would be done with the tool."""

    name: Literal["call"]


class Called(_Closed):
    """What the tool would be called with."""

    arguments: Any = Field(default_factory=dict)


class Resource(_Closed):
    """Which tool would be called."""

    type: Literal["tool"] = "tool"
    id: Name
    properties: Called = Called()


class InSession(_Closed):
    """The session the call would be made in. What is left out is as the session now is; `age` is in seconds."""

    id: Name = "default"
    labels: list[Label] | None = Field(default=None, max_length=32)
    calls: int | None = Field(default=None, ge=0)
    cost: float | None = Field(default=None, ge=0)
    age: float | None = Field(default=None, ge=0)


class Around(_Closed):
    """The circumstances."""

    session: InSession = InSession()


class Evaluation(_Closed):
    """The body of `POST /v1/policy:explain`."""

    subject: Subject
    action: Action
    resource: Resource
    context: Around = Around()


def described() -> tuple[Mapping[str, Json], Mapping[str, Json]]:
    """The route for the OpenAPI page of an operator: its path, and the schemas that it names."""
    body = Evaluation.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = body.pop("$defs")
    answer = {
        "type": "object",
        "required": ["decision", "context"],
        "properties": {"decision": {"type": "boolean"}, "context": {"type": "object"}},
    }
    operation = {
        "operationId": "policy:explain",
        "summary": "Decide about a call without doing it, and say why",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "It was decided", "content": {"application/json": {"schema": answer}}},
            "default": REFUSED,
        },
    }
    return {ROUTE: {"post": operation}}, schemas


def add_explaining(app: FastAPI, gate: Gate, known: Callable[[Request], Any]) -> None:
    """Adds the route. `known` gives who asks."""

    @app.post(ROUTE)
    async def explain(principal: Annotated[Principal, Depends(known)], request: Request) -> JSONResponse:
        """Decides without doing."""
        if "operator" not in principal.scopes:
            raise refuse("insufficient_scope", "Explaining policy needs a key with the scope operator.")
        asked = await read_shape(request, Evaluation, MAX_BODY)
        caller = _caller(asked.subject, principal)
        session = _session(gate, caller, asked.context.session)
        form = await gate.explain(caller, session, asked.resource.id, asked.resource.properties.arguments)
        return JSONResponse({"decision": form["permitted"], "context": form})


def _caller(subject: Subject, operator: Principal) -> Principal:
    """The supposed caller. An operator sees the rules and the state of one tenant: that of the key."""
    given = subject.properties
    if given.tenant not in (None, operator.tenant):
        raise refuse("insufficient_scope", f"This key is for calls of tenant {operator.tenant} only.")
    return Principal(subject.id, operator.tenant, given.user, frozenset(given.groups), frozenset({"agent"}))


def _session(gate: Gate, caller: Principal, asked: InSession) -> Session:
    """The session as it now is, or a new one under that name; what the request gives stands instead."""
    now = gate.clock.now()
    found = gate.sessions.find(caller.key, asked.id)
    if found is None or found.expires_at <= now:
        found = Session(asked.id, gate.ids.new("u_"), caller.key, now, now + SESSION_TTL)
    return Session(
        found.id,
        found.uid,
        found.owner,
        found.opened_at if asked.age is None else now - asked.age,
        found.expires_at,
        found.labels if asked.labels is None else frozenset(asked.labels),
        found.state,
        found.calls if asked.calls is None else asked.calls,
        found.cost if asked.cost is None else asked.cost,
    )
