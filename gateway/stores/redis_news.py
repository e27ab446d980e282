"""What gateways that share a Redis tell each other: each change, in order, to all of them, pushed as it happens.

One stream, whose entries are numbered in the step that makes the change. Whoever misses a number, or finds that Redis
was emptied, reads everything again; so a copy in memory is right within `LISTEN` of Redis being there. It keeps nothing
itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.model import Refusal
from gateway.stores.redis_link import Redis, Word

log = logging.getLogger("toolgate")
LISTEN = 0.5  # seconds after which a gateway that heard nothing looks whether Redis is the one it was
_PAUSE = 0.1  # seconds between two tries while it is away
_STREAM, _NUMBER, _BORN, _SECRET = "tg:news", "tg:news:n", "tg:news:born", "tg:secret"
_MOST = 1000  # entries read at once
TELL = Path(__file__).with_name("news.lua").read_text(encoding="ascii")  # the first part of every script that tells


@dataclass(frozen=True, slots=True)
class Kind:
    """Who is told of changes of one kind. `changed` of these ids; `again` that anything may have changed, and whether
    Redis was emptied, so that what is known here has to be put back. Both may raise `Refusal`: `again` follows."""

    changed: Callable[[Sequence[str]], Awaitable[None]]
    again: Callable[[bool], Awaitable[None]]


class News:
    """The news, as one gateway hears them. `me` marks those of its own, which it is not told."""

    def __init__(self, redis: Redis, keyed: Callable[[bytes], None] = lambda _: None) -> None:
        """`keyed` is called with the secret that all gateways share, and again when it is another one."""
        self.me = secrets.token_hex(8)
        self._redis, self._keyed = redis, keyed
        self._kinds: dict[str, Kind] = {}
        self._secret, self._born = b"", b""
        self._last, self._number = "0-0", 0
        self._behind = True

    def about(self, kind: str, told: Kind) -> None:
        """Has somebody told of a kind."""
        self._kinds[kind] = told

    async def start(self) -> None:
        """Reads everything for the first time. Raises `Refusal(overloaded)`."""
        await self._again()

    async def follow(self) -> None:
        """Listens for ever."""
        while True:
            try:
                if self._behind:
                    await self._again()
                await self._hear()
            except Refusal:
                self._behind = True
                await asyncio.sleep(_PAUSE)
            except Exception:  # a background loop must outlive one bad entry; everything is read again
                log.exception("what another gateway told could not be taken over")
                self._behind = True
                await asyncio.sleep(_PAUSE)

    async def _again(self) -> None:
        """Notes where the news are now, then has everything read: what changes meanwhile is told afterwards."""
        ours = self._secret or secrets.token_bytes(32)
        asked: list[tuple[Word, ...]] = [
            ("SET", _SECRET, ours, "NX"),
            ("GET", _SECRET),
            ("SET", _BORN, secrets.token_hex(16), "NX"),
        ]
        asked += [("GET", _BORN), ("GET", _NUMBER), ("XREVRANGE", _STREAM, "+", "-", "COUNT", "1")]
        _, secret, _, born, number, latest = await self._redis.many(asked)
        emptied = self._born not in (b"", born)
        if secret != self._secret:
            self._secret = secret
            self._keyed(secret)
        self._number = int(number or 0)
        self._last = latest[0][0].decode() if latest else "0-0"
        for kind in self._kinds.values():
            await kind.again(emptied)
        self._born, self._behind = born, False

    async def _hear(self) -> None:
        block = str(int(1000 * LISTEN))
        heard = await self._redis.wait("XREAD", "COUNT", _MOST, "BLOCK", block, "STREAMS", _STREAM, self._last)
        if not heard:
            born, number = await self._redis.do("MGET", _BORN, _NUMBER)
            self._behind = born != self._born or int(number or 0) != self._number  # entries may have been dropped
            return
        self._behind = True  # until all of it was taken over
        changed: dict[str, dict[str, None]] = {}
        for place, flat in _entries(heard):
            said = {flat[at].decode(): flat[at + 1].decode() for at in range(0, len(flat), 2)}
            if int(said["n"]) != self._number + 1:
                return
            self._last, self._number = place.decode(), self._number + 1
            if said["by"] != self.me:
                changed.setdefault(said["kind"], {}).update(dict.fromkeys(said["ids"].split()))
        for kind, ids in changed.items():
            if kind in self._kinds:
                await self._kinds[kind].changed(list(ids))
        self._behind = False


def _entries(heard: Any) -> Sequence[tuple[bytes, list[bytes]]]:
    """The entries of the one stream that was read (RESP2: `[[name, [[id, [field, value, …]], …]]]`)."""
    ((_, entries),) = heard
    return [(place, flat) for place, flat in entries]
