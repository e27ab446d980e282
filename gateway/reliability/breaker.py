"""Circuit breakers: a backend that keeps failing is left alone for a while. The only importer of `pybreaker`.

Each tenant has its own breaker of each backend, so that no tenant can keep another one's calls out, nor see how they
fare. pybreaker is the state machine alone: it would run the work under a lock, by the wall clock, and let everybody in
who comes while half open. Here one event loop is all there is, time is monotonic, and exactly one call at a time finds
out whether the backend is well again. It never looks at what a call was: whoever ran it says how it went.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker

from gateway.ports import Clock
from gateway.problems import refuse

FAILURES = 5  # in a row, after which a breaker opens
OPEN_SECONDS = 5.0  # in which nothing is sent, before one call may try
PROBING_SECONDS = 1.0  # after which to call again while one tries
MAX_BREAKERS = 4096
_STATES = {STATE_CLOSED: "closed", STATE_OPEN: "open", STATE_HALF_OPEN: "half_open"}


class Place(NamedTuple):
    """A backend as one tenant has it. `name`: `http://host:port`, `mcp:SERVER` or `sandbox:KIND`."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a backend stands that has failed before. Times are unix seconds; `failures` are those in a row."""

    place: Place
    state: str  # closed, open, half_open
    since: float
    failures: int
    next_probe: float | None


class _Ill(Exception):
    """What pybreaker is told of an attempt that says that the backend is ill."""


def _well() -> None:
    """What it is told of any other."""


def _ill() -> None:
    raise _Ill


class Breaker:
    """The breaker of one backend. Times are monotonic seconds but for `since`."""

    __slots__ = ("_at", "_circuit", "_probing", "since", "turn")

    def __init__(self, since: float) -> None:
        self._circuit = CircuitBreaker(FAILURES, OPEN_SECONDS, throw_new_error_on_trip=False)
        self._at = 0.0
        self._probing = False
        self.since = since
        self.turn = 0  # grows with each change of state: what began before one says nothing about after it

    @property
    def state(self) -> str:
        return _STATES[self._circuit.current_state]

    @property
    def failures(self) -> int:
        return self._circuit.fail_counter

    def enter(self, now: float) -> float:
        """Seconds after which to ask again; 0.0 for a call that may go on, and then has to `leave`."""
        if self._circuit.current_state == STATE_OPEN:
            if now < self._at + OPEN_SECONDS:
                return self._at + OPEN_SECONDS - now
            self._circuit.half_open()
            self.turn += 1
        if self._circuit.current_state == STATE_HALF_OPEN:
            if self._probing:
                return PROBING_SECONDS
            self._probing = True
        return 0.0

    def leave(self, entered: int, ill: bool | None, now: float) -> None:
        """How a call went that entered in that turn; None when it says nothing about the backend."""
        if entered != self.turn:
            return
        self._probing = False
        if ill is None or not (ill or self._circuit.fail_counter or self._circuit.current_state == STATE_HALF_OPEN):
            return
        before = self._circuit.current_state
        with contextlib.suppress(_Ill):
            self._circuit.call(_ill if ill else _well)
        if self._circuit.current_state != before:
            self._at = now
            self.turn += 1


class Breakers:
    """The breakers of all backends that have failed; the others have none. `say` is told of each that opens or closes.

    Many at most: where more have failed, one is forgotten, and so is closed: of the tenant that has the most of them
    the one that was in use the longest ago, so that none brings another's calls to a backend that is ill.
    """

    def __init__(self, clock: Clock, say: Callable[[Standing], None]) -> None:
        self._clock, self._say = clock, say
        self._failing: OrderedDict[Place, Breaker] = OrderedDict()

    def enter(self, place: Place) -> int:
        """The turn in which a call of the backend begins, to `leave` with.

        Raises:
            Refusal: `breaker_open`, with the time after which to call again.
        """
        breaker = self._failing.get(place)
        if breaker is None:
            return 0
        before = breaker.state
        seconds = breaker.enter(self._clock.monotonic())
        if seconds:
            said = f"Its last calls failed, so nothing is sent to {place.name} for a while."
            raise refuse("breaker_open", said, retry_after_ms=max(1, math.ceil(seconds * 1000)))
        self._note(place, breaker, before)
        return breaker.turn

    def leave(self, place: Place, entered: int, ill: bool | None) -> None:
        """How a call went: whether it says that the backend is ill; None when it says nothing about it."""
        breaker = self._failing.get(place)
        if breaker is None:
            if not ill:
                return
            breaker = self._failing[place] = Breaker(self._clock.now())
            if len(self._failing) > MAX_BREAKERS:
                self._forget_one()
        if ill:
            self._failing.move_to_end(place)
        before = breaker.state
        breaker.leave(entered, ill, self._clock.monotonic())
        self._note(place, breaker, before)

    def _forget_one(self) -> None:
        [(tenant, _)] = Counter(place.tenant for place in self._failing).most_common(1)
        del self._failing[next(place for place in self._failing if place.tenant == tenant)]

    def standings(self, tenant: str | None = None) -> Iterator[Standing]:
        """The backends that have failed since the gateway began, of one tenant or of all, by name."""
        for place, breaker in sorted(self._failing.items(), key=lambda item: item[0]):
            if tenant in (None, place.tenant):
                yield _standing(place, breaker)

    def _note(self, place: Place, breaker: Breaker, before: str) -> None:
        if breaker.state != before:
            breaker.since = self._clock.now()
            self._say(_standing(place, breaker))


def _standing(place: Place, breaker: Breaker) -> Standing:
    state = breaker.state
    return Standing(
        place, state, breaker.since, breaker.failures, breaker.since + OPEN_SECONDS if state == "open" else None
    )
