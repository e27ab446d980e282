"""Recent outcomes of all gateways, for `GET /v1/calls/{id}`: those of this one in memory, those of others in Redis.

They are sealed there, and for some time only; one that is too large, or comes while too many wait to be written, is
known to its own gateway alone. Nobody waits for Redis to take one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.model import Outcome, Position, Refusal
from gateway.stores.memory import MemoryOutcomes
from gateway.stores.redis_link import Redis
from gateway.stores.redis_sessions import Box

SECONDS: Final = 900  # for which one is kept
_LARGEST = 64 * 1024  # characters of one
_WAITING = 1_000  # outcomes that are not written yet
_AT_ONCE = 100
_PAUSE = 0.02  # seconds in which some gather, to be written at once
_SCRIPT = """
for n = 2, #ARGV, 2 do redis.call('SET', 'tg:outcome:' .. ARGV[n], ARGV[n + 1], 'EX', ARGV[1]) end
return 0
"""


class RedisOutcomes(MemoryOutcomes):
    """The port `Outcomes`."""

    def __init__(
        self,
        redis: Redis,
        box: Box,
        write: Callable[[Outcome], bytes],
        read: Callable[[str, bytes, Position | None], Outcome],
    ) -> None:
        """`write` puts an outcome, but its id and position, into octets; `read` reverses it, or raises `ValueError`."""
        super().__init__()
        self._redis, self._box, self._write, self._read = redis, box, write, read
        self._waiting: dict[str, tuple[str, Outcome]] = {}
        self._woken = asyncio.Event()

    def keep(self, owner: str, outcome: Outcome) -> None:
        super().keep(owner, outcome)
        if len(self._waiting) < _WAITING:
            self._waiting[outcome.call_id] = (owner, outcome)
            self._woken.set()

    def erased(self) -> None:
        super().erased()
        self._waiting.clear()

    async def find(self, owner: str, call_id: str) -> Outcome | None:
        found = await super().find(owner, call_id)
        if found is None and call_id.isascii() and len(call_id) <= 64:
            sealed = await self._redis.do("GET", f"tg:outcome:{call_id}")
            words = None if sealed is None else self._box.open(sealed, _place(owner, call_id))
            found = None if words is None else self._of(call_id, words)
        return found

    async def write_always(self) -> None:
        """Writes what was kept, for ever."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(_PAUSE)
            while self._waiting:
                some = [self._waiting.pop(call_id) for call_id in list(self._waiting)[:_AT_ONCE]]
                given = [word for owner, outcome in some for word in self._sealed(owner, outcome)]
                with suppress(Refusal):  # its own gateway knows it all the same
                    await self._redis.script(_SCRIPT, SECONDS, *given)
            self._woken.clear()

    def _sealed(self, owner: str, outcome: Outcome) -> tuple[str | bytes, ...]:
        place = None if outcome.position is None else [outcome.position.shard, outcome.position.seq]
        words = json.dumps({"position": place, "kept": self._write(outcome).decode()})
        if len(words) > _LARGEST:
            return ()
        return (outcome.call_id, self._box.close(words, _place(owner, outcome.call_id)))

    def _of(self, call_id: str, words: str) -> Outcome | None:
        said = json.loads(words)
        try:
            return self._read(call_id, said["kept"].encode(), Position(*said["position"]) if said["position"] else None)
        except ValueError:  # written by a gateway of another version
            return None


def _place(owner: str, call_id: str) -> bytes:
    """Whose it is stands in what it was sealed with: another owner's does not open."""
    return f"outcome of {call_id} for {owner}".encode(errors="surrogatepass")
