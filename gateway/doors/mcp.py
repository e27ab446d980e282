"""The MCP door: `POST /mcp`, two generations of the protocol on one URL. Raw ASGI.

A request that carries its protocol version in `_meta` is modern (2026-07-28: stateless, no handshake); everything else
is legacy (2025-11-25 and earlier, served statelessly: `initialize` is answered, no session id is given out). HTTP
errors are for transport and authentication only: a refused call is HTTP 200 with `isError`, because anything else ends
an agent's run before its model has read why. It never opens a stream, and decides nothing; what it asks a client's
person stands in `mcp_asking.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from gateway.doors import mcp_shapes as shapes
from gateway.doors import render
from gateway.doors.asgi import (
    Head,
    Headers,
    Receive,
    Scope,
    Send,
    parse_traceparent,
    read_body,
    read_head,
    require_json,
    send_bytes,
    send_json,
    send_problem,
    while_connected,
)
from gateway.doors.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Message, RpcError, answer, encode, read
from gateway.doors.limits import TOKENS, Reports, limit_headers, tokens_told
from gateway.doors.mcp_asking import STATE, Answers, Asking, elicits
from gateway.doors.mcp_headers import LEGACY, MODERN, check_envelope, check_mirrors, is_modern
from gateway.mirrors import Mirror, mirrors
from gateway.model import Caller, Outcome, Principal, Problem, Refusal, Request, Trace
from gateway.ports import Catalogue
from gateway.problems import TABLE, problem, refuse, text
from gateway.tool import Json, Tool

IDEMPOTENCY_KEY: Final = "dev.toolgate/idempotency-key"
PAGE: Final = 500  # tools in one answer: several agent frameworks read only the first page
TTL_MS: Final = 30_000
_MAX_NAME = 128
_INSTRUCTIONS = (
    "Every tool call is checked against a policy and recorded. A refused call has isError set and its text says "
    "what to change, or how long to wait."
)


Shape = shapes.Shape


class Calls(Answers, Reports, Protocol):
    """What this door needs of the pipeline."""

    async def authenticate(self, credential: str | None, session: str | None) -> Caller: ...
    async def handle(self, request: Request) -> Outcome: ...
    def listing(self, principal: Principal) -> Sequence[Tool]: ...
    def new_call_id(self) -> str: ...
    @property
    def catalogue(self) -> Catalogue: ...


class McpDoor:
    """The door as an ASGI application. `version` is what it says of itself, `page` how many tools one answer lists.

    `secret` signs what clients carry from a question to its answer; without one, that holds as long as this door does.
    """

    def __init__(self, gate: Calls, version: str, page: int = PAGE, secret: bytes | None = None) -> None:
        self._gate = gate
        self._asking = Asking(gate, os.urandom(32) if secret is None else secret)
        self._page = page
        self._server: dict[str, Json] = {"name": "toolgate", "title": "Toolgate", "version": version}
        self._shown: dict[str, orjson.Fragment] = {}
        self._mirrors: dict[str, tuple[Mirror, ...]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            head = read_head(scope)
            caller = await self._caller(head)
            if scope["path"].rstrip("/") != "/mcp":
                raise refuse("not_found", "The MCP endpoint is /mcp.")
            if scope["method"] != "POST":
                await _refuse_method(send)
                return
            require_json(head)
            message = read(await read_body(head, receive))
            if message.notification:
                await send_bytes(send, 202, b"")
                return
            headers: Headers = []
            body = await self._answer(message, head, caller, receive, headers)
            if body is not None:
                await send_bytes(send, 200, body, headers)
        except RpcError as error:
            await send_bytes(send, error.status, error.body())
        except Refusal as refusal:
            await send_problem(send, refusal.problem)

    async def _caller(self, head: Head) -> Caller | Problem:
        """Who calls. A closed session is for the pipeline to refuse, as any call: readable, and on record."""
        try:
            return await self._gate.authenticate(head.credential, head.get("toolgate-session"))
        except Refusal as refusal:
            if refusal.problem.code in ("unauthenticated", "insufficient_scope"):
                raise
            return refusal.problem

    async def _answer(
        self, message: Message, head: Head, caller: Caller | Problem, receive: Receive, headers: Headers
    ) -> bytes | None:
        """The answer's body, with what is to stand in its `headers` added to them; None when nobody waits for it."""
        modern = is_modern(message, head.values)
        if modern:
            check_envelope(message, head.values)
        if message.method == "tools/call":
            called = await self._call(message, head, caller, modern, receive, headers)
            if called is None:
                return None
            result = called
        elif isinstance(caller, Problem):
            raise Refusal(caller)
        else:
            result = self._about(message, caller.principal, modern)
        return answer(message.id, self._signed(result) if modern else result)

    def _signed(self, result: Shape) -> Shape:
        """The two things every modern result says: that it is complete, and who answers."""
        meta = {**shapes.as_object(result.get("_meta")), "io.modelcontextprotocol/serverInfo": self._server}
        return {"resultType": "complete", **result, "_meta": meta}

    def _about(self, message: Message, caller: Principal, modern: bool) -> Shape:
        if message.method == "tools/list":
            return self._list(message, caller, modern)
        if modern and message.method == "server/discover":
            versions = [*MODERN, *LEGACY]
            return {"supportedVersions": versions, **self._self_description(), "ttlMs": TTL_MS, "cacheScope": "private"}
        if not modern and message.method == "initialize":
            asked = message.params.get("protocolVersion")
            version = asked if asked in LEGACY else LEGACY[0]
            return {"protocolVersion": version, "serverInfo": self._server, **self._self_description()}
        if not modern and message.method == "ping":
            return {}
        raise RpcError(404 if modern else 200, METHOD_NOT_FOUND, "Method not found.", request=message.id)

    def _self_description(self) -> Shape:
        return {"capabilities": {"tools": {}}, "instructions": _INSTRUCTIONS}

    def _list(self, message: Message, caller: Principal, modern: bool) -> Shape:
        cursor = message.params.get("cursor")
        after = "" if cursor is None else shapes.from_cursor(cursor)
        if after is None:
            raise RpcError(400 if modern else 200, INVALID_PARAMS, "The cursor is not one of ours.", request=message.id)
        tools, more = shapes.page(self._gate.listing(caller), after, self._page)
        shown: Shape = {"tools": [self._definition(tool) for tool in tools]}
        if more is not None:
            shown["nextCursor"] = shapes.to_cursor(more)
        return {**shown, "ttlMs": TTL_MS, "cacheScope": "private"} if modern else shown

    def _definition(self, tool: Tool) -> orjson.Fragment:
        """A tool's definition as bytes: a tool is immutable, so it is written once for all listings."""
        if tool.digest not in self._shown:
            self._shown[tool.digest] = orjson.Fragment(encode(shapes.definition(tool)))
        return self._shown[tool.digest]

    async def _call(
        self, message: Message, head: Head, caller: Caller | Problem, modern: bool, receive: Receive, headers: Headers
    ) -> Shape | None:
        """The call's result; `None` when the client went away, which cancels the work."""
        params = message.params
        name = params.get("name")
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            said = f"name must be a tool's name, of at most {_MAX_NAME} characters."
            raise RpcError(400 if modern else 200, INVALID_PARAMS, said, request=message.id)
        if modern:
            self._check_mirrors(message, head, name, caller)
        done = await while_connected(self._done(message, head, caller, modern), receive)
        if done is None:
            return None
        outcome, question = done
        headers += limit_headers(outcome)
        if question is not None:
            return question
        trace = _trace(message, head)
        trace_id = trace.trace_id if trace else None
        if modern and outcome.problem is not None and _of_protocol(outcome.problem, params):
            more: Json = {"dev.toolgate/problem": render.members(outcome.problem, outcome.call_id, trace_id)}
            raise RpcError(200, INVALID_PARAMS, text(outcome.problem), request=message.id, more=more)
        return shapes.result(outcome, trace_id, modern=modern)

    async def _done(
        self, message: Message, head: Head, caller: Caller | Problem, modern: bool
    ) -> tuple[Outcome, Shape | None]:
        """The outcome, and what its client's person is asked before there can be another one."""
        params = message.params
        asks = caller.principal if modern and isinstance(caller, Caller) else None
        arguments, meta = params.get("arguments"), shapes.as_object(params.get("_meta"))
        key, twofold = _key(head.get("idempotency-key"), _text(meta.get(IDEMPOTENCY_KEY)))
        defect = twofold or await tokens_told(self._gate, caller, meta.get(TOKENS))
        if defect is None and asks is not None:
            defect = await self._asking.heard(params, asks)
        request = Request(
            call_id=self._gate.new_call_id(),
            tool=str(params["name"]),
            arguments={} if arguments is None else arguments,
            credential=head.credential,
            session=head.get("toolgate-session"),
            idempotency_key=key,
            trace=_trace(message, head),
            defect=defect,
            elicits=modern and elicits(params),
        )
        outcome = await self._gate.handle(request)
        return outcome, await self._asking.question(params, asks, outcome) if asks else None

    def _check_mirrors(self, message: Message, head: Head, name: str, caller: Caller | Problem) -> None:
        """Before the pipeline, as the specification wants: what a proxy routed by must be what is executed.

        A tool the caller may not see is left to the pipeline, to which it does not exist.
        """
        tool = self._gate.catalogue.find(name)
        if tool is None:
            return
        if tool.digest not in self._mirrors:
            self._mirrors[tool.digest] = mirrors(tool.input_schema)
        try:
            check_mirrors(message, head.values, self._mirrors[tool.digest])
        except RpcError:
            if isinstance(caller, Caller) and tool in self._gate.listing(caller.principal):
                raise


async def _refuse_method(send: Send) -> None:
    refused = problem("method_not_allowed", "MCP is spoken with POST here; there is no stream to open and no session.")
    media = b"application/problem+json"
    body = render.problem_json(refused)
    await send_json(send, TABLE[refused.code].status, body, [(b"allow", b"POST")], media)


def _of_protocol(problem: Problem, params: Shape) -> bool:
    """Whether 2026-07-28 wants an error for it: for a tool that is not there, and for a state that is not ours."""
    return problem.code == "unknown_tool" or (problem.code == "malformed" and params.get(STATE) is not None)


def _trace(message: Message, head: Head) -> Trace | None:
    meta = shapes.as_object(message.params.get("_meta"))
    return parse_traceparent(meta.get("traceparent")) or head.trace


def _key(header: str | None, meta: str | None) -> tuple[str | None, Problem | None]:
    """The idempotency key, and what is wrong where two are given: nobody knows then which call it is. An empty header
    is no key, and is not taken for none."""
    if header is not None and meta is not None and header != meta:
        return header, problem("malformed", "Idempotency-Key and the key in _meta are not the same.")
    return (meta if header is None else header), None


def _text(value: Json) -> str | None:
    return value if value is None or isinstance(value, str) else encode(value).decode()
