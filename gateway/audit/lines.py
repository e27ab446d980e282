"""The next line of a shard: sequence number, chain, clock and tree, kept where records are made.

In memory only: it never touches a file. It runs ahead of the disk, so it can be set back to a `Head` that is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import gmtime, strftime

import orjson

from gateway.audit.chain import FIRST_PREV, Range, leaf_hash
from gateway.audit.content import Mac, Nonces, encode, seal
from gateway.tool import Json

RESERVED = frozenset({"v", "shard", "seq", "prev", "hlc", "ts", "type", "content"})
OPENS = "call.intent"
# Whose call it is: what a record about a call that somebody else writes says too, so that it is found with it.
WHOSE = ("session_id", "tenant", "principal", "tool", "parent_call_id", "idempotency_key")
CLOSES = frozenset({"call.outcome", "call.refused", "call.in_doubt"})


@dataclass(frozen=True, slots=True)
class Head:
    """How far a shard is: number of records, the compact range over them, the leaf hash of the last, open calls.

    `open_calls` maps the id of each call with an intent and no outcome to the intent's seq.
    """

    size: int
    peaks: tuple[bytes, ...]
    last_leaf: bytes
    open_calls: Mapping[str, int]

    def root(self) -> bytes:
        """The Merkle tree hash at this head."""
        return Range(self.size, self.peaks).root()


NOWHERE = Head(0, (), bytes.fromhex(FIRST_PREV), {})


@dataclass(slots=True)
class Sealing:
    """Content on its way into a line: either `plain`, to be sealed under `key`, or the name of a `blob` that is."""

    session: str
    key: Mac
    plain: bytes
    blob: str | None = None


def follow(open_calls: dict[str, int], type_: str, call_id: Json, seq: int) -> None:
    """Keeps `open_calls` (see `Head`) up to date with one more record."""
    if type_ == OPENS:
        open_calls[str(call_id)] = seq
    elif type_ in CLOSES:
        open_calls.pop(str(call_id), None)


class Lines:
    """Makes the lines of one shard, in order. Not thread-safe: its caller holds a lock."""

    def __init__(self, shard: str, head: Head, clock: Callable[[], float], hlc: int = 0) -> None:
        """`hlc` is the clock of the last record there is: what comes is later, whatever the system's clock says."""
        self._shard = shard
        self._clock = clock
        self._hlc = hlc
        self._nonces = Nonces()
        self._name = shard.encode()
        self._second = 0
        self._second_text = ""
        self.reset(head)

    @property
    def seq(self) -> int:
        """The seq of the line that comes next; also the number of records so far."""
        return self._range.size

    @property
    def open_calls(self) -> dict[str, int]:
        """Calls with an intent and no outcome, by id; the seq of the intent."""
        return self._open_calls

    def reset(self, head: Head) -> None:
        """Forgets every line after `head`; their numbers are given again."""
        self._range = Range(head.size, head.peaks)
        self._leaf = head.last_leaf
        self._open_calls = dict(head.open_calls)

    def head(self) -> Head:
        """Where it is now."""
        return Head(self._range.size, tuple(self._range.peaks), self._leaf, self._open_calls.copy())

    def opened(self, gateway: str, after: str | None = None) -> bytes:
        """The line that begins every segment: what recovery needs to start from it, and what came before.

        `after` names the failed write that made a new segment necessary, if there was one.
        """
        fields: dict[str, Json] = {
            "gateway": gateway,
            "size": self._range.size,
            "root": self._range.root().hex(),
            "range": [peak.hex() for peak in self._range.peaks],
            "open_calls": dict(self._open_calls),
        }
        if after is not None:
            fields["after"] = after
        return self.add("log.opened", fields, None)

    def add(self, type_: str, fields: Mapping[str, Json], sealing: Sealing | None) -> bytes:
        """The exact bytes of the next line, without the newline, already counted in.

        The first five members are always `v`, `shard`, `seq`, `prev`, in this order. Raises `ValueError` when `fields`
        would set what only the writer sets, and `TypeError` when they are not JSON; then nothing is counted in.
        """
        if not RESERVED.isdisjoint(fields):
            raise ValueError(f"only the writer sets {sorted(RESERVED.intersection(fields))}")
        body = encode(fields)[1:-1]
        seq = self._range.size
        call_id = fields.get("call_id")
        parts = [
            b'{"v":1,"shard":"%b","seq":%d,"prev":"%b"' % (self._name, seq, self._leaf.hex().encode()),
            b',"hlc":"%016x","ts":"%b","type":%b' % (*self._stamp(), encode(type_)),
        ]
        if body:
            parts += (b",", body)
        if sealing is not None:
            parts.append(self._content(sealing, seq, str(call_id or ""), type_))
        parts.append(b"}")
        line = b"".join(parts)
        self._leaf = leaf_hash(line)
        self._range.append(self._leaf)
        follow(self._open_calls, type_, call_id, seq)
        return line

    def _content(self, sealing: Sealing, seq: int, call_id: str, type_: str) -> bytes:
        name = orjson.dumps(sealing.session)
        if sealing.blob is not None:
            return b',"content":{"key":%b,"blob":"%b","bytes":%d}' % (name, sealing.blob.encode(), len(sealing.plain))
        box = seal(sealing.key, self._shard, seq, call_id, type_, sealing.plain, self._nonces.new())
        return b',"content":{"key":%b,"box":"%b"}' % (name, box)

    def _stamp(self) -> tuple[int, bytes]:
        """The hybrid logical clock (48 bits of unix milliseconds, 16 of counting) and the time in RFC 3339."""
        now = self._clock()
        self._hlc = max(self._hlc + 1, int(now * 1000) << 16)
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        return self._hlc, b"%b.%03dZ" % (self._second_text.encode(), int((now - second) * 1000))
