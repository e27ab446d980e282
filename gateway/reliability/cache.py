"""Results that are kept for a while, and answer equal calls of tools that only read. Pure: time comes in.

What is kept is what the tool gave, before screening: each call that it answers is decided, admitted, screened and
recorded like any other. Only what screening had nothing to say about is kept, so that what is hostile or cut never is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

from gateway import strictjson
from gateway.model import Intent, RawOutput, SafeOutput
from gateway.tool import Caching, Json

MAX_ENTRIES = 4096
MAX_BYTES = 64 * 1024 * 1024
MAX_ENTRY = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    raw: RawOutput
    size: int
    until: float  # monotonic seconds


class ResultCache:
    """Results by what made them. Bounded in entries and bytes; the one that was used the longest ago goes first."""

    def __init__(self, monotonic: Callable[[], float], *, entries: int = MAX_ENTRIES, most: int = MAX_BYTES) -> None:
        self._monotonic, self._entries, self._most = monotonic, entries, most
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0

    def find(self, intent: Intent) -> RawOutput | None:
        """What an equal call gave, as the output of this one; None when there is none, or policy wants none."""
        caching = _caching(intent)
        if caching is None:
            return None
        key = _key(intent, caching)
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._monotonic():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        # What ran, and how long, belongs to the call that it ran for.
        structured = deepcopy(kept.raw.structured)
        return replace(kept.raw, structured=structured, attempts=0, sandbox_ms=None, sandbox=None)

    def keep(self, intent: Intent, raw: RawOutput, safe: SafeOutput) -> None:
        """Keeps what a call gave, if it may answer others: a whole result that passed screening as it is."""
        caching = _caching(intent)
        clean = safe.problem is None and raw.problem is None and safe.verdict.action == "allow"
        if caching is None or not clean or raw.attempts == 0 or raw.truncated or safe.truncated or raw.files:
            return
        size = len(raw.text.encode()) + _size(raw.structured)
        if size > MAX_ENTRY:
            return
        key = _key(intent, caching)
        self._drop(key)
        copied = replace(raw, structured=deepcopy(raw.structured))
        self._kept[key] = _Kept(copied, size, self._monotonic() + caching.ttl)
        self._bytes += size
        while len(self._kept) > self._entries or self._bytes > self._most:
            self._drop(next(iter(self._kept)))

    def erased(self, uids: Collection[str]) -> None:
        """Drops all of them when content of any session was erased: they are kept for convenience only."""
        if uids:
            self._kept.clear()
            self._bytes = 0

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size


def _caching(intent: Intent) -> Caching | None:
    return intent.call.tool.cache if intent.obligations.cache else None


def _key(intent: Intent, caching: Caching) -> bytes:
    """All that a result may depend on: whose it is, the tool as it is declared, the arguments, what policy asks."""
    call, asked = intent.call, intent.obligations
    principal, session = call.caller.principal, call.caller.session
    whose = {"session": session.uid, "principal": principal.key, "tenant": principal.tenant}[caching.scope]
    parts: list[Json] = [
        principal.tenant,
        caching.scope,
        whose,
        call.tool.digest,
        call.arguments,
        intent.lease.permit.decision.bundle,
        sorted(asked.require),
        [list(network) for network in _networks(intent)],
    ]
    return hashlib.sha256(strictjson.canonical(parts)).digest()


def _networks(intent: Intent) -> Iterator[tuple[str, ...]]:
    """Where the call may send to, and those around it: what may be asked for may be answered, and nothing else."""
    yield from intent.obligations.networks
    if intent.call.parent is not None:
        yield from _networks(intent.call.parent.intent)


def _size(structured: Json) -> int:
    return 0 if structured is None else len(strictjson.canonical(structured))
