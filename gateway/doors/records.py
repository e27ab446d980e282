"""`POST /v1/audit:resolve`, `:erase` and `:rotate-key`: what an operator does about the ledger's past, and its key.

It answers nobody but an operator, about the key's tenant only, and never reads a record itself. The signing key is that
of all tenants: only an operator of the first one, `default`, replaces it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.doors.bodies import read_shape
from gateway.ledger_ports import Moved, Upkeep, Whose
from gateway.model import Position, Principal
from gateway.problems import refuse
from gateway.tool import Json

_MAX_BODY, _MAX_ARCHIVED = 16 * 1024, 256 * 1024  # bytes
_WHOLE = "default"  # the tenant whose operators answer for the whole gateway
Name = Annotated[str, Field(min_length=1, max_length=128)]
Why = Annotated[str, Field(min_length=1, max_length=1000)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Resolution(_Closed):
    """The body of `POST /v1/audit:resolve`."""

    call_id: Name
    as_: Literal["done", "not-done"] = Field(alias="as")
    why: Why


class Erasure(_Closed):
    """The body of `POST /v1/audit:erase`: at least one of the first four."""

    session: Name | None = None
    tenant: Name | None = None
    agent: Name | None = None
    user: Name | None = None
    why: Why


class Rotation(_Closed):
    """The body of `POST /v1/audit:rotate-key`."""

    why: Why


class Archived(_Closed):
    """The body of `POST /v1/audit:archived`: `first` to `last` of a shard, the SHA-256 of each segment, by its name."""

    shard: Name
    first: int = Field(ge=0)
    last: int = Field(ge=0)
    sha256: dict[Name, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(min_length=1, max_length=1000)
    to: Annotated[str, Field(min_length=1, max_length=4096)]


def add_records(app: FastAPI, upkeep: Upkeep, known: Callable[[Request], Any]) -> None:
    """Adds the routes. `known` gives who asks."""

    @app.post("/v1/audit:resolve")
    async def resolve(principal: Annotated[Principal, Depends(known)], request: Request) -> JSONResponse:
        """Says how a call in doubt ended."""
        who = _operator(principal)
        asked = await read_shape(request, Resolution, _MAX_BODY)
        place = await upkeep.resolve(asked.call_id, asked.as_, asked.why, who, principal.tenant)
        return JSONResponse({"call_id": asked.call_id, "as": asked.as_, "record": _place(place)})

    @app.post("/v1/audit:erase")
    async def erase(principal: Annotated[Principal, Depends(known)], request: Request) -> JSONResponse:
        """Deletes what was said in sessions, for good."""
        who = _operator(principal)
        asked = await read_shape(request, Erasure, _MAX_BODY)
        if asked.tenant not in (None, principal.tenant):
            raise refuse("insufficient_scope", f"This key is for records of tenant {principal.tenant} only.")
        if not (asked.session or asked.tenant or asked.agent or asked.user):
            raise refuse("malformed", "Say whose content is to be erased: a session, an agent, a user or a tenant.")
        done = await upkeep.erase(Whose(asked.session, principal.tenant, asked.agent, asked.user), asked.why, who)
        counts = {"sessions": done.sessions, "keys": done.keys, "blobs": done.blobs}
        return JSONResponse({**counts, "record": _place(done.position)})

    @app.post("/v1/audit:rotate-key")
    async def rotate_key(principal: Annotated[Principal, Depends(known)], request: Request) -> JSONResponse:
        """Puts another signing key in place of the one in use."""
        who = _whole_operator(principal)
        asked = await read_shape(request, Rotation, _MAX_BODY)
        done = await upkeep.rotate_key(asked.why, who)
        return JSONResponse({"old": done.old, "new": done.new, "record": _place(done.position)})

    _add_keeping(app, upkeep, known)


def _add_keeping(app: FastAPI, upkeep: Upkeep, known: Callable[[Request], Any]) -> None:
    """The routes about what is kept for how long."""

    @app.post("/v1/audit:expire")
    async def expire(principal: Annotated[Principal, Depends(known)], request: Request) -> JSONResponse:
        """Erases content that is older than the settings keep it."""
        who = _whole_operator(principal)
        await read_shape(request, _Closed, _MAX_BODY)
        done = await upkeep.expire(who)
        if done is None:
            return JSONResponse({"sessions": 0, "keys": 0, "blobs": 0, "record": None})
        counts = {"sessions": done.sessions, "keys": done.keys, "blobs": done.blobs}
        return JSONResponse({**counts, "record": _place(done.position)})

    @app.post("/v1/audit:archived")
    async def archived(principal: Annotated[Principal, Depends(known)], request: Request) -> JSONResponse:
        """Puts on record that segments were archived."""
        who = _whole_operator(principal)
        asked = await read_shape(request, Archived, _MAX_ARCHIVED)
        moved = Moved(asked.shard, asked.first, asked.last, asked.sha256, asked.to)
        place = await upkeep.archived(moved, who)
        return JSONResponse({"first": asked.first, "last": asked.last, "to": asked.to, "record": _place(place)})


def _whole_operator(principal: Principal) -> Mapping[str, Json]:
    """The same, for what concerns all tenants."""
    who = _operator(principal)
    if principal.tenant != _WHOLE:
        raise refuse("insufficient_scope", f"This needs an operator's key of tenant {_WHOLE}: it concerns all tenants.")
    return who


def _operator(principal: Principal) -> Mapping[str, Json]:
    """Who asks, as it stands on record."""
    if "operator" not in principal.scopes:
        raise refuse("insufficient_scope", "This needs a key with the scope operator.")
    who: dict[str, Json] = {"agent": principal.agent, "user": principal.user, "authn": principal.authn}
    return who | {"token_id": principal.token_id}


def _place(position: Position) -> dict[str, Json]:
    return {"shard": position.shard, "seq": position.seq}
