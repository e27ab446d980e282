"""What can happen to a Redis that gateways share: each fault is begun and ended here, from outside of every gateway.

A gateway reaches its Redis through a `Line` of its own, which can be slow, cut, or dead to it alone.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import redis

from tests.redisserver import RedisServer

Delay = tuple[float, float]  # seconds, at least and at most


@dataclass
class Line:
    """Between one gateway and Redis. `delay` holds up what is asked; a `dead` one takes all and gives nothing."""

    to: str
    port: int = 0
    delay: Delay = (0.0, 0.0)
    dead: bool = False
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Breaks every connection; new ones are taken."""
        self._loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_unix_connection(self.to)
        except OSError:
            writer.close()
            return
        both = (writer, there[1])
        self._writers.update(both)
        try:
            await asyncio.gather(self._pump(reader, there[1], late=True), self._pump(there[0], writer))
        finally:
            self._writers.difference_update(both)
            for each in both:
                each.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, late: bool = False) -> None:
        parcels = asyncio.Queue[tuple[float, bytes]]()
        mailed = asyncio.create_task(self._mail(parcels, sink))
        with suppress(OSError):
            while data := await source.read(1 << 16):
                parcels.put_nowait((self._loop.time() + (random.uniform(*self.delay) if late else 0.0), data))
        mailed.cancel()
        sink.close()

    async def _mail(self, parcels: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await parcels.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            while self.dead:  # noqa: ASYNC110  # set by another thread
                await asyncio.sleep(0.01)
            sink.write(data)


@contextmanager
def line(server: RedisServer) -> Iterator[Line]:
    """A line to this server, on a free port."""
    made = Line(server.path)
    listening = made._loop.run_until_complete(asyncio.start_server(made._serve, "127.0.0.1", 0))
    made.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=made._loop.run_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.cut()
        made._loop.call_soon_threadsafe(made._loop.stop)
        thread.join()


@dataclass(frozen=True)
class Site:
    """What faults happen to."""

    server: RedisServer
    lines: Sequence[Line]

    def ask(self, *words: str | int) -> object:
        """One command, by another client than the gateways'."""
        with redis.Redis(unix_socket_path=self.server.path) as client:
            return client.execute_command(*words)


@dataclass(frozen=True)
class Fault:
    """`begin` and `end` of it; `often`: begun again and again while it lasts."""

    begin: Callable[[Site], object]
    end: Callable[[Site], object] = lambda _: None
    often: bool = False


def _slow(low: float, high: float) -> Fault:
    return Fault(lambda at: _delay(at, (low, high)), lambda at: _delay(at, (0.0, 0.0)))


def _delay(at: Site, delay: Delay) -> None:
    for each in at.lines:
        each.delay = delay


def _dead(at: Site, dead: bool) -> None:
    at.lines[0].dead = dead


def _restart(at: Site) -> None:
    at.server.stop()
    at.server.start()


def _cut(at: Site) -> None:
    for each in at.lines:
        each.cut()


def _full(at: Site) -> None:
    at.ask("CONFIG", "SET", "maxmemory", "1mb")


def _password(at: Site, word: str) -> None:
    """Another password, and everybody has to say it again."""
    with redis.Redis(unix_socket_path=at.server.path, password="" if word else "another") as client:
        client.execute_command("CONFIG", "SET", "requirepass", word)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


FAULTS: Mapping[str, Fault] = {
    "stopped": Fault(lambda at: at.server.stop(), lambda at: at.server.start()),
    "hanging": Fault(lambda at: at.server.hang(), lambda at: at.server.recover()),
    "flushed": Fault(lambda at: at.server.flush(), often=True),
    "restarted empty": Fault(_restart, often=True),
    "cut": Fault(_cut, often=True),
    "slow 80 ms": _slow(0.08, 0.08),
    "slow 300 ms": _slow(0.3, 0.3),
    "slow 20-300 ms": Fault(_slow(0.02, 0.3).begin, _slow(0, 0).end),
    "out of memory": Fault(_full, lambda at: at.ask("CONFIG", "SET", "maxmemory", "0")),
    "scripts flushed": Fault(lambda at: at.ask("SCRIPT", "FLUSH"), often=True),
    "clients killed": Fault(lambda at: at.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), often=True),
    "read-only": Fault(
        lambda at: at.ask("CONFIG", "SET", "min-replicas-to-write", 9),
        lambda at: at.ask("CONFIG", "SET", "min-replicas-to-write", 0),
    ),
    "a replica": Fault(lambda at: at.ask("REPLICAOF", "127.0.0.1", 1), lambda at: at.ask("REPLICAOF", "NO", "ONE")),
    "another password": Fault(lambda at: _password(at, "another"), lambda at: _password(at, "")),
    "news trimmed": Fault(lambda at: at.ask("XTRIM", "tg:news", "MAXLEN", 0), often=True),
    "away from one": Fault(lambda at: _dead(at, True), lambda at: _dead(at, False)),
}
