"""What both doors share of HTTP: the head of a request, its body under a cap, an answer, a caller who goes away.

Raw ASGI, because a framework's middleware costs more than a whole call. It knows no route and no tool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from gateway.doors import render
from gateway.model import Problem, Trace
from gateway.problems import TABLE, refuse
from gateway.tool import Json

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

MAX_BODY = 1024 * 1024  # bytes of one call
BODY_DEADLINE = 15.0  # seconds
_MAX_HEADERS, _MAX_HEADER_BYTES, _MAX_HEADER_LINE = 64, 16 * 1024, 8 * 1024
_ONCE = frozenset({b"authorization", b"content-type", b"content-length", b"host", b"idempotency-key", b"origin"})
_ONCE_PREFIXES = (b"mcp-", b"toolgate-")
_FIXED = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_LINGER = 2.0  # seconds
_READ = "toolgate.head"
_PATIENCE = 0.25  # seconds a call may take before anybody looks whether its caller is still there


@dataclass(frozen=True, slots=True)
class Head:
    """The headers of one request, checked: lower-case names, ASCII values, nothing twice that may stand once."""

    values: dict[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    @property
    def credential(self) -> str | None:
        """The bearer token; empty, which nobody knows, where Authorization says something else."""
        value = self.values.get("authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    @property
    def trace(self) -> Trace | None:
        return parse_traceparent(self.values.get("traceparent"))


def read_head(scope: Scope) -> Head:
    """The head of the request, read once. Raises `Refusal(headers_too_large | malformed)`."""
    known = scope.get(_READ)
    if isinstance(known, Head):
        return known
    raw: list[tuple[bytes, bytes]] = scope["headers"]
    if len(raw) > _MAX_HEADERS:
        raise refuse("headers_too_large", f"More than {_MAX_HEADERS} headers.")
    values: dict[str, str] = {}
    total = 0
    for name, value in raw:
        size = len(name) + len(value)
        total += size
        if size > _MAX_HEADER_LINE or total > _MAX_HEADER_BYTES:
            raise refuse("headers_too_large", f"Headers above {_MAX_HEADER_BYTES} bytes, or one above half of that.")
        key = name.decode("latin-1")
        if key in values and (name in _ONCE or name.startswith(_ONCE_PREFIXES)):
            raise refuse("malformed", f"The header {key} stands more than once.")
        values[key] = value.decode("latin-1")
    head = Head(values)
    scope[_READ] = head
    return head


def parse_traceparent(value: object) -> Trace | None:
    """The trace of a W3C `traceparent`; None for anything malformed, which is ignored as the standard says."""
    if not isinstance(value, str) or len(value) < 55:
        return None
    version, trace_id, span_id, *_ = (*value.split("-"), "", "")
    hexadecimal = frozenset("0123456789abcdef")
    fits = len(version) == 2 and len(trace_id) == 32 and len(span_id) == 16
    if not fits or not hexadecimal.issuperset(version + trace_id + span_id) or version == "ff":
        return None
    return Trace(trace_id, span_id) if trace_id.strip("0") and span_id.strip("0") else None


def require_json(head: Head) -> None:
    """Raises `Refusal(unsupported_media_type)` unless the body is declared as uncompressed JSON in UTF-8."""
    media, _, rest = (head.get("content-type") or "").partition(";")
    charset = rest.strip().lower()
    if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise refuse("unsupported_media_type", "The body must be JSON, declared as application/json.")
    if (head.get("content-encoding") or "identity").lower() != "identity":
        raise refuse("unsupported_media_type", "Compressed request bodies are not accepted.")


async def read_body(head: Head, receive: Receive, limit: int = MAX_BODY) -> bytes:
    """The whole body, counted as it comes. Raises `Refusal(too_large | request_timeout | malformed)`."""
    declared = head.get("content-length")
    if declared is not None and declared.isdecimal() and int(declared[:20]) > limit:
        if head.get("expect") is None:  # else the body waits for us to ask for it
            await _discard(receive)
        raise refuse("too_large", f"The body is larger than {limit} bytes.")
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            return await _gathered(receive, limit)
    except TimeoutError:
        raise refuse("request_timeout", f"The body did not arrive within {BODY_DEADLINE:g} s.") from None


async def _gathered(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refuse("malformed", "The request ended before its body did.")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > limit:
            if more:
                await _discard(receive)
            raise refuse("too_large", f"The body is larger than {limit} bytes.")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _discard(receive: Receive) -> None:
    """Throws away what still comes of a body, for a while.

    A connection that is closed with bytes unread is reset, and its client never sees why it was refused.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (await receive()).get("more_body", False):
                pass


async def send_json(
    send: Send, status: int, body: Json, headers: Headers | None = None, media: bytes = b"application/json"
) -> None:
    """Sends one JSON answer."""
    await send_bytes(send, status, orjson.dumps(body, default=str), headers, media)


async def send_bytes(
    send: Send, status: int, body: bytes, headers: Headers | None = None, media: bytes = b"application/json"
) -> None:
    """Sends one whole answer."""
    head = [(b"content-type", media), (b"content-length", str(len(body)).encode()), *_FIXED, *(headers or ())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_problem(
    send: Send, problem: Problem, call_id: str | None = None, trace_id: str | None = None, more: Headers | None = None
) -> None:
    """Sends a problem as RFC 9457 problem+json, with `more` headers than its own."""
    body = render.problem_json(problem, call_id, trace_id)
    media = b"application/problem+json"
    headers = [*problem_headers(problem, call_id), *(more or ())]
    await send_json(send, TABLE[problem.code].status, body, headers, media)


def problem_headers(problem: Problem, call_id: str | None) -> Headers:
    """The headers that go with a problem: how to authenticate, when to come again, which call it was."""
    headers: Headers = []
    if problem.code == "unauthenticated":
        headers.append((b"www-authenticate", b'Bearer realm="toolgate"'))
        headers.append((b"connection", b"close"))  # the body was not read
    if problem.needs:
        scope = " ".join(problem.needs)
        headers.append((b"www-authenticate", f'Bearer error="insufficient_scope", scope="{scope}"'.encode()))
        headers.append((b"connection", b"close"))
    if problem.code in ("too_large", "request_timeout"):
        headers.append((b"connection", b"close"))
    if problem.retry_after_ms is not None:
        headers.append((b"retry-after", str(-(-problem.retry_after_ms // 1000)).encode()))
    if call_id:
        headers.append((b"toolgate-call-id", call_id.encode()))
    return headers


async def while_connected(work: Awaitable[T], receive: Receive) -> T | None:
    """Awaits `work`, and cancels it when the client goes away. None when nobody is there to hear the answer.

    The body must have been read, and `work` must end soon after it is cancelled. Most calls end before it pays to
    watch the connection, so watching starts late and costs them one timer.
    """
    watch = _Watch(receive)
    try:
        result = await work
    except asyncio.CancelledError:
        if watch.end():
            return None
        raise
    return None if watch.end() else result


class _Watch:
    """Cancels the current task when the client of `receive` goes away."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._task = receive, asyncio.current_task()
        self._gone = False
        self._waiting: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._begin)

    def end(self) -> bool:
        """Stops watching; true when the client went away."""
        self._timer.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._gone and self._task is not None:
            self._task.uncancel()
        return self._gone

    def _begin(self) -> None:
        self._waiting = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._task is not None:
            self._task.cancel()
