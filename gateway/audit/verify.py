"""Checks a ledger offline: `python verify.py DIR [--key FILE] [--head FILE] [--json]`, DIR being `HOME/audit`.

Runs alone, on the standard library and with `notes.py` and `pieces.py` beside it. It takes no lock, writes nothing,
decrypts nothing, and ignores the unfinished tail of a live log. It proves what is below the newest checkpoint it is
shown; it cannot know of records cut off after that, so keep heads elsewhere and pass them with `--head`. Of segments
that were archived it checks the leaf hashes that were left, and with `--archive` the lines.
Exit: 0 all records stand, 1 something was altered, 2 unreadable.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

try:
    from gateway.audit.notes import Head, Key, head_of
    from gateway.audit.pieces import LEAF, SEALED, Chunk, chunks, pieces
    from gateway.audit.pieces import segments as segments
    from gateway.audit.pieces import whole_lines as whole_lines
except ImportError:  # run alone, the files in one folder
    sys.path.append(str(Path(__file__).parent))  # `python -I` leaves it out
    from notes import Head, Key, head_of  # type: ignore[import-not-found, no-redef]  # the same file
    from pieces import LEAF, SEALED, Chunk, chunks, pieces  # type: ignore[import-not-found, no-redef]  # the same

_HEADER = re.compile(rb'\{"v":1,"shard":"([^"]*)","seq":([0-9]{1,20}),"prev":"([0-9a-f]{64})",')
_BLOB = re.compile(rb'"content":\{"key":"(?:[^"\\]|\\.)*","blob":"([0-9a-f]{64})"')
_ARCHIVED = re.compile(rb'"type":"log\.archived","first":[0-9]+,"last":([0-9]+),')


@dataclass(frozen=True)
class Fault:
    """The first record that does not stand: its seq, the segment file and the line (from 1) where it is, and why."""

    seq: int
    reason: str
    segment: str = "-"
    line: int = 0


@dataclass(frozen=True)
class ShardResult:
    """One shard: `records` stand in a row from the first, with `root` over them (hex). `covered` are signed for.

    The lines of the first `archived` are elsewhere: their hashes stand, and what they say was not looked at.
    """

    shard: str
    ok: bool
    records: int
    covered: int
    root: str
    fault: Fault | None = None
    archived: int = 0

    def __str__(self) -> str:
        if self.fault is None:
            elsewhere = f" archived={self.archived}" if self.archived else ""
            return f"ok shard={self.shard} records={self.records}{elsewhere} root={self.root}"
        seq, reason, segment, line = astuple(self.fault)
        return f"FAIL shard={self.shard} seq={seq} segment={segment} line={line} reason={reason}"


@dataclass(frozen=True)
class Start:
    """Where a walk begins: the records before `size` are taken as given by their compact range."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()
    leaf: bytes = bytes(32)


class Unreadable(Exception):
    """There is no ledger there, or no key to check it with."""


def _root(peaks: Sequence[bytes]) -> bytes:
    root = peaks[-1] if peaks else sha256(b"").digest()
    for peak in reversed(peaks[:-1]):
        root = sha256(b"\x01" + peak + root).digest()
    return root


class Walk:
    """Reads a shard's lines in order, and compares the tree with each head as it gets there.

    After `run`: `size`, `peaks`, `leaf` of the records that stand in a row; `fault` if one below the last head, or
    before the last segment, does not.
    """

    def __init__(self, folder: Path, key: Key, heads: Sequence[Head], start: Start | None = None) -> None:
        start = start or Start()
        self.size, self.peaks, self.leaf = start.size, list(start.peaks), start.leaf
        self.fault: Fault | None = None
        self.blobs: Path | None = None
        self.archive: Path | None = None
        self.archived = 0
        self._gone = self._said = 0  # below which lines are elsewhere, in truth and as the log itself says
        self._folder, self._key, self._start = folder, key, start.size
        self._due = sorted((head for head in heads if head.size >= start.size), key=lambda h: (h.size, h.leaf is None))
        self._fresh: list[bytes] = []  # leaves since the last head that agreed, not in `peaks` yet
        self._prevs: dict[int, bytes] = {}  # seq → the `prev` it has, where that is not the leaf before it
        self._segments: list[tuple[int, str]] = []
        self._last_line = b"{}"
        shard = folder.name.encode().replace(b"%", b"%%")
        self._begin = b'{"v":1,"shard":"%b","seq":%%d,"prev":"%%b",' % shard

    def run(self) -> None:
        self._meet_heads()
        paths = [path for path in pieces(self._folder, self.archive) if int(path.stem) >= self._start]
        for path in paths:
            if self.fault is None:
                self._segment(path, path == paths[-1])
        if self.fault is None and self._gone > self._said:
            self._fail(self._said, "its line is gone, and no record says that it was archived")
        if self.fault is None and self._due:
            self._fail(self._suspect(), f"the log does not go on here, and {self._due[-1].size} records were signed")
        self.peaks, self._fresh = self._peaks_with(self._fresh), []

    def _segment(self, path: Path, is_last: bool) -> None:
        self._segments.append((int(path.stem), path.name))
        if int(path.stem) != self.size and self._gone > self.size - len(self._fresh):
            self._fail(self.size - len(self._fresh), "a leaf hash of this or another archived record is gone or added")
        elif int(path.stem) != self.size:
            self._fail(self._suspect(), f"the log does not go on here, but in {path.name}")
        elif path.suffix == ".leaves":
            self._archived_segment(path)
        else:
            self._lines(path, is_last)

    def _archived_segment(self, path: Path) -> None:
        """Takes the leaf hashes of lines that are elsewhere; only the heads can tell whether they are the true ones."""
        octets = path.read_bytes()
        leaves = [octets[at : at + LEAF] for at in range(0, len(octets), LEAF)]
        if len(octets) % LEAF:
            self._fail(self.size + len(leaves) - 1, "its archived leaf hash is cut")
        while leaves and self.fault is None:
            until = self._due[0].size - self.size if self._due else len(leaves)
            run, leaves = leaves[:until], leaves[until:]
            self._fresh += run
            self.leaf, self.size, self.archived = run[-1], self.size + len(run), self.archived + len(run)
            self._gone = self.size
            self._meet_heads()

    def _lines(self, path: Path, is_last: bool) -> None:
        for chunk in chunks(path):
            taken = 0
            while taken < chunk.count and self.fault is None:
                until = min(chunk.count, taken + self._due[0].size - self.size) if self._due else chunk.count
                if not self._take_all(chunk, taken, until):
                    for line in chunk.lines(taken, until):
                        if self.fault is not None or not self._take(line, is_last and not self._due):
                            return
                self._meet_heads()
                taken = until

    def _take_all(self, chunk: Chunk, first: int, end: int) -> bool:
        """Takes lines that are all as they must be, many at once; when one is not, none of them."""
        leaves = chunk.leaves(first, end)
        prevs = b"".join([self.leaf, *leaves]).hex("\n", 32).encode().split(b"\n")
        begins = list(map(self._begin.__mod__, zip(count(self.size), prevs[:-1])))
        plain = chunk.without_content(first, end)
        if not chunk.begin(first, begins) or not all(map(self._blob_stands, plain)):
            return False
        self._hear(plain)
        self._fresh += leaves
        self.leaf, self._last_line = leaves[-1], next(chunk.lines(end - 1, end))
        self.size += len(leaves)
        return True

    def _take(self, line: bytes, in_tail: bool) -> bool:
        """Takes one line, or says what is wrong with it. False when nothing after it can be looked at."""
        begin = self._begin % (self.size, self.leaf.hex().encode())
        if not line.startswith(begin) and not self._accept(line, in_tail):
            return False
        self.leaf = sha256(b"\x00" + line).digest()
        self._fresh.append(self.leaf)
        self._last_line = line
        self.size += 1
        self._hear([line])
        if not self._blob_stands(line):
            self._fail(self.size - 1, "its blob was altered")
        return True

    def _hear(self, lines: Iterable[bytes]) -> None:
        """Notes down what the log says of its own archive."""
        for line in lines:
            found = _ARCHIVED.search(line)
            if found:
                self._said = max(self._said, int(found[1]) + 1)

    def _accept(self, line: bytes, in_tail: bool) -> bool:
        """A line that does not begin as it must. Only a wrong `prev` below a head lets the walk go on: the head will
        tell whether this record was altered or the one before it."""
        if in_tail:
            return False
        found = _HEADER.match(line)
        if found and found[1] == self._folder.name.encode() and int(found[2]) == self.size and self._due:
            self._prevs[self.size] = bytes.fromhex(found[3].decode())
            return True
        if self._prevs:
            self._fail(self._suspect(), "altered, or the record after it")
        elif self._suspect() < self.size:
            self._fail(self._suspect(), "not JSON")
        elif found and int(found[2]) < self.size and found[3].decode() != self.leaf.hex():
            self._fail(int(found[2]), "two lines have this seq, or it was moved")
        else:
            self._fail(self.size, "not the record that belongs here")
        return False

    def _meet_heads(self) -> None:
        """Compares with the heads of this size. What agrees is proven; else the altered record is looked for."""
        while self._due and self._due[0].size == self.size and self.fault is None:
            head = self._due[0]
            peaks = self._peaks_with(self._fresh)
            if _root(peaks) != head.root or head.leaf not in (None, self.leaf):
                self._fail(*self._blame(head))
                return
            if self._prevs:
                self._fail(min(self._prevs), "it does not continue the record before it, and was signed so")
            self._due.pop(0)
            self.peaks, self._fresh, self._prevs = peaks, [], {}

    def _blame(self, head: Head) -> tuple[int, str]:
        """Which record since the last good head was altered: the one whose true leaf, as its successor's `prev` (or
        the head) still has it, makes the tree agree with the head."""
        if not self._key.signed(head.note, self._folder.name):
            return max(0, head.size - 1), "the checkpoint over it was altered: its signature is not valid"
        base = self.size - len(self._fresh)
        if not self._fresh or _root(self._peaks_with(self._fresh)) == head.root:
            return max(0, head.size - 1), "its checkpoint names another leaf" if head.leaf else "two logs were signed"
        true = {seq - 1: prev for seq, prev in self._prevs.items() if seq > base}
        if head.leaf is not None and head.leaf != self.leaf:
            true[self.size - 1] = head.leaf
        first = min(self._prevs, default=self.size)
        if self._agrees(head, true):
            return min(true), "altered: its hash is not the one that was signed"
        if self._agrees(head, {seq: leaf for seq, leaf in true.items() if seq >= first}):
            return first, "altered: it does not continue the record before it"
        if self._prevs and self._gone <= base:
            return max(base, first - 1), "altered, or the record after it"
        return base, f"this or another record before {self.size} was altered, and those after it made to fit"

    def _agrees(self, head: Head, true: dict[int, bytes]) -> bool:
        base = self.size - len(self._fresh)
        leaves = [true.get(base + i, leaf) for i, leaf in enumerate(self._fresh)]
        return bool(true) and _root(self._peaks_with(leaves)) == head.root

    def _peaks_with(self, leaves: Sequence[bytes]) -> list[bytes]:
        """The compact range with these leaves after it, merged level by level."""
        left, size, right, nodes = self.peaks.copy(), self.size - len(self._fresh), list[bytes](), list(leaves)
        while nodes:
            if size & 1:
                nodes.insert(0, left.pop())
            if len(nodes) & 1:
                right.append(nodes.pop())
            nodes = [sha256(b"\x01" + a + b).digest() for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
            size >>= 1
        return left + right[::-1]

    def _suspect(self) -> int:
        if self._prevs:
            return min(self._prevs) - 1
        try:
            json.loads(self._last_line)
        except ValueError:
            return self.size - 1
        return self.size

    def _blob_stands(self, line: bytes) -> bool:
        """Whether the blob that a line names is what it was; True also when it has none, or it was dropped."""
        if self.blobs is None or line.endswith(SEALED[:-1]):
            return True
        found = _BLOB.search(line)
        path = None if found is None else self.blobs / found[1].decode()
        return path is None or not path.exists() or sha256(path.read_bytes()).hexdigest() == path.name

    def _fail(self, seq: int, reason: str) -> None:
        first, name = next(((f, n) for f, n in reversed(self._segments) if f <= seq), (seq, "-"))
        self.fault = Fault(seq, reason, name, seq - first + 1)


def rotations(folder: Path) -> list[str]:
    """The notes by which keys were replaced by others, oldest first. `folder` is `HOME/audit`. Raises `OSError`,
    `ValueError`."""
    try:
        lines = (folder / "rotations").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    said = [json.loads(line) for line in lines]
    if not all(isinstance(each, dict) and isinstance(each.get("signed"), str) for each in said):
        raise ValueError("the file rotations was altered")
    return [each["signed"] for each in said]


def read_heads(
    folder: Path, key: Key, more: Iterable[str] = (), history: bytes | None = None
) -> tuple[list[Head], Fault | None]:
    """The heads of a shard: the newest, the history, and `more` notes from elsewhere that are of this shard."""
    try:
        newest = (folder / "checkpoint").read_text(encoding="utf-8")
        heads = [head_of(newest)]
    except (OSError, ValueError) as error:
        return [], Fault(0, f"the checkpoint cannot be read: {type(error).__name__}")
    if not key.signed(newest, folder.name):
        return [], Fault(max(0, heads[0].size - 1), "the checkpoint was altered: its signature is not valid")
    heads += [head_of(note) for note in more if note.startswith(f"{key.name}/{folder.name}\n")]
    heads += key.stated(folder.name)
    try:
        octets = (folder / "checkpoints").read_bytes() if history is None else history
        entries = [json.loads(line) for line in octets.split(b"\n")[:-1]]
        heads += [head_of(entry["note"], b64decode(entry["leaf"], validate=True)) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], Fault(max(0, heads[0].size - 1), f"the history of checkpoints was altered: {type(error).__name__}")
    largest = max(heads, key=lambda head: head.size)
    if not key.signed(largest.note, folder.name):
        return [], Fault(max(0, largest.size - 1), "the history of checkpoints was altered: a signature is not valid")
    return heads, None


def verify(
    folder: Path, key_text: str | None = None, heads: Sequence[str] = (), archive: Path | None = None
) -> list[ShardResult]:
    """Checks every shard under `HOME/audit`. `heads` are checkpoints kept elsewhere, `archive` a folder of archived
    segments, by shard. Raises `Unreadable`."""
    try:
        key_now = (folder / "key.pub").read_text(encoding="ascii") if key_text is None else key_text
        key = Key(key_now, notes := rotations(folder))
    except (OSError, ValueError) as error:
        raise Unreadable(f"no key to check with: {error}") from None
    shards = {path.name for path in folder.glob("*") if pieces(path) or (path / "checkpoint").exists()}
    shards |= key.shards()
    for note in heads:
        shard = note.split("\n")[0].rpartition("/")[2]
        if not key.signed(note, shard):
            raise Unreadable("a head that was passed is not signed with this key")
        shards.add(shard)
    if not shards:
        raise Unreadable(f"no shard under {folder}")
    results = [verify_shard(folder / shard, key, heads, archive) for shard in sorted(shards)]
    # The newest heads of a live log may be of a key that took the place of this one meanwhile.
    return results if rotations(folder) == notes else verify(folder, key_text, heads, archive)


def verify_shard(folder: Path, key: Key, more: Iterable[str] = (), archive: Path | None = None) -> ShardResult:
    """Checks one shard. A fault below the newest head fails it, and so does one anywhere but at the very end."""
    heads, fault = read_heads(folder, key, more)
    if fault is not None:
        return ShardResult(folder.name, False, 0, 0, "", fault)
    walk = Walk(folder, key, heads)
    walk.blobs, walk.archive = folder.parent / "blobs", archive
    walk.run()
    covered, root = max(head.size for head in heads), _root(walk.peaks).hex()
    return ShardResult(folder.name, walk.fault is None, walk.size, covered, root, walk.fault, walk.archived)


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Checks a Toolgate ledger offline.")
    parser.add_argument("dir", type=Path, help="the folder HOME/audit")
    parser.add_argument("--key", type=Path, help="a public key kept elsewhere, instead of DIR/key.pub")
    parser.add_argument("--head", type=Path, action="append", default=[], help="a checkpoint kept elsewhere")
    parser.add_argument("--archive", type=Path, help="a folder of archived segments, whose lines are checked too")
    parser.add_argument("--json", action="store_true", help="one JSON object: ok, shards, first_bad")
    options = parser.parse_args(arguments)
    try:
        key = options.key.read_text(encoding="ascii") if options.key else None
        heads = [path.read_text(encoding="utf-8") for path in options.head]
        results = verify(options.dir, key, heads, options.archive)
    except (Unreadable, OSError, ValueError) as error:
        sys.stderr.write(f"unreadable: {error}\n")
        return 2
    shards = [asdict(result) for result in results]
    first_bad = next((shard for shard in shards if not shard["ok"]), None)
    found = {"ok": first_bad is None, "shards": shards, "first_bad": first_bad}
    sys.stdout.write("".join(f"{line}\n" for line in ([json.dumps(found)] if options.json else results)))
    return 0 if first_bad is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
