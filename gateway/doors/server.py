"""The HTTP server under the doors: uvicorn, its connections bounded, its stop our own. It knows no route."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.doors.asgi import App

_BACKLOG = 2048
_KEEP_ALIVE = 15  # seconds an idle connection is kept
_HEAD_SECONDS = 5.0  # a head has to arrive within
_HEAD_BYTES = 64 * 1024  # of an unfinished head, beyond the piece it began in; the door has the exact limits
_CONNECTIONS = 2048
# Seconds, when the gateway is told to stop, in all less than the 10 that engines of containers wait: for what was sent
# before its client could know, for running calls to end by themselves, and for the answers of those that were ended.
_LINGER, _DRAIN, _LAST = 0.5, 7.0, 1.5
_LOOK = 0.02


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


class Config(uvicorn.Config):
    """What connections know of their server: whether it is about to stop."""

    leaving = False


class Connection(HttpToolsProtocol):
    """A connection that is bounded before there is a request: its head by size and time, and their number.

    What the door could say about a head comes too late: until it is complete, all of it is kept.
    """

    _in_head, _head_bytes = True, 0
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
        else:
            self._head_due = self.loop.call_later(_HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            self._relax()
        elif self._head_bytes > _HEAD_BYTES:
            self.transport.abort()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _relax(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # not a trailer: those come behind the body, where no proxy looks for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if not self.url.startswith((b"/", b"*")) and not self._is_for_host():
            raise ValueError("the target names another host than Host does")  # uvicorn answers 400
        super().on_headers_complete()
        if isinstance(self.config, Config) and self.config.leaving:
            self.leave()

    def leave(self) -> None:
        """The answer under way, if there is one, is the last, and says so."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _is_for_host(self) -> bool:
        authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        return [value.lower() for name, value in self.headers if name == b"host"] == [authority.lower()]


class Server(uvicorn.Server):
    """A server that says so as soon as it answers, and comes back when it is told to stop."""

    def __init__(self, app: App, announce: Callable[[], Awaitable[None]], leave: Callable[[], None]) -> None:
        """`announce` is awaited when it answers, `leave` called when it is told to stop."""
        config = Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        super().__init__(config)
        self._announce, self._leave, self._known = announce, leave, config

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends by itself on a signal. (The base class raises it again, before the ledger could be closed.)"""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _settle_memory()
        await self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets nobody new in, answers what has come, and ends what does not end by itself: that is answered too.

        A connection that waits for its next request is not closed at once: the request may be on its way, and would be
        lost without a word. Whoever gets an answer from now on is told that it is the last.
        """
        self._known.leaving = True
        self._leave()
        await asyncio.sleep(_LOOK)  # who has been let in by the system is let in by us
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.leave()
        await self._none_left(_LINGER)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._none_left(_DRAIN):
            for task in list(self.server_state.tasks):
                task.cancel()
            await self._none_left(_LAST)

    async def _none_left(self, seconds: float) -> bool:
        """Waits so long for the last connection and the last call to end."""
        until = asyncio.get_running_loop().time() + seconds
        while self.server_state.connections or self.server_state.tasks:
            if self.force_exit or asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_LOOK)
        return True


def _settle_memory() -> None:
    """Sets aside what lives as long as the process, so that looking for garbage does not go through it on every call.

    A call leaves hardly any cycles behind; with the default thresholds, looking for them costs 5 to 8 % of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)
