"""The routes under `/v1/sessions`: opening, looking at, extending and closing sessions.

A caller is shown its own, an operator those of its tenant; of any other it is said that there is none, in the same
words as of one that never was. What a person asked for is shown to the session's own caller alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.doors.bodies import read_shape
from gateway.doors.budgets import standing_of
from gateway.doors.limits import MOST_TOKENS
from gateway.doors.paging import Place, cursor_of, place_of
from gateway.lifetimes import SPEAKER, Opening
from gateway.model import SESSION_TTL, Principal, Session
from gateway.pipeline import Gate
from gateway.problems import refuse
from gateway.reliability.budgets import in_words, of_settings, session_key
from gateway.tool import Json

_MAX_BODY = 64 * 1024  # bytes
_NO_SESSION = "There is no session of that id."
Words = Annotated[str, Field(min_length=1, max_length=16_000)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewSession(_Closed):
    """The body of `POST /v1/sessions`."""

    labels: list[Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")]] = Field(default=[], max_length=32)
    budget: dict[str, float] = Field(default={}, max_length=16)
    ttl: float = Field(default=SESSION_TTL, ge=1, le=30 * 24 * 3600, description="Seconds the session lives.")
    request: Words | None = None
    parent: Name | None = None


class Turn(_Closed):
    """The body of `POST /v1/sessions/{id}/request`."""

    request: Words


class Used(_Closed):
    """The body of `POST /v1/sessions/{id}/usage`."""

    tokens: int = Field(ge=1, le=MOST_TOKENS)


class Which(BaseModel):
    """Whose session of that id is meant, for an operator; the caller's own when nothing is said."""

    model_config = ConfigDict(extra="forbid")

    agent: Name | None = None
    user: Name | None = None


class Listed(Which):
    """The query of `GET /v1/sessions`."""

    state: Literal["open", "closed", "expired"] | None = None
    label: Name | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: Name | None = None


def add_sessions(app: FastAPI, gate: Gate, known: Callable[[Request], Any]) -> None:
    """Adds the routes. `known` gives who asks."""
    _reading(app, gate, known)

    async def writer(principal: Annotated[Principal, Depends(known)]) -> Principal:
        if principal.scopes == {"auditor"}:
            raise refuse("insufficient_scope", "A key with the scope auditor reads, and changes nothing.")
        return principal

    @app.post("/v1/sessions", status_code=201)
    async def open_session(principal: Annotated[Principal, Depends(writer)], request: Request) -> JSONResponse:
        """Opens a session, bound to this caller."""
        body = await read_shape(request, NewSession, _MAX_BODY)
        asked = Opening(frozenset(body.labels), body.budget, body.ttl, body.request, body.parent)
        return JSONResponse(await _shown(await gate.open_session(principal, asked), principal, gate), 201)

    @app.post("/v1/sessions/{session_id}/usage")
    async def report_usage(
        session_id: str, principal: Annotated[Principal, Depends(writer)], request: Request
    ) -> JSONResponse:
        """What a client used of its model, which nobody else can know: counts in budgets of tokens."""
        body = await read_shape(request, Used, _MAX_BODY)
        session = await _find(session_id, principal, Which(), gate)
        if session.owner != principal.key:
            raise refuse("not_found", _NO_SESSION)
        await gate.report_tokens(principal, session, body.tokens)
        return JSONResponse(await _shown(session, principal, gate))

    @app.delete("/v1/sessions/{session_id}")
    async def close_session(
        session_id: str, principal: Annotated[Principal, Depends(writer)], which: Annotated[Which, Query()]
    ) -> JSONResponse:
        """Closes a session and those below it: calls in them are refused from now on, and what it did is signed."""
        session = await _find(session_id, principal, which, gate)
        closed = await gate.end_session(session, None if session.owner == principal.key else _who(principal))
        return JSONResponse(await _shown(closed, principal, gate))

    @app.post("/v1/sessions/{session_id}/request")
    async def add_request(
        session_id: str, principal: Annotated[Principal, Depends(writer)], request: Request
    ) -> JSONResponse:
        """One more turn of what the person asked for, in a session of one's own."""
        if SPEAKER not in principal.scopes:
            raise refuse("insufficient_scope", f"Saying what the person asked for needs the scope {SPEAKER}.")
        body = await read_shape(request, Turn, _MAX_BODY)
        session = await _find(session_id, principal, Which(), gate)
        if session.owner != principal.key:
            raise refuse("not_found", _NO_SESSION)
        return JSONResponse(await _shown(await gate.add_request(principal, session, body.request), principal, gate))


def _reading(app: FastAPI, gate: Gate, known: Callable[[Request], Any]) -> None:
    @app.get("/v1/sessions")
    async def list_sessions(
        principal: Annotated[Principal, Depends(known)], asked: Annotated[Listed, Query()]
    ) -> JSONResponse:
        """Sessions of one's own, or of the operator's tenant, oldest first, in pages."""
        begin = place_of(asked.cursor)
        found = sorted((session for session in _fitting(principal, asked, gate) if _at(session) > begin), key=_at)
        page = found[: asked.limit]
        more = cursor_of(_at(page[-1])) if len(found) > len(page) else None
        return JSONResponse({"sessions": [await _shown(each, principal, gate) for each in page], "next_cursor": more})

    @app.get("/v1/sessions/{session_id}")
    async def show_session(
        session_id: str, principal: Annotated[Principal, Depends(known)], which: Annotated[Which, Query()]
    ) -> JSONResponse:
        """A session of one's own, or of the operator's tenant."""
        return JSONResponse(await _shown(await _find(session_id, principal, which, gate), principal, gate))


async def _find(session_id: str, principal: Principal, which: Which, gate: Gate) -> Session:
    """The session that is meant, if it is one the caller may see. Raises `Refusal(not_found)`."""
    found = await gate.sessions.seek(principal.key, session_id)
    if principal.session not in (None, session_id):
        found = None
    if "operator" in principal.scopes:
        if which.agent is not None:
            found = await gate.sessions.seek(f"{principal.tenant}\x1f{which.agent}\x1f{which.user or ''}", session_id)
        elif found is None:
            found = next(iter(gate.sessions.line(session_id)), None)
    if found is None or found.owner.split("\x1f")[0] != principal.tenant:
        raise refuse("not_found", _NO_SESSION)
    return found


def _fitting(principal: Principal, asked: Listed, gate: Gate) -> Iterable[Session]:
    """Those that the caller may see, and the filter leaves."""
    operator, now = "operator" in principal.scopes, gate.clock.now()
    for session in gate.sessions.all():
        tenant, agent, user = session.owner.split("\x1f")
        mine = session.owner == principal.key and principal.session in (None, session.id)
        if not (mine or (operator and tenant == principal.tenant)):
            continue
        wanted = ((asked.agent, agent), (asked.user, user), (asked.state, _state(session, now)))
        if all(want in (None, has) for want, has in wanted) and (asked.label is None or asked.label in session.labels):
            yield session


def _at(session: Session) -> Place:
    return session.opened_at, session.uid


def _state(session: Session, now: float) -> str:
    return "expired" if session.state == "open" and session.expires_at <= now else session.state


async def _shown(session: Session, principal: Principal, gate: Gate) -> dict[str, Json]:
    tenant, agent, user = session.owner.split("\x1f")
    line, key = gate.sessions.line(session.uid) or (session,), session_key(session)
    above = line[1:2]
    used = in_words((await gate.counters.used([key]))[key]) if session.budget else {}
    spent = {"calls": 0, "cost": 0.0, **used} if session.budget else None
    shown: dict[str, Json] = {
        "id": session.id,
        "uid": session.uid,
        "tenant": tenant,
        "agent": agent,
        "user": user or None,
        "labels": sorted(session.labels),
        "budget": dict(session.budget),
        "used": spent,
        "parent": above[0].id if above else None,
        "opened_at": session.opened_at,
        "expires_at": session.expires_at,
        "state": _state(session, gate.clock.now()),
        "calls": session.calls,
        "cost": session.cost,
    }
    if session.owner == principal.key:
        shown["request"] = list(session.request)
    drawn = of_settings(Principal(agent, tenant, user or None), gate.bounds, gate.clock.steady(), line)
    if found := [each for each in drawn if each.name == "session"]:
        shown["limits"] = await standing_of(found, gate.counters)
    return shown


def _who(principal: Principal) -> Mapping[str, Json]:
    who: dict[str, Json] = {"agent": principal.agent, "user": principal.user, "authn": principal.authn}
    return who | {"token_id": principal.token_id}
