"""Breakers by a clock that is moved: when they open, whom they let in, what closes them, and whom they are for."""

from __future__ import annotations

import pytest

from gateway.model import Refusal
from gateway.reliability import breaker
from gateway.reliability.breaker import FAILURES, OPEN_SECONDS, PROBING_SECONDS, Breakers, Place, Standing
from gateway.trial import StillClock

PLACE = Place("acme", "http://up.example.org")


class Watched:
    """Breakers, their clock, and what they told."""

    def __init__(self) -> None:
        self.clock = StillClock(1000.0)
        self.told: list[tuple[str, str]] = []
        self.breakers = Breakers(self.clock, self._hear)

    def _hear(self, standing: Standing) -> None:
        self.told.append((standing.place.name, standing.state))

    def call(self, *, ill: bool | None, place: Place = PLACE) -> None:
        """One call from beginning to end."""
        self.breakers.leave(place, self.breakers.enter(place), ill)

    def fail(self, times: int = FAILURES, place: Place = PLACE) -> None:
        """So many calls that fail one after the other."""
        for _ in range(times):
            self.call(ill=True, place=place)

    def refused(self, place: Place = PLACE) -> int | None:
        """After how many ms a call would have to come again; None when it is let in, and says nothing then."""
        try:
            self.call(ill=None, place=place)
        except Refusal as refusal:
            return refusal.problem.retry_after_ms if refusal.problem.code == "breaker_open" else -1
        return None


def test_it_opens_after_failures_in_a_row() -> None:
    """Not before, and then at once, with the time after which to come again."""
    seen = Watched()
    seen.fail(FAILURES - 1)
    assert (seen.refused(), seen.told) == (None, [])
    seen.fail(1)
    assert seen.refused() == OPEN_SECONDS * 1000
    seen.clock.at += 2.0
    assert seen.refused() == (OPEN_SECONDS - 2.0) * 1000
    assert seen.told == [(PLACE.name, "open")]


def test_a_success_between_begins_the_count_anew() -> None:
    """And what says nothing about the backend changes nothing."""
    seen = Watched()
    seen.fail(FAILURES - 1)
    seen.call(ill=False)
    seen.fail(FAILURES - 1)
    seen.call(ill=None)
    assert seen.refused() is None
    seen.fail(1)
    assert seen.refused() is not None


def test_half_open_lets_exactly_one_call_in() -> None:
    """All others are told to come again, however many there are, until that one is back."""
    seen = Watched()
    seen.fail()
    seen.clock.at += OPEN_SECONDS
    entered = seen.breakers.enter(PLACE)
    assert [seen.refused() for _ in range(50)] == [PROBING_SECONDS * 1000] * 50
    seen.breakers.leave(PLACE, entered, False)
    assert seen.refused() is None
    assert [state for _, state in seen.told] == ["open", "half_open", "closed"]


def test_a_probe_that_fails_opens_it_for_another_time() -> None:
    """One failure is enough then."""
    seen = Watched()
    seen.fail()
    seen.clock.at += OPEN_SECONDS
    seen.call(ill=True)
    assert seen.refused() == OPEN_SECONDS * 1000
    assert [state for _, state in seen.told] == ["open", "half_open", "open"]


def test_a_probe_that_says_nothing_leaves_the_place_to_the_next() -> None:
    """It was cancelled, or refused before anything was sent: the next call finds out."""
    seen = Watched()
    seen.fail()
    seen.clock.at += OPEN_SECONDS
    seen.call(ill=None)
    entered = seen.breakers.enter(PLACE)
    assert seen.refused() is not None
    seen.breakers.leave(PLACE, entered, False)
    assert seen.refused() is None


def test_what_began_before_a_change_says_nothing_after_it() -> None:
    """Calls that hung when it opened end one by one later: they neither close it nor open it again."""
    seen = Watched()
    hung = [seen.breakers.enter(PLACE) for _ in range(20)]
    seen.fail()
    seen.clock.at += OPEN_SECONDS
    probe = seen.breakers.enter(PLACE)
    for entered in hung[:10]:
        seen.breakers.leave(PLACE, entered, False)
    assert seen.refused() is not None
    seen.breakers.leave(PLACE, probe, False)
    for entered in hung[10:]:
        seen.breakers.leave(PLACE, entered, True)
    assert seen.refused() is None


def test_a_tenant_keeps_nobody_elses_calls_out() -> None:
    """Each tenant has its own breaker of the same backend, and sees no other's."""
    seen, other = Watched(), Place("umbra", PLACE.name)
    seen.fail()
    assert (seen.refused(), seen.refused(other)) == (OPEN_SECONDS * 1000, None)
    assert [standing.place for standing in seen.breakers.standings("acme")] == [PLACE]
    assert list(seen.breakers.standings("umbra")) == []


def test_how_a_backend_stands_is_seen() -> None:
    """State, since when, failures in a row, when it may be tried; and that it is well again."""
    seen = Watched()
    seen.fail(2)
    assert list(seen.breakers.standings()) == [Standing(PLACE, "closed", 1000.0, 2, None)]
    seen.clock.at = 1010.0
    seen.fail(3)
    assert list(seen.breakers.standings()) == [Standing(PLACE, "open", 1010.0, 5, 1010.0 + OPEN_SECONDS)]
    seen.clock.at = 1020.0
    seen.call(ill=False)
    assert list(seen.breakers.standings()) == [Standing(PLACE, "closed", 1020.0, 0, None)]


def test_healthy_backends_cost_nothing() -> None:
    """Nothing is remembered of a backend that never failed, however many there are."""
    seen = Watched()
    for number in range(1000):
        seen.call(ill=False, place=Place("acme", f"http://{number}.example.org"))
    assert list(seen.breakers.standings()) == []


def test_however_many_fail_it_remembers_only_so_many() -> None:
    """What was in use the longest ago goes."""
    seen = Watched()
    for number in range(breaker.MAX_BREAKERS + 10):
        seen.call(ill=True, place=Place("acme", f"http://{number:05}.example.org"))
    names = [standing.place.name for standing in seen.breakers.standings()]
    assert (len(names), names[0]) == (breaker.MAX_BREAKERS, "http://00010.example.org")


def test_a_tenant_whose_backends_all_fail_makes_no_other_ones_forgotten() -> None:
    """It loses its own, be they younger."""
    seen = Watched()
    seen.fail()
    for number in range(breaker.MAX_BREAKERS + 10):
        seen.call(ill=True, place=Place("umbra", f"http://{number:05}.example.org"))
    assert seen.refused() == 5000
    assert len(list(seen.breakers.standings())) == breaker.MAX_BREAKERS


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_the_clock_on_the_wall_does_not_matter(jump: float) -> None:
    """It may jump by hours: nothing is tried before its time, nor after it."""

    class Jumping(StillClock):
        jumped = 0.0

        def now(self) -> float:
            return self.at + self.jumped

    clock = Jumping(1000.0)
    breakers = Breakers(clock, lambda _: None)
    for _ in range(FAILURES):
        breakers.leave(PLACE, breakers.enter(PLACE), True)
    clock.jumped = jump
    with pytest.raises(Refusal) as caught:
        breakers.enter(PLACE)
    assert caught.value.problem.retry_after_ms == OPEN_SECONDS * 1000
    clock.at += OPEN_SECONDS
    assert breakers.enter(PLACE) > 0
