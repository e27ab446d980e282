"""The outermost ASGI application: Host and Origin first, then the route. No middleware, no route of its own."""

from __future__ import annotations

import logging

from gateway.doors.asgi import App, Receive, Scope, Send, read_head, send_json, send_problem
from gateway.doors.resource import Resource
from gateway.doors.rest import CallRoute
from gateway.model import Refusal
from gateway.problems import problem, refuse

log = logging.getLogger("toolgate")
_CALL_PREFIX, _CALL_SUFFIX = "/v1/tools/", "/call"
_HEALTH = frozenset({"/healthz", "/readyz"})
_COME_AGAIN_MS = 1000


class Edge:
    """Sends each request to its door: tool calls and MCP straight, the rest to the admin application.

    `hosts` are the names this server answers to (`host:port` or `host`); a request for another name, or from a page of
    another origin, is refused on every route, so that a web page cannot reach a gateway on loopback (DNS rebinding).
    `resource` is what is told to who comes without a token that will do, where tokens are taken. Of more requests at
    once than `inflight` the rest are refused before anything is done for them: what queues up here only makes all of
    them late. Whether the gateway is up is answered always.
    """

    def __init__(
        self,
        call: CallRoute,
        mcp: App,
        admin: App,
        hosts: frozenset[str],
        resource: Resource | None = None,
        inflight: int = 1024,
    ) -> None:
        self._call, self._mcp, self._admin, self._hosts = call, mcp, admin, hosts
        self._resource, self._inflight, self._underway = resource, inflight, 0
        self._leaving = False

    def leave(self) -> None:
        """The gateway is told to stop: it is not ready any more, and answers what still comes."""
        self._leaving = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._resource is not None:
            send = self._resource.challenging(scope, send)
        self._underway += 1
        try:
            self._check_names(scope)
            await self._route(scope, receive, send)
        except Refusal as refusal:
            await send_problem(send, refusal.problem)
        except Exception:  # the door's edge: a fault of ours becomes a typed answer and a line in the log
            log.exception("a request failed inside the gateway")
            await send_problem(send, problem("internal", "Something failed inside the gateway."))
        finally:
            self._underway -= 1

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in _HEALTH:
            if self._leaving and path == "/readyz":
                await send_json(send, 503, {"serving": "stopping"})
                return
        elif self._underway > self._inflight:
            said = f"The gateway has {self._inflight} requests under way already."
            raise refuse("overloaded", said, retry_after_ms=_COME_AGAIN_MS)
        if path.startswith(_CALL_PREFIX) and path.endswith(_CALL_SUFFIX):
            await self._call(scope, receive, send, path[len(_CALL_PREFIX) : -len(_CALL_SUFFIX)])
        elif path == "/mcp" or path.startswith("/mcp/"):
            await self._mcp(scope, receive, send)
        else:
            await self._admin(scope, receive, send)

    def _check_names(self, scope: Scope) -> None:
        head = read_head(scope)
        host = (head.get("host") or "").lower()
        if host not in self._hosts:
            raise refuse("bad_origin", "This server does not answer to that Host.")
        origin = head.get("origin")
        if origin is not None and origin.lower().partition("://")[2] not in self._hosts:
            raise refuse("bad_origin", "Pages of that Origin may not call this server.")
