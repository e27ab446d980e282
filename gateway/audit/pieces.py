"""A shard's pieces as they stand on disk: segments of lines, and the leaf hashes of those that were archived.

Part of `verify.py`, which it stands beside: it needs nothing but Python. It checks nothing, and ignores the unfinished
tail of a live log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

LEAF = 32  # bytes
SEALED = b'"}}\n'  # ends every line whose content is in it
_CHUNK = 1 << 16  # bytes read at once
_BEGUN = sha256(b"\x00")


def segments(folder: Path) -> list[Path]:
    """The segments of a shard whose lines are here, in order."""
    return _numbered(folder, "jsonl")


def pieces(folder: Path, archive: Path | None = None) -> list[Path]:
    """All of a shard, in order: segments, and for one that is in no folder here the file of its leaf hashes.

    That file, `<first seq>.leaves`, has 32 bytes for each record: the full level-0 tiles of C2SP tlog-tiles, one after
    another, if the segments began at multiples of 256. `archive` is a folder that has archived segments by shard.
    """
    found = {path.stem: path for path in _numbered(folder, "leaves")}
    if archive is not None:
        found |= {path.stem: path for path in segments(archive / folder.name) if path.stem in found}
    found |= {path.stem: path for path in segments(folder)}
    return [found[stem] for stem in sorted(found)]


def archived(folder: Path) -> list[Path]:
    """The files of leaf hashes of those segments of a shard that are not here, in order."""
    return [path for path in pieces(folder) if path.suffix == ".leaves"]


def _numbered(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*.{suffix}") if len(path.stem) == 20 and path.stem.isdigit())


def piece_leaves(path: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """The leaf hash of each record of a piece, and its line where that is here."""
    if path.suffix == ".leaves":
        octets = path.read_bytes()
        yield from ((octets[at : at + LEAF], None) for at in range(0, len(octets), LEAF))
        return
    for chunk in chunks(path):
        yield from zip(chunk.leaves(0, chunk.count), chunk.lines(0, chunk.count), strict=True)


def whole_lines(path: Path) -> Iterator[bytes]:
    """The finished lines of a segment, without newlines: up to the first NUL, where unused space begins."""
    for chunk in chunks(path):
        yield from chunk.lines(0, chunk.count)


def chunks(path: Path) -> Iterator[Chunk]:
    """The same, many at a time."""
    rest = b""
    with path.open("rb") as file:
        while fresh := file.read(_CHUNK):
            used, nul, _ = fresh.partition(b"\x00") if b"\x00" in fresh else (fresh, b"", b"")
            chunk = Chunk(rest + used)
            yield chunk
            if nul:
                return
            rest = chunk.rest()


class Chunk:
    """Lines as they stand in a file, not copied: each begins at one of `_begins` and ends before the next one."""

    def __init__(self, octets: bytes) -> None:
        self._octets, self._begins = octets, [0]
        while end := octets.find(b"\n", self._begins[-1]) + 1:
            self._begins.append(end)
        self.count = len(self._begins) - 1

    def lines(self, first: int, end: int) -> Iterator[bytes]:
        return (self._octets[a : b - 1] for a, b in pairwise(self._begins[first : end + 1]))

    def leaves(self, first: int, end: int) -> list[bytes]:
        """RFC 9162 §2.1.1."""
        leaves, octets = [], memoryview(self._octets)
        for a, b in pairwise(self._begins[first : end + 1]):
            leaf = _BEGUN.copy()
            leaf.update(octets[a : b - 1])
            leaves.append(leaf.digest())
        return leaves

    def begin(self, first: int, begins: Sequence[bytes]) -> bool:
        """Whether the lines from `first` on begin so, each in its turn."""
        return all(map(self._octets.startswith, begins, self._begins[first:]))

    def without_content(self, first: int, end: int) -> list[bytes]:
        """Those lines that do not have their content in them: it stands in a blob, or there is none."""
        octets, at = self._octets, self._begins[first : end + 1]
        return [octets[a : b - 1] for a, b in pairwise(at) if not octets.endswith(SEALED, a, b)]

    def rest(self) -> bytes:
        """What stands after the last whole line: the beginning of the next."""
        return self._octets[self._begins[-1] :]
