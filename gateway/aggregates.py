"""What policy knows of the past: the nouns of declared session state. Counting is in `reliability/cells.py`.

An aggregate is declared in a policy (`state:`); for one call it is a cell, whose level the decision reads; a permitted
call reserves entries before it runs, and settles them when it ended. It never looks at a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

OF_VALUE = "\x1e"
Kind = Literal["count", "count_distinct", "sum", "formerly", "since"]
Ended = Literal["refused", "failed", "done"]  # never dispatched; may have happened; done without an error


@dataclass(frozen=True, slots=True)
class Cell:
    """One aggregate for one session, user, agent or tenant, and where declared for one value.

    `key` is unique over all aggregates and owners, and holds the digest of the definition: a changed one starts anew.
    Before `OF_VALUE`, where it is of one value, it is the same for all values of the owner. `name` is the one that its
    policy gives it; `within` is in seconds.
    """

    name: str
    key: str
    kind: Kind
    within: float


@dataclass(frozen=True, slots=True)
class Level:
    """What a cell holds at one moment: count, sum, truth, or seconds since (infinite when never).

    `version` changes whenever the cell does, except by time alone. `pending`: a call that would make a `formerly` true
    is under way.
    """

    value: bool | int | float
    version: int
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What one call adds to a cell: an amount (`sum`, at least 0), a word (`count_distinct`), or itself (None)."""

    cell: Cell
    amount: Decimal | str | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an admitted call reserves at `at` (unix seconds), provided that what its decision read still stands."""

    call_id: str
    at: float
    reads: tuple[tuple[Cell, Level], ...] = ()
    entries: tuple[Entry, ...] = ()
