"""Random tampering with a ledger, of eight kinds. Each says which record the finding must name.

Whoever tampers has the whole disk; who forks has the signing key too. They do not have the checkpoint that was
published before.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from gateway.audit.chain import Range
from gateway.audit.checkpoint import Signer
from gateway.audit.verify import segments, verify
from tests.gateway.audit.disks import SMALL, intent, ledger, one, write_calls


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the history of checkpoints."""

    size: int
    note: str
    line: bytes


@dataclass(slots=True)
class Log:
    """A closed ledger in memory: what stands in its segments, by their first seq, and the checkpoints over it."""

    parts: dict[int, list[bytes]]
    history: list[Entry]
    signer: Signer

    @property
    def size(self) -> int:
        """Records, all of them signed for."""
        return sum(len(lines) for lines in self.parts.values())

    def at(self, seq: int) -> tuple[list[bytes], int]:
        """The lines of the segment that a record is in, and which of them it is."""
        first = max(first for first in self.parts if first <= seq)
        return self.parts[first], seq - first

    def line(self, seq: int) -> bytes:
        """One record, with its newline."""
        lines, number = self.at(seq)
        return lines[number]

    def cut(self, size: int, rest: bytes = b"") -> None:
        """Ends the log after so many records, and with a part of the next one."""
        self.parts = {first: lines[: size - first] for first, lines in self.parts.items() if first <= size}
        self.parts[max(self.parts)].append(rest)

    def forget(self, size: int) -> None:
        """Takes away every checkpoint of more than so many records."""
        self.history = [entry for entry in self.history if entry.size <= size]

    def put(self, shard: Path) -> None:
        """Writes it in place of what is in the shard's folder."""
        for path in segments(shard):
            path.unlink()
        for first, lines in self.parts.items():
            (shard / f"{first:020d}.jsonl").write_bytes(b"".join(lines))
        (shard / "checkpoints").write_bytes(b"".join(entry.line + b"\n" for entry in self.history))
        (shard / "checkpoint").write_text(self.history[-1].note)


def write_log(home: Path) -> None:
    """A ledger of some segments and many checkpoints, closed."""

    async def run() -> None:
        async with ledger(home, tuning=replace(SMALL, segment=12_000, checkpoint_records=7)) as writer:
            await write_calls(writer, 50)
            await asyncio.gather(*(writer.append(intent(f"x{number}")) for number in range(30)))

    asyncio.run(run())
    assert len(segments(one(home))) >= 4


def read_log(home: Path) -> Log:
    """The log of the only shard."""
    entries = (one(home) / "checkpoints").read_bytes().splitlines()
    notes = [(json.loads(line)["note"], line) for line in entries]
    parts = {int(path.stem): path.read_bytes().splitlines(keepends=True) for path in segments(one(home))}
    history = [Entry(int(note.split("\n")[1]), note, line) for note, line in notes]
    gateway = (home / "audit" / "key.pub").read_text().split("+")[0]  # of its first key
    return Log(parts, history, Signer.load(home / "signing.key", gateway))


@dataclass(frozen=True, slots=True)
class Expected:
    """The finding must name a record from `first` to `last`; `published` if it takes the published checkpoint."""

    first: int
    last: int
    published: bool = False


def _exactly(seq: int, *, published: bool = False) -> Expected:
    return Expected(seq, seq, published)


def flip(log: Log, dice: random.Random) -> Expected:
    """One byte becomes another."""
    seq = dice.randrange(log.size)
    lines, number = log.at(seq)
    octets = bytearray(lines[number])
    offset = dice.randrange(len(octets))
    octets[offset] = dice.choice([octet for octet in range(256) if octet != octets[offset]])
    lines[number] = bytes(octets)
    return _exactly(seq)


def drop(log: Log, dice: random.Random) -> Expected:
    """A record, or some in a row, taken out."""
    seq = dice.randrange(log.size)
    lines, number = log.at(seq)
    del lines[number : number + dice.choice([1, 1, 2, 5])]
    return _exactly(seq)


def reorder(log: Log, dice: random.Random) -> Expected:
    """Two records exchanged."""
    former, latter = sorted(dice.sample(range(log.size), 2))
    (lines, number), (others, other) = log.at(former), log.at(latter)
    lines[number], others[other] = others[other], lines[number]
    return _exactly(former)


def insert(log: Log, dice: random.Random) -> Expected:
    """A record again at another place, or a forged one that continues the chain, or something that is none."""
    place = dice.randrange(1, log.size)
    lines, number = log.at(place)
    how = dice.choice(["copy", "forged", "other"])
    if how == "copy":
        source = dice.randrange(log.size)
        lines.insert(number, log.line(source))
        return _exactly(min(source, place))
    forged = lines[number].replace(b'"ts":"2', b'"ts":"3')
    lines.insert(number, forged if how == "forged" else b'{"v":1,"n":%d}\n' % place)
    return _exactly(place)


def truncate(log: Log, dice: random.Random) -> Expected:
    """The end cut off, at a record or inside one; the checkpoints left, or taken back to one that fits."""
    size = dice.randrange(log.size)
    line = log.line(size)
    log.cut(size, line[: dice.randrange(len(line))] if dice.random() < 0.5 else b"")
    published = dice.random() < 0.5
    if published:
        log.forget(size)
    return _exactly(size, published=published)


def fork(log: Log, dice: random.Random) -> Expected:
    """Another history from some record on, chained as it must be; half of the time signed with the true key too."""
    seq, size = dice.randrange(log.size), log.size
    sizes = [entry.size for entry in log.history]
    leaves = _rechained(log, seq)
    if dice.random() < 0.5:
        return Expected(max(each for each in sizes if each <= seq), seq)
    log.history = [entry if entry.size <= seq else _signed(log, leaves, entry.size) for entry in log.history]
    return Expected(seq, size - 1, published=True)


def swap(log: Log, dice: random.Random) -> Expected:
    """The contents of two segments exchanged."""
    former, latter = sorted(dice.sample(sorted(log.parts), 2))
    log.parts[former], log.parts[latter] = log.parts[latter], log.parts[former]
    return _exactly(former)


def old_head(log: Log, dice: random.Random) -> Expected:
    """A genuine checkpoint of the past as the newest, and the log cut to it; the later ones left or taken away."""
    past = dice.choice([entry for entry in log.history if entry.size < log.size])
    log.cut(past.size)
    published = dice.random() < 0.5
    if published:
        log.forget(past.size)
    else:
        log.history.append(past)  # `put` writes the last as the newest
    return _exactly(past.size, published=published)


KINDS: dict[str, Callable[[Log, random.Random], Expected]] = {
    each.__name__: each for each in (flip, drop, reorder, insert, truncate, fork, swap, old_head)
}


def missed(home: Path, kind: str, dice: random.Random, scratch: Path) -> str | None:
    """Tampers once with a copy of a ledger; what is wrong with the finding, or `None` if it is as it must be."""
    log = read_log(home)
    published, was = log.history[-1].note, _octets(log)
    expected = KINDS[kind](log, dice)
    assert _octets(log) != was, f"{kind} changed nothing"
    folder = scratch / "audit"
    shutil.copytree(home / "audit", folder)
    try:
        log.put(folder / "w1")
        (result,) = verify(folder, heads=[published] if expected.published else [])
    finally:
        shutil.rmtree(folder)
    if result.fault is None:
        return f"{kind}: not found, {expected}"
    if not expected.first <= result.fault.seq <= expected.last:
        return f"{kind}: {result.fault} where {expected}"
    return None


def _octets(log: Log) -> bytes:
    lines = [line for _, lines in sorted(log.parts.items()) for line in lines]
    return b"".join(lines + [entry.line for entry in log.history])


def _rechained(log: Log, seq: int) -> list[bytes]:
    """Alters a record and makes every later `prev` fit; returns all leaves."""
    leaves: list[bytes] = []
    for first in sorted(log.parts):
        lines = log.parts[first]
        for number, line in enumerate(lines):
            if first + number == seq:
                line = line.replace(b'"ts":"2', b'"ts":"3')
            elif first + number > seq:
                start = line.index(b'"prev":"') + 8
                line = line[:start] + leaves[-1].hex().encode() + line[start + 64 :]
            lines[number] = line
            leaves.append(sha256(b"\x00" + line[:-1]).digest())
    return leaves


def _signed(log: Log, leaves: list[bytes], size: int) -> Entry:
    tree = Range()
    for leaf in leaves[:size]:
        tree.append(leaf)
    note = log.signer.sign("w1", size, tree.root()).decode()
    line = json.dumps({"note": note, "leaf": b64encode(leaves[size - 1]).decode()}).encode()
    assert b64decode(note.split("\n")[2]) == tree.root()
    return Entry(size, note, line)
