"""One connection to Redis that all calls share: what is asked in one turn of the loop goes out in one write.

Answers come in the order of the questions (RESP 2, pipelined), each within a deadline. A connection that breaks, or
does not answer in time, is given up with all that wait on it, and made anew in the background; while Redis is away
nobody waits for it. It never repeats a question of its own accord, and knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import hiredis

log = logging.getLogger("toolgate")
MOST_WAITING = 8192  # questions under way at once
_CONNECT_SECONDS = 1.0
_BACKOFF = (0.02, 1.0)  # seconds before a new attempt: at first, at most
_BREATH = 0.001  # seconds for what has arrived while this process was busy

Reply = Any  # bytes, int, None, or a list of these
Words = tuple[str | bytes | int, ...]

# As typed there it takes a tuple of one.
_pack = cast(Callable[[Words], bytes], hiredis.pack_command)


class Unanswered(Exception):
    """Redis cannot be reached or did not answer in time. `sent`: it may have done what it was asked."""

    def __init__(self, why: str, sent: bool = False) -> None:
        super().__init__(why)
        self.sent = sent


class Lost(Unanswered):
    """The connection broke before the answer: on a new one, what may be repeated can be asked again at once."""


class Refused(Exception):
    """Redis answered with an error; the text is its own."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis listens: `path` of a unix socket, or host and port. `deadline`: seconds for each answer. `ca`: file
    of the certificates that alone are trusted with `tls`; without one it is the system's."""

    host: str = ""
    port: int = 6379
    path: str = ""
    tls: bool = False
    db: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    deadline: float = 0.1
    ca: str = ""


class _Wire(asyncio.Protocol):
    """One connection of the operating system."""

    def __init__(self, lost: Callable[[_Wire, Unanswered], None]) -> None:
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._out: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._watched = 0.0  # when it looks
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, packed: bytes, due: float) -> asyncio.Future[Reply]:
        """`due` is on the clock of the loop."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if len(self._waiting) >= MOST_WAITING:
            answer.set_exception(Unanswered("too many questions wait for Redis"))
            return answer
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        self._waiting.append((answer, due))
        if self._watch is None or due < self._watched:
            self._look_at(due)
        return answer

    def _look_at(self, due: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watched, self._watch = due, self._loop.call_at(due, self._overdue)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                answer, _ = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.give_up(Lost("Redis does not speak its protocol", sent=True))

    def _overdue(self) -> None:
        """The oldest question is due: if nothing of its answer is here after a breath, the connection hangs."""
        self._watch = None
        if self._waiting:
            oldest, due = self._waiting[0]
            if due > self._loop.time():
                self._look_at(due)
            else:
                self._watch = self._loop.call_later(_BREATH, self._hangs, oldest)

    def _hangs(self, oldest: asyncio.Future[Reply]) -> None:
        if self._waiting and self._waiting[0][0] is oldest:
            self.give_up(Unanswered("Redis did not answer in time", sent=True))
        else:
            self._overdue()

    def connection_lost(self, error: Exception | None) -> None:
        self.give_up(Lost("the connection to Redis broke", sent=True))

    def give_up(self, why: Unanswered) -> None:
        """Ends it: all who wait are told why."""
        waiting, self._waiting = self._waiting, deque()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._lost(self, why)
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(why)
                answer.exception()  # somebody may have stopped waiting


class Link:
    """The connection, made anew as often as need be. `on_open` is called each time it stands."""

    def __init__(self, address: Address, scripts: Sequence[str] = (), on_open: Callable[[], None] | None = None):
        self.address = address
        self._scripts = scripts
        self.on_open = on_open
        self._wire: _Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[None] | None = None  # the first since Redis was there: worth waiting for

    @property
    def stands(self) -> bool:
        return self._wire is not None

    def open(self) -> None:
        """Begins to connect, in the background; whoever asks meanwhile waits for the first attempt."""
        if self._task is None:
            self._begin(worth_waiting=True)

    def _begin(self, worth_waiting: bool) -> None:
        loop = asyncio.get_running_loop()
        if worth_waiting:
            self._attempt = loop.create_future()
            loop.call_later(self.address.deadline, self._settled)
        self._task = asyncio.create_task(self._connect())

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._settled()
        if self._wire is not None:
            wire, self._wire = self._wire, None
            wire.give_up(Unanswered("closed"))

    async def ask(self, *words: str | bytes | int, again: bool = False) -> Reply:
        """The answer. `again`: what may be repeated is, once, when the connection breaks and stands again in time.

        Raises `Unanswered`, and `Refused` when Redis answers with an error.
        """
        packed = _pack(words)
        loop = asyncio.get_running_loop()
        due = loop.time() + self.address.deadline
        sent = False
        while True:
            try:
                wire = self._wire or await self._soon(due)
                return said(await wire.send(packed, due))
            except Lost:
                if not again or loop.time() >= due:
                    raise
                again, sent = False, True
            except Unanswered as error:
                raise Unanswered(str(error), error.sent or sent) from None

    def send(self, words: Words) -> asyncio.Future[Reply]:
        """Asks without waiting; an error of Redis comes as a reply (`said` raises it). Fails with `Unanswered`."""
        loop = asyncio.get_running_loop()
        if self._wire is not None:
            return self._wire.send(_pack(words), loop.time() + self.address.deadline)
        away: asyncio.Future[Reply] = loop.create_future()
        away.set_exception(Unanswered("Redis is away"))
        away.exception()
        return away

    async def _soon(self, due: float) -> _Wire:
        """The connection, if it is about to stand."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt], timeout=due - asyncio.get_running_loop().time())
        if self._wire is None:
            raise Unanswered("Redis is away")
        return self._wire

    async def _connect(self) -> None:
        wait, most = _BACKOFF
        while True:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    wire = await self._dial()
                    await self._greet(wire)
            except (OSError, Unanswered, Refused, TimeoutError) as error:
                self._settled()
                if wait == _BACKOFF[0]:
                    log.warning("Redis cannot be reached: %s", error)
                await asyncio.sleep(wait * random.uniform(0.5, 1))
                wait = min(most, wait * 2)
            else:
                self._wire = wire
                self._settled()
                if self.on_open is not None:
                    self.on_open()
                return

    async def _dial(self) -> _Wire:
        loop, to = asyncio.get_running_loop(), self.address
        if to.path:
            _, wire = await loop.create_unix_connection(lambda: _Wire(self._gone), to.path)
        else:
            tls = _trusting(to.ca) if to.tls else None
            _, wire = await loop.create_connection(lambda: _Wire(self._gone), to.host, to.port, ssl=tls)
        return wire

    async def _greet(self, wire: _Wire) -> None:
        to = self.address
        hello: Words = ("HELLO", 2, "AUTH", to.user or "default", to.password) if to.password else ("HELLO", 2)
        words: list[Words] = [hello, ("SELECT", to.db), *(("SCRIPT", "LOAD", each) for each in self._scripts)]
        due = asyncio.get_running_loop().time() + _CONNECT_SECONDS
        try:
            for answer in [wire.send(_pack(each), due) for each in words]:
                said(await answer)
            # One that is slow does not stand: otherwise each new connection would cost callers the deadline again.
            said(await wire.send(_pack(("PING",)), asyncio.get_running_loop().time() + to.deadline))
        except BaseException:  # whatever it was goes on, but nobody waits for this connection
            wire.give_up(Unanswered("Redis did not greet"))
            raise

    def _settled(self) -> None:
        """The first attempt is over, well or not."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done():
            attempt.set_result(None)

    def _gone(self, wire: _Wire, why: Unanswered) -> None:
        """What broke may stand again at once; what hung will not."""
        if self._wire is wire:
            self._wire = None
            if self._task is not None:
                self._begin(isinstance(why, Lost))


@cache
def _trusting(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca or None)


def said(reply: Reply) -> Reply:
    """The reply; raises `Refused` when it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        raise Refused(str(reply))
    return reply
