"""Sliding windows of the five kinds of aggregate: what one cell holds. No I/O and no clock.

A window never prolongs a permission. It is exact up to `MOST` entries; beyond that the oldest are kept in lumps, each
under the time of the latest in it, so that counts and sums are upper bounds: what a lump holds stays a `SLICES`-th of
the window too long at most. An entry is in the window while it is younger than the window is long; one with a later
time than the look is in it too, because calls overtake each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort_right
from collections.abc import Iterable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal
from operator import attrgetter
from typing import Protocol

from gateway.aggregates import Ended, Kind

MOST = 4096  # entries of one window that are kept one by one
SLICES = 64  # lumps of a window: what happens in that part of it leaves it together
# Exact for every sum of doubles; what is longer is rounded up, and so is what is left of it later.
_EXACT = Context(prec=2000, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_ZERO = Decimal(0)
_at = attrgetter("at")

Value = bool | int | float


class Mark:
    """One entry of one call: an amount, a word, or itself. `into` is the lump that took it in, if one did."""

    __slots__ = ("amount", "at", "call", "gone", "into", "kept")

    def __init__(self, call: str, at: float, amount: Decimal | str | None) -> None:
        self.call = call
        self.at = at
        self.amount = amount
        self.kept = False  # it ended, and stays
        self.gone = False  # out of the window, or taken back
        self.into: _Lump | None = None


class _Lump:
    """Old entries of a full window, as one: under the time of the latest of them. `begin` is that of the first."""

    __slots__ = ("at", "begin", "gone", "number", "total")

    def __init__(self, begin: float) -> None:
        self.at = self.begin = begin
        self.number = 0
        self.total = _ZERO
        self.gone = False


class Held(Protocol):
    """What one cell holds. `floor` is the latest time that is out of the window."""

    version: int
    within: float

    def add(self, mark: Mark) -> Mark: ...
    def settle(self, mark: Mark, ended: Ended) -> bool:
        """Whether that changed what the cell holds."""
        ...

    def forget(self, floor: float) -> None: ...
    def value(self, now: float) -> Value: ...
    def pending(self) -> bool: ...
    def idle(self) -> bool: ...
    def absorb(self, past: Held) -> None:
        """Adds what another one of the same kind holds, without the calls that are here already."""
        ...

    def take_back(self, call: str, at: float) -> None:
        """Removes what a call added that has ended, except from where calls are not told apart any more."""
        ...


class _Window:
    """Marks by time, the oldest beyond `MOST` in lumps, those by time too. The kinds say what to add up."""

    __slots__ = ("lumps", "marks", "version", "within")

    def __init__(self, within: float) -> None:
        self.within = within
        self.version = 0
        self.marks: list[Mark] = []
        self.lumps: list[_Lump] = []

    def add(self, mark: Mark) -> Mark:
        marks = self.marks
        if marks and mark.at < marks[-1].at:
            insort_right(marks, mark, key=_at)
        else:
            marks.append(mark)
        self._gain(mark)
        if len(marks) > MOST:
            self._merge(marks.pop(0))
        return mark

    def settle(self, mark: Mark, ended: Ended) -> bool:
        if ended != "refused":
            self._keep(mark)
            return False
        if mark.into is not None:
            if not mark.into.gone:
                self._take_back(mark, mark.into)
        elif not mark.gone:
            place = bisect_left(self.marks, mark.at, key=_at)
            while self.marks[place] is not mark:
                place += 1
            del self.marks[place]
            self._lose(mark)
        return True

    def forget(self, floor: float) -> None:
        marks = self.marks
        if marks and marks[0].at <= floor:
            out = 0
            while out < len(marks) and marks[out].at <= floor:
                self._lose(marks[out])
                out += 1
            del marks[:out]
        while self.lumps and self.lumps[0].at <= floor:
            lump = self.lumps.pop(0)
            lump.gone = True
            self._lose_lump(lump)

    def pending(self) -> bool:
        return False

    def idle(self) -> bool:
        return not (self.marks or self.lumps)

    def absorb(self, past: Held) -> None:
        assert isinstance(past, _Window)
        here = {mark.call for mark in self.marks}
        for mark in past.marks:
            if mark.call not in here:
                self.settle(self.add(Mark(mark.call, mark.at, mark.amount)), "failed")
        for lump in past.lumps:
            insort_right(self.lumps, lump, key=_at)
            self._gain_lump(lump)

    def take_back(self, call: str, at: float) -> None:
        for mark in [mark for mark in self.marks if mark.call == call]:
            self.settle(mark, "refused")

    def _merge(self, oldest: Mark) -> None:
        self.forget(oldest.at - self.within)  # where nobody looks
        if not self.lumps or oldest.at - self.lumps[-1].begin >= self.within / SLICES:
            self.lumps.append(_Lump(oldest.at))
        lump = oldest.into = self.lumps[-1]
        lump.at = max(lump.at, oldest.at)
        self._give(oldest, lump)

    def _gain(self, mark: Mark) -> None: ...
    def _lose(self, mark: Mark) -> None:
        mark.gone = True

    def _keep(self, mark: Mark) -> None: ...
    def _give(self, mark: Mark, lump: _Lump) -> None: ...
    def _take_back(self, mark: Mark, lump: _Lump) -> None: ...
    def _gain_lump(self, lump: _Lump) -> None: ...
    def _lose_lump(self, lump: _Lump) -> None: ...


class _Count(_Window):
    """How many calls."""

    __slots__ = ()

    def value(self, now: float) -> int:
        return len(self.marks) + sum(lump.number for lump in self.lumps)

    def _give(self, mark: Mark, lump: _Lump) -> None:
        lump.number += 1

    def _take_back(self, mark: Mark, lump: _Lump) -> None:
        lump.number -= 1


class _Sum(_Window):
    """The sum of their amounts, as the double that JSON would read it as; where none is written so, the next above.

    So that 8.2 spent and 1.8 more are 10.0, as whoever wrote a cap of 10.0 would say.
    """

    __slots__ = ("total",)

    def __init__(self, within: float) -> None:
        super().__init__(within)
        self.total = _ZERO

    def value(self, now: float) -> float:
        nearest = float(self.total)
        below = nearest < self.total and Decimal(repr(nearest)) != self.total
        return math.nextafter(nearest, math.inf) if below else nearest

    def _gain(self, mark: Mark) -> None:
        if len(self.marks) == 1 and not self.lumps:
            self.total = _ZERO  # without what rounding up may have left
        self.total = _EXACT.add(self.total, _amount(mark))

    def _lose(self, mark: Mark) -> None:
        mark.gone = True
        self.total = _EXACT.subtract(self.total, _amount(mark))

    def _give(self, mark: Mark, lump: _Lump) -> None:
        lump.total = _EXACT.add(lump.total, _amount(mark))

    def _take_back(self, mark: Mark, lump: _Lump) -> None:
        lump.total = _EXACT.subtract(lump.total, _amount(mark))
        self._lose(mark)

    def _gain_lump(self, lump: _Lump) -> None:
        self.total = _EXACT.add(self.total, lump.total)

    def _lose_lump(self, lump: _Lump) -> None:
        self.total = _EXACT.subtract(self.total, lump.total)


class _Distinct(_Window):
    """How many different words. A word that leaves for the lump is forgotten, and counts again when it comes again.

    That a full window keeps the newest of each word keeps it exact up to `MOST` different ones, of calls that ended.
    """

    __slots__ = ("kept", "there")

    def __init__(self, within: float) -> None:
        super().__init__(within)
        self.there: dict[str, int] = {}  # marks of each word
        self.kept: dict[str, int] = {}  # those of them that nothing takes back any more

    def value(self, now: float) -> int:
        return len(self.there) + sum(lump.number for lump in self.lumps)

    def _gain(self, mark: Mark) -> None:
        word = str(mark.amount)
        self.there[word] = self.there.get(word, 0) + 1

    def _keep(self, mark: Mark) -> None:
        if not (mark.gone or mark.into):
            word = str(mark.amount)
            mark.kept = True
            self.kept[word] = self.kept.get(word, 0) + 1

    def _lose(self, mark: Mark) -> None:
        mark.gone = True
        _less(self.there, str(mark.amount))
        if mark.kept:
            _less(self.kept, str(mark.amount))

    def _merge(self, oldest: Mark) -> None:
        self._lose(oldest)
        if str(oldest.amount) not in self.kept:  # no later one stands for it
            oldest.gone = False
            super()._merge(oldest)

    def _give(self, mark: Mark, lump: _Lump) -> None:
        lump.number += 1

    def _take_back(self, mark: Mark, lump: _Lump) -> None:
        lump.number -= 1


class _Since(_Window):
    """Seconds since the latest call: of those that ended only the latest is kept, of those under way each."""

    __slots__ = ()

    def value(self, now: float) -> float:
        return max(0.0, now - self.marks[-1].at) if self.marks else math.inf

    def _keep(self, mark: Mark) -> None:
        if not mark.gone:
            place = self.marks.index(mark)
            for earlier in self.marks[:place]:
                earlier.gone = True
            del self.marks[:place]

    def _merge(self, oldest: Mark) -> None:
        oldest.gone = True


class _Formerly:
    """Whether a call was done. The latest stands for all; those under way are only counted."""

    __slots__ = ("flying", "latest", "version", "within")

    def __init__(self, within: float) -> None:
        self.within = within
        self.version = 0
        self.latest = -math.inf
        self.flying = 0

    def add(self, mark: Mark) -> Mark:
        self.flying += 1
        return mark

    def settle(self, mark: Mark, ended: Ended) -> bool:
        self.flying -= 1
        if ended == "done":
            self.latest = max(self.latest, mark.at)
        return True

    def forget(self, floor: float) -> None:
        if self.latest <= floor:
            self.latest = -math.inf

    def value(self, now: float) -> bool:
        return self.latest > -math.inf

    def pending(self) -> bool:
        return self.flying > 0

    def idle(self) -> bool:
        return self.flying == 0 and self.latest == -math.inf

    def absorb(self, past: Held) -> None:
        assert isinstance(past, _Formerly)
        self.latest = max(self.latest, past.latest)

    def take_back(self, call: str, at: float) -> None:
        if self.latest == at:
            self.latest = -math.inf


Lump = tuple[float, float, int, Decimal]  # time of the latest in it, of the first, how many, their sum


def written(held: Held) -> tuple[list[Mark], list[Lump]]:
    """What a cell holds, to be kept elsewhere: its entries, the oldest of a full window as lumps."""
    if isinstance(held, _Formerly):
        return ([Mark(repr(held.latest), held.latest, None)] if held.latest > -math.inf else []), []
    assert isinstance(held, _Window)
    return list(held.marks), [(lump.at, lump.begin, lump.number, lump.total) for lump in held.lumps]


def read(kind: Kind, within: float, marks: Iterable[Mark], lumps: Iterable[Lump] = ()) -> Held:
    """The cell again, of marks by time; every call of them counts as done."""
    held, full = MADE[kind](within), MADE[kind](within)
    if isinstance(full, _Window):
        for at, begin, number, total in lumps:
            lump = _Lump(begin)
            lump.at, lump.number, lump.total = at, number, total
            full.lumps.append(lump)
        held.absorb(full)
    for mark in marks:
        added = held.add(mark)
        if kind != "since":  # of which the latest stands for all anyway
            held.settle(added, "done")
    return held


def _amount(mark: Mark) -> Decimal:
    return mark.amount if isinstance(mark.amount, Decimal) else _ZERO


def _less(counts: dict[str, int], word: str) -> None:
    left = counts[word] - 1
    if left:
        counts[word] = left
    else:
        del counts[word]


MADE: dict[Kind, type[_Count | _Sum | _Distinct | _Since | _Formerly]] = {
    "count": _Count,
    "sum": _Sum,
    "count_distinct": _Distinct,
    "since": _Since,
    "formerly": _Formerly,
}
NOTHING: dict[Kind, Value] = {"count": 0, "sum": 0.0, "count_distinct": 0, "since": math.inf, "formerly": False}
