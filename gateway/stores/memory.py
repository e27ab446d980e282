"""Stores that live in memory: for tests, for cases, and for what needs no durability (recent outcomes)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.audit.content import encode
from gateway.model import Outcome, Position
from gateway.ports import Key, Line
from gateway.tool import Json

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

    def erased(self) -> None:
        """Drops all of them: content of some session was erased, and they are kept for convenience only."""
        self._kept.clear()
        self._bytes = 0

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
