"""Messages to and from one upstream MCP server over Streamable HTTP, in both generations of the protocol.

One message out, its one answer back, as JSON or as an event stream. What comes back is untrusted: strict JSON, sizes
capped, ids compared. It never sends a message twice, never forwards anything of the caller's, and answers nothing the
server asks: it declares no capabilities, so a server that asks anyway has failed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.allow import Allow
from gateway.mirrors import wrapped
from gateway.model import Failure, Holder
from gateway.problems import problem, refuse
from gateway.runners.message import MAX_BODY_BYTES, Ask
from gateway.runners.net import Net, Streamed
from gateway.strictjson import MalformedJson, TooLarge, canonical, loads
from gateway.tool import Json, SecretUse
from gateway.urls import Url

MODERN: Final = "2026-07-28"
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
_TYPES: Final = ("application/json", "text/event-stream")
_CLIENT: Final = {"name": "toolgate", "version": "1"}
_DRAIN_SECONDS = 0.05  # an event stream that ends by itself after its answer leaves a connection to use again

Object = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Speech:
    """What was agreed with a server: the protocol version, and for a legacy server its session, if it gave one."""

    version: str
    session: str | None = None

    @property
    def modern(self) -> bool:
        return self.version == MODERN


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: HTTP status, the JSON-RPC result or error if there was one, and what else was heard.

    `changed` says that the server announced a changed list of tools along the way.
    """

    status: int
    result: Object | None = None
    error: Object | None = None
    session: str | None = None
    changed: bool = False

    @property
    def code(self) -> int | None:
        """The JSON-RPC error code."""
        code = (self.error or {}).get("code")
        return code if isinstance(code, int) else None


class Peer:
    """One server under one set of credentials."""

    def __init__(self, net: Net, url: Url, secrets: Sequence[SecretUse]) -> None:
        self._net = net
        self._url = url
        self._allow = (Allow.fixed("POST", url),)
        self._secrets = tuple(secrets)
        self._ids = itertools.count(1)
        self.holder: Holder | None = None

    @property
    def host(self) -> str:
        return self._url.host

    async def ask(
        self, speech: Speech, method: str, params: Object, deadline: float, mirrored: Mapping[str, str] | None = None
    ) -> Reply:
        """A request and its answer. `mirrored` are the `Mcp-Param-…` headers that go with a modern call.

        Raises what `Net` raises, and Failure (`output_invalid`, `output_too_large`, `upstream_error`) for an answer
        that is none.
        """
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": _with_meta(speech, params)}
        headers = [*_headers(speech, method, params), *(mirrored or {}).items()]
        async with self._net.stream(self._ask(headers, message, deadline)) as answer:
            heard = _Heard(number)
            if answer.content_type == "text/event-stream":
                await _read_events(answer, heard)
            else:
                heard.take(await _whole(answer), strict=answer.status == 200)
            return Reply(answer.status, heard.result, heard.error, answer.headers.get("mcp-session-id"), heard.changed)

    async def is_warm(self) -> bool:
        """Is the connection still open over which the server was last heard?"""
        return await self._net.is_warm(self._ask([], {}, 0.0))

    async def tell(self, speech: Speech, method: str, deadline: float) -> None:
        """A notification. Whatever the server answers is not looked at."""
        message = {"jsonrpc": "2.0", "method": method}
        async with self._net.stream(self._ask(_headers(speech, method, {}), message, deadline)) as answer:
            await _whole(answer)

    def _ask(self, headers: Sequence[tuple[str, str]], message: Json, deadline: float) -> Ask:
        return Ask(
            method="POST",
            url=self._url,
            allow=self._allow,
            deadline=deadline,
            headers=headers,
            body=canonical(message),
            secrets=self._secrets,
            content_types=_TYPES,
            holder=self.holder,
        )


def _with_meta(speech: Speech, params: Object) -> Object:
    if not speech.modern:
        return params
    meta = {
        "io.modelcontextprotocol/protocolVersion": speech.version,
        "io.modelcontextprotocol/clientInfo": _CLIENT,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {**params, "_meta": {**(_object(params.get("_meta")) or {}), **meta}}


def _headers(speech: Speech, method: str, params: Object) -> list[tuple[str, str]]:
    headers = [("content-type", "application/json"), ("accept", ", ".join(_TYPES))]
    if method != "initialize":
        headers.append(("mcp-protocol-version", speech.version))
    if speech.session is not None:
        headers.append(("mcp-session-id", speech.session))
    if speech.modern:
        headers.append(("mcp-method", method))
        if method == "tools/call":
            headers.append(("mcp-name", wrapped(str(params["name"]))))
    return headers


class _Heard:
    """The messages of one answer, until the one that answers the request."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.result: Object | None = None
        self.error: Object | None = None
        self.changed = False

    @property
    def answered(self) -> bool:
        return self.result is not None or self.error is not None

    def take(self, raw: bytes, *, strict: bool = True) -> None:
        """One message. An HTTP error need not carry one: then it is looked at only if it is one (`strict` off)."""
        try:
            message = loads(raw, max_bytes=MAX_BODY_BYTES)
        except (MalformedJson, TooLarge):
            message = None
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            if strict:
                raise Failure(problem("output_invalid", "The MCP server's answer is not a JSON-RPC message."))
            return
        if "method" in message:
            self._listen(message)
        elif message.get("id") == self._number or (message.get("id") is None and "error" in message):
            self.result, self.error = _object(message.get("result")), _object(message.get("error"))
            if not self.answered:
                raise Failure(problem("output_invalid", "The MCP server's answer has neither a result nor an error."))
        elif strict:
            raise Failure(problem("output_invalid", "The MCP server answered another request than it was asked."))

    def _listen(self, message: Object) -> None:
        if "id" in message:
            raise Failure(problem("upstream_error", "The MCP server asked for something that is not supported."))
        self.changed |= message.get("method") == "notifications/tools/list_changed"


def _object(value: Json) -> Object | None:
    return value if isinstance(value, dict) else None


async def _whole(answer: Streamed) -> bytes:
    return b"".join([chunk async for chunk in answer.chunks()])


async def _read_events(answer: Streamed, heard: _Heard) -> None:
    chunks = answer.chunks()
    async for event in events(chunks):
        heard.take(event)
        if heard.answered:
            break
    else:
        raise Failure(problem("upstream_error", "The MCP server's stream ended without an answer."))
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass
    except (TimeoutError, Failure):
        return  # the answer is here; only the connection is lost


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The payloads of an event stream (WHATWG server-sent events): the `data` of each event, empty ones left out."""
    held, said = list[bytes](), list[bytes]()
    async for chunk in chunks:
        if b"\n" not in chunk:
            held.append(chunk)
            continue
        *lines, rest = b"".join((*held, chunk)).split(b"\n")
        held = [rest]
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                said.append(line[5:].removeprefix(b" "))
            elif not line and any(said):
                yield b"\n".join(said)
            if not line:
                said = []


async def greet(peer: Peer, deadline: float) -> Speech:
    """Finds out which generation a server speaks: `server/discover` first, else `initialize`.

    Raises `Refusal(upstream_unreachable)` when no version is shared; what `Peer.ask` raises otherwise.
    """
    reply = await peer.ask(Speech(MODERN), "server/discover", {}, deadline)
    _admitted(reply)
    if reply.result is not None and MODERN in _texts(reply.result.get("supportedVersions")):
        return Speech(MODERN)
    return await _initialize(peer, deadline)


async def _initialize(peer: Peer, deadline: float) -> Speech:
    params: Object = {"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": _CLIENT}
    reply = await peer.ask(Speech(LEGACY[0]), "initialize", params, deadline)
    _admitted(reply)
    version = (reply.result or {}).get("protocolVersion")
    if version not in LEGACY:
        raise refuse("upstream_unreachable", "The MCP server speaks no version of the protocol that is spoken here.")
    speech = Speech(str(version), reply.session)
    await peer.tell(speech, "notifications/initialized", deadline)
    return speech


def _admitted(reply: Reply) -> None:
    if reply.status in (401, 403):
        raise refuse("upstream_unreachable", "The MCP server does not accept the gateway's credential.")
    if reply.status >= 500:
        raise refuse("upstream_unreachable", "The MCP server is not able to serve now.")


def _texts(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
