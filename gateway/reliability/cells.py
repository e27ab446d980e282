"""The past that policy knows, by cell: what the calls reserved, until it leaves its window. No I/O and no clock.

What one cell holds is in `windows.py`. Nothing here decides: a level says what was, and whether it still is so.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.aggregates import Cell, Ended, Entry, Level, Reservation
from gateway.reliability.windows import MADE, NOTHING, Held, Mark

_SWEEP_AT = 1024  # cells, or twice what the last sweep left: whichever is more


class Cells:
    """Cells by key. Memory is that of the entries still in their windows; the rest is forgotten as the table grows."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._flying: dict[str, list[tuple[Held, Mark]]] = {}
        self._version = 0  # one counter for all cells: a cell that was forgotten never gets an old version again
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        return len(self._held)

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
            here = self._held.setdefault(key, held)
            if here is not held:
                here.absorb(held)
            self._version += 1
            here.version = self._version

    def _add(self, entry: Entry, reservation: Reservation) -> tuple[Held, Mark]:
        held = self._held.get(entry.cell.key)
        if held is None:
            if len(self._held) >= self._sweep_at:
                self._sweep(reservation.at)
            held = self._held[entry.cell.key] = MADE[entry.cell.kind](entry.cell.within)
        self._version += 1
        held.version = self._version
        return held, held.add(Mark(reservation.call_id, reservation.at, entry.amount))

    def _sweep(self, now: float) -> None:
        """Forgets the cells with nothing left in their windows."""
        for held in self._held.values():
            held.forget(now - held.within)
        self._held = {key: held for key, held in self._held.items() if not held.idle()}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._held))
