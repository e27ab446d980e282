"""What calls leave behind for later ones: rates, declared state, and what a session has seen, made up anew.

Times are those on record, in unix seconds. It decides nothing and keeps nothing on disk.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.aggregates import Cell, Ended, Entry, Level, Reservation
from gateway.model import Call, Session
from gateway.reliability.cells import Cells
from gateway.reliability.limits import earliest, spend
from gateway.stages.authenticate import suppose
from gateway.tool import Labels, Rate

Buckets = Sequence[tuple[str, Rate]]
# Seconds. A rate is taken some milliseconds after its call was opened, and only the opening is on record: this close to
# the moment from which a call fits, what happened then is as good an answer as any.
EDGE = 0.05


class World:
    """Rates, slots and declared state as one run has them."""

    def __init__(self) -> None:
        self._cells = Cells()
        self._arrival: dict[str, float] = {}
        self._flying: dict[str, _Reserved] = {}
        self._doubtful: dict[str, _Reserved] = {}
        self._changed: dict[str, float] = {}  # when, at the latest, by the key of the cell
        self._running: dict[str, str] = {}  # whose slot each call has that is under way
        self.busy: Counter[str] = Counter()  # slots that are taken

    def look(self, cells: Sequence[Cell], at: float) -> dict[str, Level]:
        """The levels of cells, by key."""
        return self._cells.look(cells, at) if cells else {}

    def moving(self, levels: Mapping[str, Level], said: Mapping[str, Level], at: float) -> dict[str, Level]:
        """Those of the `levels` that another call was changing around `at`, as they were `said` to be then.

        A decision and a change that close together are not on record in the order in which they were made.
        """
        return {
            key: said[key]
            for key, level in levels.items()
            if key in said
            and (level.pending or said[key].pending or abs(at - self._changed.get(key, -math.inf)) <= EDGE)
        }

    def full(self, buckets: Buckets, at: float, then: Buckets, fitted: bool) -> str | None:
        """The key of the first bucket without room for a call at `at`.

        `then` are the buckets it met on record, and `fitted` whether they had room for it.
        """
        met = {(_whose(key), rate) for key, rate in then} if buckets else ()
        for key, rate in buckets:
            edge = EDGE if (_whose(key), rate) in met else 0.0
            if earliest(self._arrival.get(key, 0.0), rate, at) - at > (edge if fitted else -edge):
                return key
        return None

    def enter(self, call_id: str, whose: str) -> None:
        """A call takes a slot."""
        self._running[call_id] = whose
        self.busy[whose] += 1

    def leave(self, call_id: str) -> None:
        """A call gives its slot back, if it has one."""
        whose = self._running.pop(call_id, None)
        if whose is not None:
            self.busy[whose] -= 1

    def admit(self, call_id: str, at: float, buckets: Buckets, entries: Sequence[Entry]) -> None:
        """Spends the rates and reserves the entries of a call."""
        for key, rate in buckets:
            self._arrival[key] = spend(self._arrival.get(key, 0.0), rate, at)
        if entries:
            made = self._flying[call_id] = _Reserved.of(call_id, at, entries)
            self._cells.reserve(made.counted)
            self._cells.reserve(made.awaited)
            self._changed.update((entry.cell.key, at) for entry in entries)

    def settle(self, call_id: str, ended: Ended | None, at: float) -> None:
        """Ends what `admit` began; nothing where the call was not admitted.

        None: nobody knows. What the call reserved counts until somebody says, but no other call waits for it.
        """
        made = self._flying.pop(call_id, None)
        if made is None:
            made = self._doubtful.pop(call_id, None)
            if made is None:
                return
            self._cells.reserve(made.awaited)
        self._changed.update((entry.cell.key, at) for each in (made.counted, made.awaited) for entry in each.entries)
        if ended is None:
            self._cells.settle(made.awaited, "failed")
            self._doubtful[call_id] = made
        else:
            self._cells.settle(made.awaited, ended)
            self._cells.settle(made.counted, ended)


@dataclass(frozen=True, slots=True)
class _Reserved:
    """What a call reserved: what counts at once, and what counts once the call is done."""

    counted: Reservation
    awaited: Reservation

    @classmethod
    def of(cls, call_id: str, at: float, entries: Sequence[Entry]) -> _Reserved:
        awaited = tuple(entry for entry in entries if entry.cell.kind == "formerly")
        counted = tuple(entry for entry in entries if entry.cell.kind != "formerly")
        return cls(Reservation(call_id, at, (), counted), Reservation(f"{call_id}\x1fawaited", at, (), awaited))


def _whose(bucket: str) -> str:
    """A bucket's key without the name of its rule."""
    kind, _, rest = bucket.partition("\x1f")
    return rest.partition("\x1f")[2] if kind == "rule" else bucket


@dataclass(slots=True)
class Course:
    """What a session is by now, other than on record, because some of its calls came out otherwise.

    `had` are the labels that it has of calls that are the same; `gone` those that were left by calls that do not happen
    any more, `more` those of calls that did not happen then. `calls` and `cost` are differences.
    """

    had: set[str]
    gone: set[str] = field(default_factory=set)
    more: set[str] = field(default_factory=set)
    calls: int = 0
    cost: float = 0.0
    diverged: bool = False

    def call(self, call: Call) -> Call:
        """The call in the session as it is by now."""
        lost = self.gone - self.had
        if not (lost or self.more or self.calls or self.cost):
            return call
        return replace(call, caller=suppose(call.caller.principal, self._session(call.caller.session, lost)))

    def _session(self, there: Session, lost: set[str]) -> Session:
        labels = (there.labels - lost) | self.more
        return replace(
            there, labels=labels, calls=max(0, there.calls + self.calls), cost=max(0.0, there.cost + self.cost)
        )

    def ended(self, then: Labels, now: Labels) -> None:
        """Labels that a call left on record, and those that it leaves now."""
        self.gone |= then - now
        self.more |= now - then
        self.had |= now
