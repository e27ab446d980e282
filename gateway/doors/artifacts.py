"""`GET /v1/artifacts/{handle}`: the bytes of a file that a call of one's own left, and never as a page to be run."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.artifacts import is_handle, served_as
from gateway.doors.asgi import read_head
from gateway.model import Artifact
from gateway.pipeline import Gate
from gateway.problems import refuse

_NOTHING = "There is no such artifact, or it is not yours, or it is no longer kept."


def add_artifacts(app: FastAPI, gate: Gate) -> None:
    """Adds the route. A path of any form asks for a handle, so that all that are none get the same answer."""

    @app.get("/v1/artifacts/{handle:path}")
    async def artifact(handle: str, request: Request) -> Response:
        """The bytes of an artifact of one's own."""
        principal = await gate.authority.identify(read_head(request.scope).credential)
        if "agent" not in principal.scopes:
            raise refuse("insufficient_scope", "Artifacts are for keys with the scope agent.")
        found = await gate.artifacts.find(principal.key, handle) if is_handle(handle) else None
        if found is None:
            raise refuse("not_found", _NOTHING)
        return Response(await gate.artifacts.read(found), headers=_headers(found))


def _headers(artifact: Artifact) -> dict[str, str]:
    """A download and nothing else, whatever is in it. The name has only letters, digits, and . _ - in it."""
    return {
        "Content-Type": served_as(artifact.media_type),
        "Content-Disposition": f'attachment; filename="{artifact.name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
        "Toolgate-Labels": ",".join(sorted(artifact.labels)),
    }
