"""Declared state as it is kept in Redis: entries of a cell by their time, and back. It asks nothing itself.

What a cell holds is worked out by `reliability/windows.py`, as it is in memory; a copy is kept until its version is
another one. Taking compares versions in Redis, so an old copy never lets a call through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from gateway.aggregates import OF_VALUE, Cell, Level
from gateway.reliability.cells import Cells
from gateway.reliability.windows import MOST, NOTHING, Held, Lump, Mark, read, written
from gateway.stores.redis_words import SEPARATOR, cell_ms, happened
from gateway.stores.resp import Reply, Words

_MOST_COPIES = 4096
_LUMP = "\x1e"


class Copy:
    """A cell as it was at one version. `flights`: until when a call may still make it true."""

    __slots__ = ("entries", "flights", "held", "version")

    def __init__(self, cell: Cell, version: int, entries: Sequence[bytes]) -> None:
        self.version = version
        self.entries = len(entries) // 2
        self.flights: list[float] = []
        self.held: Held = read(cell.kind, cell.within, *self._parts(cell, entries))

    def _parts(self, cell: Cell, entries: Sequence[bytes]) -> tuple[list[Mark], list[Lump]]:
        marks: list[Mark] = []
        lumps: list[Lump] = []
        for at in range(0, len(entries), 2):
            member, time = entries[at].decode(), float(entries[at + 1])
            if member.startswith(_LUMP):
                begin, number, total = member[1:].split(SEPARATOR)
                lumps.append((time, float(begin), int(number), Decimal(total)))
                continue
            call, state, amount = member.split(SEPARATOR, 2)
            if state:
                self.flights.append(float(state[1:]))
            else:
                marks.append(Mark(call, time, Decimal(amount) if cell.kind == "sum" else amount))
        return marks, lumps

    def level(self, cell: Cell, now: float) -> Level:
        self.held.forget(now - cell.within)
        return Level(self.held.value(now), self.version, any(until > now for until in self.flights))


class Copies:
    """The cells that were looked at last."""

    def __init__(self) -> None:
        self._copies: dict[str, Copy] = {}

    def asking(self, cells: Sequence[Cell]) -> tuple[list[str], Words]:
        """Keys and arguments of `look.lua`."""
        keys = [key for cell in cells for key in (f"tg:cell:{cell.key}", f"tg:v:{cell.key}")]
        return keys, tuple(there.version if (there := self._copies.get(c.key)) else "" for c in cells)

    def levels(self, cells: Sequence[Cell], reply: Reply, now: float) -> dict[str, Level]:
        """What the cells hold, by the answer of `look.lua`."""
        return {cell.key: self._level(cell, said, now) for cell, said in zip(cells, reply, strict=True)}

    def _level(self, cell: Cell, said: Sequence[Reply], now: float) -> Level:
        version = int(said[0])
        if version == 0 and not (len(said) > 1 and said[1]):
            return Level(NOTHING[cell.kind], 0)
        copy = self._copies.pop(cell.key, None)
        if len(said) > 1 or copy is None or copy.version != version:
            copy = Copy(cell, version, said[1] if len(said) > 1 else [])
        self._copies[cell.key] = copy  # the latest at the end
        if len(self._copies) > _MOST_COPIES:
            del self._copies[next(iter(self._copies))]
        return copy.level(cell, now)

    def forget(self) -> None:
        """Redis is another one."""
        self._copies = {}


def crowded(cell: Cell, said: Sequence[Reply]) -> bool:
    """Whether a cell has so many entries that the oldest are to be folded."""
    return len(said) > 1 and len(said[1]) > 4 * MOST and cell.kind != "formerly"


def folding(cell: Cell, said: Sequence[Reply]) -> tuple[list[str], Words]:
    """Keys and arguments of `fold.lua`."""
    version, entries = int(said[0]), said[1]
    marks, lumps = written(Copy(cell, version, entries).held)
    stay = {happened(mark.call, mark.amount) for mark in marks}
    gone = [member for member in entries[::2] if member.decode() not in stay]
    words: list[str | bytes | int] = [version, len(gone), *gone]
    for lump in lumps:
        words += _lump(lump)
    return [f"tg:cell:{cell.key}", f"tg:v:{cell.key}"], tuple(words)


def adopting(past: Cells, only: frozenset[str] | None = None) -> Iterator[tuple[list[str], Words]]:
    """Keys and arguments of `adopt.lua`, for each cell; `only` those of these keys."""
    for key, held in past.held().items():
        if only is not None and key not in only:
            continue
        marks, lumps = written(held)
        words: list[str | bytes | int] = []
        for mark in marks:
            words += (repr(mark.at), happened(mark.call, mark.amount))
        for lump in lumps:
            words += _lump(lump)
        owner, _, value = key.rpartition(OF_VALUE)
        ttl = cell_ms(Cell("", key, "count", held.within))
        keys = [f"tg:cell:{key}", f"tg:v:{key}", "tg:version", f"tg:values:{owner}"]
        if words:
            yield keys, (ttl, value if owner else "", *words)


def _lump(lump: Lump) -> tuple[str, str]:
    at, begin, number, total = lump
    return repr(at), f"{_LUMP}{begin!r}{SEPARATOR}{number}{SEPARATOR}{total}"
