"""The REST routes beside the call path: tools, call status, health and the OpenAPI page; others are added (FastAPI).

It never calls a tool, and shows a caller nothing but its own things.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from gateway.accounts import Connecting
from gateway.doors import render
from gateway.doors.approvals import ANSWERERS, add_approvals, of_own_call
from gateway.doors.approvals import described as described_approvals
from gateway.doors.artifacts import add_artifacts
from gateway.doors.asgi import problem_headers, read_head
from gateway.doors.backends import add_backends
from gateway.doors.bodies import misfit
from gateway.doors.budgets import add_budgets
from gateway.doors.connect import add_connections, add_pages
from gateway.doors.explaining import add_explaining, described
from gateway.doors.openapi import document
from gateway.doors.past import READERS, add_past
from gateway.doors.past import described as described_past
from gateway.doors.records import add_records
from gateway.doors.resource import Resource, add_resource
from gateway.doors.sessions import add_sessions
from gateway.ledger_ports import Upkeep
from gateway.model import Principal, Problem, Refusal
from gateway.pipeline import Gate
from gateway.problems import TABLE, problem, refuse
from gateway.tool import Json, Tool
from gateway.wanted import Past

_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


def admin_app(
    gate: Gate,
    ready: Callable[[], Mapping[str, Json]],
    upkeep: Upkeep | None = None,
    past: Past | None = None,
    resource: Resource | None = None,
    connecting: Connecting | None = None,
) -> FastAPI:
    """The FastAPI application. `ready` says what is ready, each under its name, for `/readyz`.

    Without `upkeep` and `past`, which a ledger in memory does not have, there are no routes under `/v1/audit`; without
    `connecting` none for accounts.
    """
    app = FastAPI(title="Toolgate", openapi_url=None, docs_url=None, redoc_url=None)
    _errors(app)
    _health(app, ready)
    _tools(app, gate)
    add_sessions(app, gate, _known(gate))
    add_budgets(app, gate, _known(gate))
    add_artifacts(app, gate)
    add_backends(app, gate, _known(gate))
    add_approvals(app, gate, _known(gate))
    add_explaining(app, gate, _known(gate))
    if resource is not None:
        add_resource(app, resource)
    if connecting is not None:
        add_connections(app, connecting, _known(gate))
        add_pages(app, connecting)
    if upkeep is not None:
        add_records(app, upkeep, _known(gate))
    if past is not None:
        add_past(app, gate, past, _known(gate))
    return app


def _known(gate: Gate) -> Callable[[Request], Any]:
    async def known(request: Request) -> Principal:
        return await gate.authority.identify(read_head(request.scope).credential)

    return known


def _health(app: FastAPI, ready: Callable[[], Mapping[str, Json]]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Calls can be served: 200 when they can be put on record, else 503, with each part by name.

        A policy that was rejected is said and no more: the last good one serves.
        """
        parts = ready()
        return JSONResponse(dict(parts), 200 if parts["audit"] == "ok" else 503)


def _tools(app: FastAPI, gate: Gate) -> None:
    known = _known(gate)

    @app.get("/v1/tools")
    async def tools(
        principal: Annotated[Principal, Depends(known)], request: Request, format: str = "plain"
    ) -> Response:
        """The tools this caller may see."""
        if format != "plain":
            raise refuse("malformed", "Only format=plain is supported yet.")
        listing = gate.listing(principal)
        etag = f'"{gate.bundles.current().digest[-16:]}-{len(listing)}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag})
        body = {"tools": [_plain(tool) for tool in listing], "next_cursor": None}
        return JSONResponse(body, headers={"etag": etag, "cache-control": "private, no-cache"})

    @app.get("/v1/openapi.json")
    async def openapi(principal: Annotated[Principal, Depends(known)]) -> JSONResponse:
        """OpenAPI 3.1 with one typed path for each tool this caller may see, and what else its scope may ask."""
        paths, schemas = described() if "operator" in principal.scopes else ({}, {})
        reads = {} if READERS.isdisjoint(principal.scopes) else described_past()
        answers = {} if ANSWERERS.isdisjoint(principal.scopes) else described_approvals()
        return JSONResponse(document(gate.listing(principal), {**paths, **reads, **answers}, schemas))

    @app.get("/v1/calls/{call_id}")
    async def call(call_id: str, principal: Annotated[Principal, Depends(known)]) -> JSONResponse:
        """The outcome of a call of one's own."""
        outcome = await gate.outcomes.find(principal.key, call_id)
        if outcome is None:
            raise refuse("not_found", "There is no such call, or it was not yours, or it is no longer kept.")
        return JSONResponse({**render.outcome_json(outcome), **await of_own_call(outcome, principal, gate)})


def _plain(tool: Tool) -> dict[str, Json]:
    return {
        "name": tool.name,
        "version": tool.version,
        "digest": tool.digest,
        "title": tool.title,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
        "effects": sorted(tool.effects),
    }


def _errors(app: FastAPI) -> None:
    def answer(said: Problem) -> JSONResponse:
        headers = {name.decode(): value.decode() for name, value in problem_headers(said, None)}
        body = render.problem_json(said)
        return JSONResponse(body, TABLE[said.code].status, headers, "application/problem+json")

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Exception) -> JSONResponse:
        return answer(refusal.problem if isinstance(refusal, Refusal) else problem("internal", ""))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        code = _STATUS_CODES.get(status, "malformed")
        return answer(problem(code, "There is nothing at this path by this method."))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> JSONResponse:
        return answer(problem("malformed", misfit(error.errors() if isinstance(error, RequestValidationError) else [])))
