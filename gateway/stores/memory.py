"""Stores that live in memory: for tests, for cases, and for what needs no durability (counters, recent outcomes)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.aggregates import Cell, Ended, Level, Reservation
from gateway.audit.content import encode
from gateway.model import Outcome, Position
from gateway.ports import Key, Line, Taken
from gateway.reliability.cells import Cells
from gateway.reliability.limits import earliest, spend
from gateway.tool import Json, Rate

_FULL_SECONDS = 60.0  # after which a caller whose values are too many may ask again
_BLOWN_UP = 16  # bytes that a value takes in memory, for each byte of it as JSON


class MemoryKeys:
    """API keys by digest."""

    def __init__(self) -> None:
        self._by_digest: dict[str, Key] = {}

    def find(self, digest: str) -> Key | None:
        return self._by_digest.get(digest)

    async def add(self, key: Key) -> None:
        self._by_digest[key.digest] = key

    async def revoke(self, key_id: str, at: float) -> bool:
        found = next((key for key in self._by_digest.values() if key.id == key_id), None)
        if found is None:
            return False
        self._by_digest[found.digest] = replace(found, revoked_at=at)
        return True

    async def expire(self, key_id: str, at: float) -> bool:
        found = next((key for key in self._by_digest.values() if key.id == key_id), None)
        if found is None or found.revoked_at is not None:
            return False
        sooner = at if found.expires_at is None else min(at, found.expires_at)
        self._by_digest[found.digest] = replace(found, expires_at=sooner)
        return True

    def all(self) -> Sequence[Key]:
        return sorted(self._by_digest.values(), key=lambda key: key.created_at)


class MemoryCounters:
    """Rates, concurrency and declared state of one process. What says nothing any more is forgotten."""

    _SWEEP_AT = 10_000  # entries; a bucket that is full again says nothing and is dropped

    def __init__(self, cells: Cells | None = None) -> None:
        self._arrival: dict[str, float] = {}
        self._running: dict[str, int] = {}
        self._cells = Cells() if cells is None else cells

    def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        return self._cells.look(cells, now)

    def settle(self, reservation: Reservation, ended: Ended) -> None:
        self._cells.settle(reservation, ended)

    def adopt(self, past: Cells) -> None:
        """Takes over what is on record of calls that ended. What is here already of a call is not added again."""
        self._cells.adopt(past)

    def restate(self, reservation: Reservation, ended: Ended, past: Cells) -> None:
        """Ends a call anew of which nobody knew how it had ended (`Cells.restate`)."""
        self._cells.restate(reservation, ended, past)

    def take(
        self,
        buckets: Sequence[tuple[str, Rate]],
        slots: Sequence[tuple[str, int]],
        now: float,
        reservation: Reservation | None = None,
    ) -> Taken:
        for key, most in slots:
            if self._running.get(key, 0) >= most:
                return Taken(key, "concurrency", 1.0)
        for key, rate in buckets:
            wait = earliest(self._arrival.get(key, 0.0), rate) - now
            if wait > 0:
                return Taken(key, "rate", wait)
        refused = None if reservation is None else self._cells.take(reservation)
        if refused is not None:
            return Taken("state", refused, _FULL_SECONDS)
        for key, rate in buckets:
            self._arrival[key] = spend(self._arrival.get(key, 0.0), rate, now)
        for key, _ in slots:
            self._running[key] = self._running.get(key, 0) + 1
        if len(self._arrival) > self._SWEEP_AT:
            self._arrival = {key: at for key, at in self._arrival.items() if at > now}
        return Taken()

    def leave(self, slots: Sequence[tuple[str, int]]) -> None:
        for key, _ in slots:
            left = self._running[key] - 1
            if left:
                self._running[key] = left
            else:
                del self._running[key]


class MemoryOutcomes:
    """The most recent outcomes, a bounded number of bytes of them, each seen by its owner only."""

    def __init__(self, most: int = 2_000, most_bytes: int = 32 * 1024 * 1024) -> None:
        self._kept: OrderedDict[str, tuple[str, Outcome, int]] = OrderedDict()
        self._most, self._most_bytes, self._bytes = most, most_bytes, 0

    def keep(self, owner: str, outcome: Outcome) -> None:
        size = 512 + 2 * len(outcome.text) + (_BLOWN_UP * len(encode(outcome.structured)) if outcome.structured else 0)
        self._kept[outcome.call_id] = (owner, outcome, size)
        self._bytes += size
        while self._kept and (len(self._kept) > self._most or self._bytes > self._most_bytes):
            _, (_, _, freed) = self._kept.popitem(last=False)
            self._bytes -= freed

    async def find(self, owner: str, call_id: str) -> Outcome | None:
        kept = self._kept.get(call_id)
        return kept[1] if kept and kept[0] == owner else None


class MemoryPins:
    """Digests of upstream tool definitions, as first seen."""

    def __init__(self) -> None:
        self._pins: dict[tuple[str, str], str] = {}

    def find(self, server: str, tool: str) -> str | None:
        return self._pins.get((server, tool))

    async def pin(self, server: str, tool: str, digest: str) -> None:
        self._pins[server, tool] = digest


class MemoryLedger:
    """A ledger that forgets: for cases and tests of what stands above it. It proves nothing and survives nothing.

    Lines are kept as they would be read back: what is written has to be JSON here too.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def check(self) -> None:
        """It can always be written."""

    async def append(self, line: Line) -> Position:
        self.lines.append(replace(line, fields=_as_read(line.fields), content=_as_read(line.content)))
        return Position("memory", len(self.lines) - 1)

    def digest(self, tenant: str, value: bytes) -> str:
        return "hmac:" + hmac.new(tenant.encode(), value, hashlib.sha256).hexdigest()

    def checkpoint(self) -> None:
        """There is nothing that could be signed."""


def _as_read(value: Json) -> Any:
    return json.loads(encode(value))
