"""One HTTP/1.1 connection to an upstream, and one exchange over it (RFC 9112). llhttp reads the answer.

It gets an open transport and never dials, never judges an address, never sends a request twice. Sizes are counted while
they arrive and after decompression, so nothing larger than the cap is ever held.
"""

import asyncio
import zlib
from collections.abc import Mapping
from enum import IntEnum

import httptools

from gateway.model import Failure, Problem
from gateway.problems import problem

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_INTERIM = 8
MAX_RATIO = 100
RATIO_FREE_BYTES = 64 * 1024  # small answers may well be very regular
HIGH_WATER = 256 * 1024
IDLE_SECONDS = 15.0
# For an upstream that does not say: common servers cut after 5 s, and what is sent just then is lost, or done twice.
UNSAID_IDLE_SECONDS = 4.0

_GZIP = 16 + zlib.MAX_WBITS
_BODILESS = (204, 304)


class Reached(IntEnum):
    """How far an exchange is: the head has come, some body has come, it is over (well or not)."""

    NOTHING = 0
    HEAD = 1
    PIECE = 2
    END = 3


class Exchange:
    """One answer while it arrives. `max_bytes` bounds the body after decompression; `head_only` is for HEAD.

    `streamed`: somebody takes the body piece by piece, so the upstream is held back when too much is waiting.
    """

    def __init__(self, max_bytes: int, *, head_only: bool = False, streamed: bool = False) -> None:
        self.max_bytes = max_bytes
        self.streamed = streamed
        self.head_only = head_only
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reached = Reached.NOTHING
        self.failure: Problem | None = None
        self.size = 0
        self.held = 0
        self._raw = 0
        self._pieces: list[bytes] = []
        self._decoder: zlib._Decompress | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._level = Reached.NOTHING

    async def wait(self, level: Reached) -> None:
        """Until the exchange is that far. Raises its Failure."""
        so_far = bool(self._pieces) if level is Reached.PIECE else self.reached >= level
        if not so_far and self.reached is not Reached.END:
            self._level = level
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.failure is not None:
            raise Failure(self.failure)

    def take(self) -> bytes:
        """What has come of the body since the last time; empty only at the end."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.held = 0
        return body

    def fail(self, what: Problem) -> None:
        """End the exchange badly; the first reason stands."""
        if self.reached is not Reached.END:
            self.failure = what
            self._advance(Reached.END)

    def head(self) -> None:
        """The head is complete: look at the content coding."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", ""):
            if coding != "gzip":
                self.fail(problem("output_invalid", "The answer has a content coding that was not asked for."))
                return
            self._decoder = zlib.decompressobj(_GZIP)
        self._advance(Reached.HEAD)

    def body(self, raw: bytes) -> None:
        """A piece of the body as it came over the wire."""
        if self.reached is Reached.END:
            return
        self._raw += len(raw)
        piece = raw if self._decoder is None else self._decoded(self._decoder, raw)
        self.size += len(piece)
        self.held += len(piece)
        if self.size > self.max_bytes:
            self.fail(problem("output_too_large", f"The answer is larger than {self.max_bytes} bytes."))
        elif self.size > RATIO_FREE_BYTES and self.size > MAX_RATIO * self._raw:
            self.fail(problem("output_invalid", f"The answer unpacks to more than {MAX_RATIO} times its size."))
        elif piece:
            self._pieces.append(piece)
            self._advance(Reached.PIECE)

    def end(self) -> None:
        """The answer is complete."""
        if self._decoder is not None and self._raw and not self._decoder.eof:
            self.fail(problem("upstream_error", "The compressed answer was cut short."))
        else:
            self._advance(Reached.END)

    def _decoded(self, decoder: "zlib._Decompress", raw: bytes) -> bytes:
        try:
            piece = decoder.decompress(raw, self.max_bytes - self.size + 1)
        except zlib.error:
            self.fail(problem("output_invalid", "The answer is not compressed as it says."))
            return b""
        if decoder.unused_data:
            self.fail(problem("output_invalid", "Something follows the compressed answer."))
            return b""
        return piece

    def _advance(self, level: Reached) -> None:
        if self.reached is not Reached.END:
            self.reached = max(level, self.reached)
        if self._waiter is not None and level >= self._level and not self._waiter.done():
            self._waiter.set_result(None)
            self._waiter = None


class Connection(asyncio.Protocol):
    """A kept-alive connection. `usable` says that it is open and idle; `idle_until` is loop time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._fresh()
        self.usable = False
        self.idle_until = 0.0

    def _fresh(self) -> None:
        self._headers: dict[str, str] = {}
        self._count = self._head_bytes = self._interim = 0
        self._in_body = self._framed = self._keep = False

    def start(self, exchange: Exchange, request: bytes) -> None:
        """Write the whole request, once. Only on a usable connection."""
        if self._transport is None or not self.usable:
            raise RuntimeError("a request on a connection that is not usable")
        self.usable = False
        self._fresh()
        self._exchange = exchange
        self._transport.write(request)

    def close(self) -> None:
        """Cut the connection; nothing more is read or sent."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on after `take` made room."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # ── asyncio.Protocol ─────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream
        self._transport = transport
        self.usable = True

    def data_received(self, chunk: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("The upstream's answer is not HTTP/1.1.")
            return
        if not self._in_body:
            self._head_bytes += len(chunk)
            if self._exchange is not None and self._head_bytes > MAX_HEAD_BYTES:
                self._fail("The head of the answer is too large.")
        elif exchange.failure is not None:
            self._drop()
        elif exchange.streamed and exchange.held > HIGH_WATER and self._exchange is not None:
            self._pause()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._in_body and not self._framed and error is None:
            exchange.end()  # a body that ends with the connection
        else:
            exchange.fail(problem("upstream_error", "The connection broke before the answer was complete."))

    # ── what llhttp calls ────────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self._exchange is None:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        self._head_bytes += len(name) + len(value)
        if self._count > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            self._fail("The head of the answer is too large.")
            return
        if self._in_body:  # trailers are read and dropped
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, {}
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                self._fail("The upstream answered with something that was not asked for.")
            return
        coding = headers.get("transfer-encoding")
        if coding is not None and (coding.lower() != "chunked" or "content-length" in headers):
            self._fail("The upstream's answer is framed in a way that can be read in two ways.")
            return
        self._framed = coding is not None or "content-length" in headers or status in _BODILESS or exchange.head_only
        self._keep = self._parser.should_keep_alive() and not exchange.head_only
        self._in_body = True
        exchange.status, exchange.headers = status, headers
        exchange.head()
        if exchange.head_only:
            exchange.end()
            self._drop()

    def on_body(self, raw: bytes) -> None:
        if self._exchange is not None:
            self._exchange.body(raw)

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or not self._in_body:  # interim answers end too
            return
        self._exchange = None
        exchange.end()
        transport = self._transport
        if not self._keep or exchange.failure is not None or transport is None or transport.get_write_buffer_size():
            self.close()
            return
        self.usable = not transport.is_closing()
        self.idle_until = asyncio.get_running_loop().time() + _idle_seconds(exchange.headers)

    def _fail(self, why: str) -> None:
        if self._exchange is not None:
            self._exchange.fail(problem("upstream_error", why))
        self._drop()

    def _drop(self) -> None:
        self._exchange = None
        self.close()


def _idle_seconds(headers: Mapping[str, str]) -> float:
    """How long the connection may be kept: a second less than the upstream says it keeps it."""
    _, found, seconds = headers.get("keep-alive", "").partition("timeout=")
    digits = seconds[:5].partition(",")[0].strip()
    said = bool(found) and digits.isdecimal() and digits.isascii()
    return min(IDLE_SECONDS, float(digits) - 1) if said else UNSAID_IDLE_SECONDS
