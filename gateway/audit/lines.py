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


class Draft:
    """A record that has no place yet: all of it that does not depend on the one before. `seq` once it is added."""

    __slots__ = ("call_id", "members", "sealing", "seq", "type")

    def __init__(self, type_: str, fields: Mapping[str, Json], sealing: Sealing | None = None) -> None:
        """Raises `ValueError` when `fields` would set what only the writer sets, `TypeError` when they are not JSON."""
        if not RESERVED.isdisjoint(fields):
            raise ValueError(f"only the writer sets {sorted(RESERVED.intersection(fields))}")
        self.type = type_
        self.call_id = fields.get("call_id")
        self.members = encode(type_) + (b"," + encode(fields)[1:-1] if fields else b"")
        self.sealing = sealing
        self.seq = -1


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
        self._millisecond = -1
        self._time = b""
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
        """`place` of one line that was not drafted before; raises what `Draft` raises, and then nothing is counted."""
        return self.place(Draft(type_, fields, sealing))

    def place(self, draft: Draft) -> bytes:
        """The exact bytes of the next line, without the newline, already counted in.

        The first five members are always `v`, `shard`, `seq`, `prev`, in this order.
        """
        seq, sealing = self._range.size, draft.sealing
        line = b'{"v":1,"shard":"%b","seq":%d,"prev":"%b","hlc":"%016x","ts":"%b","type":%b%b}' % (
            *(self._name, seq, self._leaf.hex().encode(), *self._stamp(), draft.members),
            b"" if sealing is None else self._content(draft, sealing, seq),
        )
        self._leaf = leaf_hash(line)
        self._range.append(self._leaf)
        follow(self._open_calls, draft.type, draft.call_id, seq)
        draft.seq = seq
        return line

    def _content(self, draft: Draft, sealing: Sealing, seq: int) -> bytes:
        name, call_id = orjson.dumps(sealing.session), str(draft.call_id or "")
        if sealing.blob is not None:
            return b',"content":{"key":%b,"blob":"%b","bytes":%d}' % (name, sealing.blob.encode(), len(sealing.plain))
        box = seal(sealing.key, self._shard, seq, call_id, draft.type, sealing.plain, self._nonces.new())
        return b',"content":{"key":%b,"box":"%b"}' % (name, box)

    def _stamp(self) -> tuple[int, bytes]:
        """The hybrid logical clock (48 bits of unix milliseconds, 16 of counting) and the time in RFC 3339."""
        now = int(self._clock() * 1000)
        self._hlc = max(self._hlc + 1, now << 16)
        if now != self._millisecond:
            self._millisecond = now
            self._time = b"%b.%03dZ" % (strftime("%Y-%m-%dT%H:%M:%S", gmtime(now // 1000)).encode(), now % 1000)
        return self._hlc, self._time
