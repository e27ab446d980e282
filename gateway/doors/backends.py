"""The route `GET /v1/backends`: which backends have failed, and which are left alone for a while.

It shows operators those of their own tenant, and changes nothing.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from gateway.model import Principal
from gateway.pipeline import Gate
from gateway.problems import refuse
from gateway.reliability.breaker import Standing
from gateway.tool import Json


def add_backends(app: FastAPI, gate: Gate, known: Callable[[Request], Any]) -> None:
    """Adds the route. `known` gives who asks."""

    @app.get("/v1/backends")
    async def backends(principal: Annotated[Principal, Depends(known)]) -> JSONResponse:
        """The backends that have failed for this tenant since the gateway began, and how they stand."""
        if "operator" not in principal.scopes:
            raise refuse("insufficient_scope", "Backends are shown to a key with the scope operator.")
        found = gate.resilience.breakers.standings(principal.tenant) if gate.resilience is not None else ()
        return JSONResponse({"backends": [_shown(standing) for standing in found]})


def _shown(standing: Standing) -> dict[str, Json]:
    """Times in unix seconds."""
    return {
        "name": standing.place.name,
        "state": standing.state,
        "since": standing.since,
        "failures": standing.failures,
        "next_probe": standing.next_probe,
    }
