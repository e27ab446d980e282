"""Idle connections, kept warm for the next request to exactly the same place with exactly the same credential.

It never opens a connection and never gives out one that is closed, expired or kept under another key.
"""

from __future__ import annotations

import asyncio

from gateway.runners.addresses import Address
from gateway.runners.http1 import IDLE_SECONDS, Connection
from gateway.runners.message import Headers

MAX_IDLE = 256

Origin = tuple[str, str, int, Headers]  # scheme, host, port, and the headers that hold credentials
Key = tuple[Origin, Address]


class Pool:
    """Last in, first out, so that what is not needed grows old and is closed by a sweep."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[Connection]] = {}
        self._count = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, key: Key) -> Connection | None:
        """A connection that can be used now."""
        idle = self._idle.get(key)
        if idle is None:
            return None
        now = asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            self._count -= 1
            if connection.usable and connection.idle_until > now:
                return connection
            connection.close()
        del self._idle[key]
        return None

    def holds(self, origin: Origin) -> bool:
        """Is there a connection to this place, with this credential, that could be taken now?"""
        now = asyncio.get_running_loop().time()
        return any(
            connection.usable and connection.idle_until > now
            for (there, _), idle in self._idle.items()
            if there == origin
            for connection in idle
        )

    def give(self, key: Key, connection: Connection) -> None:
        """Keep the connection, or close it when it cannot be used again or there is no room."""
        if connection.usable and self._count >= MAX_IDLE:
            self._sweep()
        if not connection.usable or self._count >= MAX_IDLE or self._closed:
            connection.close()
            return
        self._idle.setdefault(key, []).append(connection)
        self._count += 1
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def close(self) -> None:
        """Close everything that is idle, and from now on everything that is given back."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
        self._count = 0
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now, kept = loop.time(), {}
        for key, idle in self._idle.items():
            usable = [connection for connection in idle if connection.usable and connection.idle_until > now]
            for connection in set(idle).difference(usable):
                connection.close()
            if usable:
                kept[key] = usable
        self._idle = kept
        self._count = sum(map(len, kept.values()))
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = loop.call_later(IDLE_SECONDS, self._sweep) if self._count else None
