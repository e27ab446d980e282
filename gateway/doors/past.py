"""`GET /v1/audit`: records of the key's own tenant, for operators and auditors, in pages.

Content is opened only when it is asked for, and handed out only once the ledger has on record who read what.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.doors.openapi import REFUSED
from gateway.model import Principal
from gateway.pipeline import Gate
from gateway.ports import Line
from gateway.problems import refuse
from gateway.tool import Json
from gateway.units import BadUnit, moment
from gateway.wanted import BadCursor, Past, Wanted

ROUTE = "/v1/audit"
READERS = frozenset({"operator", "auditor"})
_FILTERS = ("call", "session", "agent", "user", "tool", "type", "effect", "status", "code", "rule")
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Asked(BaseModel):
    """The query of `GET /v1/audit`; a parameter that is not one of these is refused, not left out of the filter."""

    model_config = ConfigDict(extra="forbid")

    call: Name | None = None
    session: Name | None = None
    tenant: Name | None = None
    agent: Name | None = None
    user: Name | None = None
    tool: Name | None = None
    type: Name | None = None
    effect: Name | None = None
    status: Name | None = None
    code: Name | None = None
    rule: Name | None = None
    since: Name | None = None
    until: Name | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: Name | None = None
    reverse: bool = False
    content: bool = False


def described() -> Mapping[str, Json]:
    """The route for the OpenAPI page of those who may read."""
    fields = Asked.model_json_schema()["properties"]
    answer = {
        "type": "object",
        "required": ["records", "next_cursor"],
        "properties": {
            "records": {"type": "array", "items": {"type": "object", "required": ["record"]}},
            "next_cursor": {"type": ["string", "null"]},
        },
    }
    operation = {
        "operationId": "audit",
        "summary": "Records of the ledger",
        "parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()],
        "responses": {
            "200": {"description": "A page", "content": {"application/json": {"schema": answer}}},
            "default": REFUSED,
        },
    }
    return {ROUTE: {"get": operation}}


def add_past(app: FastAPI, gate: Gate, past: Past, known: Callable[[Request], Any]) -> None:
    """Adds the route. `known` gives who asks."""

    async def reader(principal: Annotated[Principal, Depends(known)]) -> Principal:
        if READERS.isdisjoint(principal.scopes):
            raise refuse("insufficient_scope", "Reading the ledger needs a key with the scope operator or auditor.")
        return principal

    @app.get(ROUTE)
    async def audit(principal: Annotated[Principal, Depends(reader)], asked: Annotated[Asked, Query()]) -> JSONResponse:
        """A page of records."""
        wanted = _wanted(asked, principal, gate.clock.now())
        try:
            page = await past.page(wanted, asked.limit, asked.cursor, newest_first=asked.reverse, content=asked.content)
        except BadCursor as bad:
            raise refuse("malformed", f"cursor: {bad}.") from None
        if asked.content:
            await gate.ledger.append(_read(principal, wanted, len(page.records)))
        return JSONResponse({"records": page.records, "next_cursor": page.next_cursor})


def _wanted(asked: Asked, reader: Principal, now: float) -> Wanted:
    """The filter, in the reader's tenant: records of another one, or of none, are not there."""
    if asked.tenant not in (None, reader.tenant):
        raise refuse("insufficient_scope", f"This key reads records of tenant {reader.tenant} only.")
    try:
        since, until = (None if said is None else moment(said, now) for said in (asked.since, asked.until))
    except BadUnit as bad:
        raise refuse("malformed", f"since, until: {bad}.") from None
    return Wanted(**asked.model_dump(include=set(_FILTERS)), tenant=reader.tenant, since=since, until=until)


def _read(reader: Principal, wanted: Wanted, count: int) -> Line:
    """The record of a reading: who, which records, how many."""
    who = {"agent": reader.agent, "user": reader.user, "authn": reader.authn, "token_id": reader.token_id}
    chosen = {name: value for name, value in asdict(wanted).items() if value is not None}
    return Line("admin.read", {"tenant": reader.tenant, "principal": who, "filter": chosen, "count": count})
