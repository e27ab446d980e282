"""The gateway as an OAuth 2.0 protected resource: where clients learn who issues tokens for it (RFC 9728), and the
challenge in answers to who has none that will do (RFC 6750, 3).

It checks no token, and says nothing of whether one that was sent is known.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from gateway.doors.asgi import Scope, Send
from gateway.tool import Json

WELL_KNOWN = "/.well-known/oauth-protected-resource"
_CHALLENGE = b"www-authenticate"


@dataclass(frozen=True, slots=True)
class Resource:
    """What is told of this gateway. `name` is what tokens for it say in `aud`; metadata needs one that is a URL.

    `servers` are authorization servers, by their issuer; `scopes` those that tokens may need.
    """

    name: str
    servers: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    @property
    def place(self) -> str | None:
        """URL of the metadata: the well-known part stands between the resource's host and its path."""
        scheme, _, rest = self.name.partition("://")
        if scheme not in ("http", "https") or not rest:
            return None
        host, _, path = rest.partition("/")
        return f"{scheme}://{host}{WELL_KNOWN}{'/' + path if path else ''}"

    def metadata(self) -> dict[str, Json]:
        """The document at `place`."""
        said: dict[str, Json] = {"resource": self.name, "resource_name": "Toolgate"}
        said |= {"authorization_servers": list(self.servers)} if self.servers else {}
        said |= {"scopes_supported": list(self.scopes)} if self.scopes else {}
        return said | {"bearer_methods_supported": ["header"]}

    def challenging(self, scope: Scope, send: Send) -> Send:
        """`send`, with challenges in answers that a better token could change."""

        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] in (401, 403):
                tried = any(name == b"authorization" for name, _ in scope["headers"])
                more = self._more(message["status"], tried)
                named = message["headers"]
                headers = [(name, value + more if name == _CHALLENGE else value) for name, value in named]
                message = {**message, "headers": headers}
            await send(message)

        return told

    def _more(self, status: int, tried: bool) -> bytes:
        """What a challenge says besides its scheme. A 403 names the scopes it needs itself."""
        parts = {"error": "invalid_token"} if status == 401 and tried else {}
        if status == 401 and self.scopes:
            parts["scope"] = " ".join(self.scopes)
        if self.place is not None:
            parts["resource_metadata"] = self.place
        return "".join(f', {name}="{value}"' for name, value in parts.items()).encode()


def add_resource(app: FastAPI, resource: Resource) -> None:
    """Adds the metadata: at its own place, and where clients look that know this server by another URL."""
    place = resource.place
    if place is None:
        return
    own = WELL_KNOWN + place.partition(WELL_KNOWN)[2]
    for path in dict.fromkeys((WELL_KNOWN, f"{WELL_KNOWN}/mcp", own)):

        @app.get(path)
        async def metadata() -> JSONResponse:
            """Who issues tokens for this server: for everybody, as a client asks before it has one."""
            return JSONResponse(resource.metadata(), headers={"cache-control": "max-age=300"})
