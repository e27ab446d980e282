"""Proofs over a shard for somebody who does not have it: inclusion of one record, consistency of two sizes (RFC 9162).

A proof is a list of subtree hashes, and a subtree is a span of records: which ones is arithmetic, their hashes take one
pass over the segments, in memory that grows with the logarithm of their size. It takes no lock and writes nothing, and
gives out no proof that does not meet a signed head. The outsider's check is `verify_proof.py`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.audit import query
from gateway.audit.chain import Range, node_hash
from gateway.audit.content import Contents, Unreadable
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.notes import Head, Key, head_of
from gateway.audit.pieces import piece_leaves, pieces
from gateway.audit.verify import rotations
from gateway.tool import Json

Span = tuple[int, int]  # the leaves from the first number on, before the second


class Unprovable(Exception):
    """The log does not bear a proof: it disagrees with what was signed, or a checkpoint cannot be believed."""


class NotSigned(Exception):
    """The newest checkpoint does not cover the record yet; while the gateway runs, one that does is a second away."""


def inclusion(index: int, size: int) -> list[Span]:
    """The spans whose hashes prove leaf `index` in a tree of `size`, lowest first (PATH of RFC 9162 §2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError(f"no record {index} in a tree of {size}")
    path: list[Span] = []
    low, high = 0, size
    while high - low > 1:
        middle = _middle(low, high)
        if index < middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    return path[::-1]


def consistency(old: int, new: int) -> list[Span]:
    """The spans whose hashes prove the tree of `old` leaves the beginning of that of `new` (PROOF of §2.1.4.1).

    Empty when they are one tree, or `old` is 0.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is no beginning of one of {new}")
    path: list[Span] = []
    low, high = 0, new
    while 0 < old < high:
        middle = _middle(low, high)
        if old <= middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    if low:
        path.append((low, high))
    return path[::-1]


def _middle(low: int, high: int) -> int:
    """Where a subtree divides: after the largest power of two smaller than its size."""
    return low + (1 << ((high - low - 1).bit_length() - 1))


def _blocks(span: Span) -> Iterator[Span]:
    """The full subtrees a span is made of, largest first."""
    low, high = span
    while low < high:
        width = 1 << ((high - low).bit_length() - 1)
        yield low, low + width
        low += width


class SpanHashes:
    """Takes the leaf hashes of a tree in order; knows then the hashes of the spans it was asked for."""

    def __init__(self, spans: Iterable[Span]) -> None:
        """`spans` are subtrees, as `inclusion` and `consistency` name them, or begin at 0."""
        self.size = 0
        self._peaks: list[bytes] = []
        self._ends = {end for span in spans for _, end in _blocks(span)}
        self._found: dict[Span, bytes] = {}

    def watch(self, spans: Iterable[Span]) -> None:
        """Asks for more: spans that begin after the leaves so far, or that are whole subtrees left of the next leaf."""
        self._ends.update(end for span in spans for _, end in _blocks(span))
        self._found.update(zip(_blocks((0, self.size)), self._peaks, strict=True))

    def add(self, leaf: bytes) -> None:
        """One more leaf."""
        self.size = end = self.size + 1
        kept = end in self._ends
        if kept:
            self._found[end - 1, end] = leaf
        node, width = leaf, 1
        while not end & width:
            node, width = node_hash(self._peaks.pop(), node), width << 1
            if kept:
                self._found[end - width, end] = node
        self._peaks.append(node)

    def __getitem__(self, span: Span) -> bytes:
        """The Merkle tree hash of a span. Raises `KeyError` when it was not asked for, or the leaves end before."""
        return Range(span[1] - span[0], [self._found[block] for block in _blocks(span)]).root()


def log_leaves(folder: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """The leaf hash of each record of a shard, in order from the first, as far as its pieces follow on one another, and
    its exact line where that was not archived."""
    seq = 0
    for path in pieces(folder):
        if int(path.stem) != seq:
            return
        for each in piece_leaves(path):
            yield each
            seq += 1


@dataclass(frozen=True, slots=True)
class Proof:
    """One record, with the hashes that lead from it to the root of a signed head. `line` is without its newline."""

    shard: str
    seq: int
    line: bytes
    path: Sequence[bytes]
    head: Head

    def entry(self) -> dict[str, Json]:
        """As it stands in a proof file."""
        return {
            "shard": self.shard,
            "seq": self.seq,
            "line": self.line.decode(),
            "inclusion": [b64encode(octets).decode() for octets in self.path],
            "checkpoint": self.head.note,
        }


def read_key(audit: Path) -> str:
    """The gateway's verifier key, as text. Raises `Unprovable`."""
    try:
        text = (audit / "key.pub").read_text(encoding="ascii").strip()
        Key(text)
    except (OSError, ValueError) as error:
        raise Unprovable(f"no key to check with: {error}") from None
    return text


def trusted(audit: Path, key_text: str | None = None) -> Key:
    """The key of the log, or another one, with those that the rotations of the log make trusted by it. Raises
    `Unprovable`."""
    text = read_key(audit) if key_text is None else key_text
    try:
        return Key(text, rotations(audit))
    except (OSError, ValueError) as error:
        raise Unprovable(f"no key to check with: {error}") from None


def carried(audit: Path) -> dict[str, list[str]]:
    """What a proof file has besides, for who holds a key that was replaced: the notes that lead from key to key."""
    notes = rotations(audit)
    return {"rotations": notes} if notes else {}


def signed_head(note: str, key: Key) -> tuple[str, Head]:
    """The shard and the head of a checkpoint. Raises `Unprovable` when it is none that was signed with this key."""
    shard = note.split("\n")[0].rpartition("/")[2]
    try:
        head = head_of(note)
    except ValueError:
        raise Unprovable("it is not a checkpoint") from None
    if not key.signed(note, shard):
        raise Unprovable(f"the checkpoint of size {head.size} is not signed with the key {key.name}")
    return shard, head


def newest_head(folder: Path, key: Key) -> Head:
    """The newest signed head of a shard, which stands beside its segments. Raises `Unprovable`."""
    try:
        note = (folder / "checkpoint").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Unprovable(f"shard {folder.name} has no checkpoint: {type(error).__name__}") from None
    shard, head = signed_head(note, key)
    if shard != folder.name:
        raise Unprovable(f"the checkpoint of shard {folder.name} is that of {shard}")
    return head


def prove(folder: Path, wanted: Callable[[int, bytes], bool], key: Key) -> list[Proof]:
    """Proves those records of a shard that are `wanted`, by seq and line, against its newest checkpoint, in one pass.

    Raises `Unprovable`, and `NotSigned` when the checkpoint does not cover one of them.
    """
    head = newest_head(folder, key)
    hashes = SpanHashes([(0, head.size)])
    lines: dict[int, bytes] = {}
    for seq, (leaf, line) in enumerate(log_leaves(folder)):
        if line is not None and wanted(seq, line):
            if seq >= head.size:
                raise NotSigned(f"no checkpoint covers {folder.name}:{seq} yet; one will, at the latest at a stop")
            lines[seq] = line
            hashes.watch(inclusion(seq, head.size))
        if seq < head.size:
            hashes.add(leaf)
    if hashes.size < head.size or hashes[0, head.size] != head.root:
        raise Unprovable(f"shard {folder.name} is not what was signed: see toolgate audit verify")
    return [
        Proof(folder.name, seq, line, [hashes[span] for span in inclusion(seq, head.size)], head)
        for seq, line in lines.items()
    ]


def prove_call(audit: Path, call_id: str) -> list[Proof]:
    """A proof of each record of a call, by shard and seq; empty when there is none. `audit` is `HOME/audit`.

    Raises `Unprovable`, also when a shard without such a record was altered, and `NotSigned`.
    """
    key = trusted(audit)
    named = orjson.dumps({"call_id": call_id})[1:-1]
    found = (
        prove(folder, lambda _, line: named in line and _is_of(line, call_id), key) for folder in query.shards(audit)
    )
    return [proof for proofs in found for proof in proofs]


def _is_of(line: bytes, call_id: str) -> bool:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(record, dict) and record.get("call_id") == call_id


def proof_file(proofs: Iterable[Proof], key_text: str, home: Path | None = None) -> dict[str, Json]:
    """What goes to the outsider. With `home` each entry has `content_key` (hex), the key of that one record's content,
    and `blob` where that is what it opens, or `unrevealed`, why there is none. Raises `OSError`, `ValueError` when the
    keys of the home cannot be read."""
    entries = [proof.entry() for proof in proofs]
    if home is not None:
        with closing(KeyStore(home / "state.db", master_key(home))) as keys:
            for entry in entries:
                _reveal(entry, keys, home / "audit")
    return {"v": 1, "key": key_text, "records": list(entries)}


def _reveal(entry: dict[str, Json], keys: KeyStore, audit: Path) -> None:
    try:
        key, blob = Contents(keys, audit, OsDisk()).reveal(orjson.loads(str(entry["line"])))
    except Unreadable as why:
        entry["unrevealed"] = str(why)
    else:
        entry["content_key"] = key.hex()
        if blob is not None:
            entry["blob"] = b64encode(blob).decode()
