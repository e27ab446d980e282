"""The past that policy knows, by cell: what the calls reserved, until it leaves its window. No I/O and no clock.

What one cell holds is in `windows.py`. Nothing here decides: a level says what was, and whether it still is so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from gateway.aggregates import OF_VALUE, Cell, Ended, Entry, Level, Reservation
from gateway.reliability.windows import MADE, NOTHING, Held, Mark

MOST_VALUES = 65_536  # of one owner that one aggregate keeps apart: a cell takes most of a KiB, for up to a day
_SWEPT_FOR = 60.0  # seconds, in which what is full is not swept again
_SWEEP_AT = 1024  # cells, or twice what the last sweep left: whichever is more


class Cells:
    """Cells by key. Memory is that of the entries still in their windows; the rest is forgotten as the table grows."""

    def __init__(self, most_values: int = MOST_VALUES) -> None:
        self._most_values = most_values
        self._held: dict[str, Held] = {}
        self._values: Counter[str] = Counter()  # cells of one value, by what their keys have in common
        self._swept = 0.0
        self._flying: dict[str, list[tuple[Held, Mark]]] = {}
        self._version = 0  # one counter for all cells: a cell that was forgotten never gets an old version again
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        return len(self._held)

    def held(self) -> Mapping[str, Held]:
        """What every cell holds, by its key."""
        return self._held

    def look(self, cells: Iterable[Cell], now: float) -> dict[str, Level]:
        """What each cell holds at `now` (unix seconds), by its key. What has left its window by then is forgotten."""
        return {cell.key: self._level(cell, now) for cell in cells}

    def _level(self, cell: Cell, now: float) -> Level:
        held = self._held.get(cell.key)
        if held is None:
            return Level(NOTHING[cell.kind], 0)
        held.forget(now - cell.within)
        return Level(held.value(now), held.version, held.pending())

    def unchanged(self, reads: Iterable[tuple[Cell, Level]]) -> bool:
        """Whether every cell is as it was read, but for the passing of time."""
        held = self._held
        return all((there.version if (there := held.get(cell.key)) else 0) == level.version for cell, level in reads)

    def take(self, reservation: Reservation) -> Literal["changed", "full"] | None:
        """Reserves what a call asks for, or says why not: what it read is not so any more, or there is no room."""
        if not self.unchanged(reservation.reads):
            return "changed"
        if not self._room(reservation):
            return "full"
        self.reserve(reservation)
        return None

    def _room(self, reservation: Reservation) -> bool:
        """Whether there is a cell for every value that this call is the first to have."""
        if self._fits(reservation):
            return True
        if reservation.at - self._swept > _SWEPT_FOR:
            self._sweep(reservation.at)
        return self._fits(reservation)

    def _fits(self, reservation: Reservation) -> bool:
        keys = (entry.cell.key for entry in reservation.entries)
        return all(key in self._held or self._values[_shared(key)] < self._most_values for key in keys)

    def reserve(self, reservation: Reservation) -> None:
        """Adds the entries of one call; `settle` says later what came of it."""
        if not reservation.entries:
            return
        marks = self._flying.setdefault(reservation.call_id, [])
        marks += [self._add(entry, reservation) for entry in reservation.entries]

    def settle(self, reservation: Reservation, ended: Ended) -> None:
        """Ends what `reserve` began: `refused` takes the entries back exactly, the other two keep them.

        Only `done` makes a `formerly` true, at the time of the reservation.
        """
        for held, mark in self._flying.pop(reservation.call_id, ()):
            if held.settle(mark, ended):
                self._version += 1
                held.version = self._version

    def adopt(self, past: Cells) -> None:
        """Takes over cells in which every call has ended. What is here already of a call is not added again.

        Except to a sum or count so full that it does not tell its calls apart any more: then it is too high.
        """
        for key, held in past._held.items():
            here = self._held.get(key)
            if here is None:
                here = self._hold(key, held)
            else:
                here.absorb(held)
            self._version += 1
            here.version = self._version

    def restate(self, reservation: Reservation, ended: Ended, past: Cells) -> None:
        """Ends a call anew, `done` or `refused`, that ended without anybody knowing how, and so counts as `failed`.

        What keeps only the latest of its calls gets the one before it from `past`, which knows how this one ended.
        """
        for entry in reservation.entries:
            key = entry.cell.key
            here, told = self._held.get(key), past._held.get(key)
            if here is not None and ended == "refused":
                here.take_back(reservation.call_id, reservation.at)
            if told is not None and entry.cell.kind in ("formerly", "since"):
                if here is None:
                    here = self._hold(key, told)
                else:
                    here.absorb(told)
            if here is not None:
                self._version += 1
                here.version = self._version

    def _add(self, entry: Entry, reservation: Reservation) -> tuple[Held, Mark]:
        held = self._held.get(entry.cell.key)
        if held is None:
            if len(self._held) >= self._sweep_at:
                self._sweep(reservation.at)
            held = self._hold(entry.cell.key, MADE[entry.cell.kind](entry.cell.within))
        self._version += 1
        held.version = self._version
        return held, held.add(Mark(reservation.call_id, reservation.at, entry.amount))

    def _hold(self, key: str, held: Held) -> Held:
        self._held[key] = held
        if shared := _shared(key):
            self._values[shared] += 1
        return held

    def _sweep(self, now: float) -> None:
        """Forgets the cells with nothing left in their windows."""
        self._swept = now
        for held in self._held.values():
            held.forget(now - held.within)
        self._held = {key: held for key, held in self._held.items() if not held.idle()}
        self._values = Counter(shared for key in self._held if (shared := _shared(key)))
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._held))


def _shared(key: str) -> str:
    """What the keys of all values of one owner have in common; empty for a cell that is not of one value."""
    return key.rpartition(OF_VALUE)[0]
