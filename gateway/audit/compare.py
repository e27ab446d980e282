"""Two signed heads of one shard compared over its log: did it only grow between them, and by what (RFC 9162 §2.1.4)?

One pass over the segments. It takes no lock, writes nothing and decrypts nothing. Which record was altered, when they
do not agree, is told by `verify.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from gateway.audit.notes import Head, Key
from gateway.audit.prove import SpanHashes, Unprovable, consistency, log_leaves, newest_head, signed_head
from gateway.audit.verify_proof import verify_consistency


@dataclass(frozen=True, slots=True)
class Difference:
    """Two signed heads of a shard, over its log. `fault` says why they do not agree, `size` at which size.

    When they do: `types` counts what was appended between them, `path` proves that nothing else was done.
    """

    shard: str
    old: Head
    new: Head
    types: Counter[str]
    path: Sequence[bytes] = ()
    size: int | None = None
    fault: str | None = None


def compare(audit: Path, note: str, other: str | None, key: Key) -> Difference:
    """Two checkpoints of one shard, or one and the newest in the log. `audit` is `HOME/audit`.

    Raises `Unprovable` when one is no checkpoint of that shard signed with this key.
    """
    shard, head = signed_head(note, key)
    if other is None:
        latest = newest_head(audit / shard, key)
    else:
        second, latest = signed_head(other, key)
        if second != shard:
            raise Unprovable(f"one checkpoint is of shard {shard}, the other of {second}")
    old, new = sorted((head, latest), key=lambda each: each.size)
    spans = consistency(old.size, new.size)
    hashes = SpanHashes([(0, old.size), (0, new.size), *spans])
    types: Counter[str] = Counter()
    for seq, (leaf, line) in enumerate(islice(log_leaves(audit / shard), new.size)):
        hashes.add(leaf)
        if seq >= old.size:
            types["archived" if line is None else _type(line)] += 1
    fault = _disagreement(old, new, hashes)
    if fault is not None:
        return Difference(shard, old, new, Counter(), (), *fault)
    path = [hashes[span] for span in spans]
    if not verify_consistency(old.size, new.size, old.root, new.root, path):
        raise Unprovable("the consistency proof does not hold")
    return Difference(shard, old, new, types, path)


def _disagreement(old: Head, new: Head, hashes: SpanHashes) -> tuple[int, str] | None:
    """The smallest size at which something does not agree, and what."""
    if old.size == new.size and old.root != new.root:
        return old.size, "two different trees of this size were signed"
    for head in (old, new):
        if hashes.size < head.size:
            return (
                head.size,
                f"the log goes on for {hashes.size} records only, and {head.size} were signed",
            )
        if hashes[0, head.size] != head.root:
            return head.size, "the log has another root there than was signed"
    return None


def _type(line: bytes) -> str:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "not JSON"
    return str(record.get("type")) if isinstance(record, dict) else "not a record"
