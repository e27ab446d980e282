"""Cells against a list of everything that ever happened, and what they keep when there is too much of it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.aggregates import OF_VALUE, Cell, Ended, Entry, Kind, Level, Reservation
from gateway.reliability.cells import Cells
from gateway.reliability.windows import MOST, SLICES

KINDS: tuple[Kind, ...] = ("count", "count_distinct", "sum", "formerly", "since")


def cell(kind: Kind, key: str = "", within: float = 60.0) -> Cell:
    """A cell of a kind, alone under its key."""
    return Cell(f"state.{kind}", key or kind, kind, within)


def reservation(call: str, at: float, *entries: Entry) -> Reservation:
    """What one call reserves."""
    return Reservation(call, at, (), entries)


def ended_call(cells: Cells, call: str, at: float, entry: Entry, ended: Ended = "done") -> None:
    """One call from its admission to its end."""
    one = reservation(call, at, entry)
    cells.reserve(one)
    cells.settle(one, ended)


def level(cells: Cells, one: Cell, now: float) -> Level:
    """What one cell holds."""
    return cells.look([one], now)[one.key]


@dataclass
class Event:
    """One entry of one call, for ever."""

    at: float
    amount: Decimal | str | None
    ended: Ended | None = None


@dataclass
class Naive:
    """The same by definition: every event in a list, each look goes through all of it."""

    events: dict[str, list[Event]] = field(default_factory=dict)

    def value(self, one: Cell, now: float) -> tuple[object, bool]:
        """The exact value, and whether a call that would make it true is under way."""
        there = [event for event in self.events.get(one.key, []) if event.ended != "refused"]
        inside = [event for event in there if event.at > now - one.within]
        if one.kind == "count":
            return len(inside), False
        if one.kind == "sum":
            return sum(
                (Fraction(event.amount) for event in inside if isinstance(event.amount, Decimal)), Fraction()
            ), False
        if one.kind == "count_distinct":
            return len({event.amount for event in inside}), False
        if one.kind == "since":
            return min((max(0.0, now - event.at) for event in inside), default=math.inf), False
        return any(event.ended == "done" for event in inside), any(event.ended is None for event in there)


def same(found: Level, wanted: tuple[object, bool]) -> bool:
    """Equal; of a sum, that it is written like the double, or else the double is the smallest that is not below."""
    value, pending = wanted
    if isinstance(value, Fraction):
        if Fraction(repr(found.value)) == value:
            return True
        below = math.nextafter(found.value, -math.inf)
        return Fraction(found.value) >= value and (found.value == 0 or Fraction(below) < value)
    return found.value == value and found.pending == pending


AMOUNTS = st.one_of(st.floats(0, 1e12), st.integers(0, 10**20), st.sampled_from([0.1, 5e-324, 1e300]))
STEPS = st.one_of(
    st.tuples(st.just("reserve"), AMOUNTS, st.sampled_from("abc"), st.floats(0, 5)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from(["refused", "failed", "done"])),
    st.tuples(st.just("wait"), st.floats(0, 40)),
)


@given(st.lists(STEPS, max_size=60))
def test_every_level_is_what_a_list_of_all_events_says(steps: list[tuple[object, ...]]) -> None:
    """Any order of reserving, settling and waiting, also of calls that come late; a read that stands is true."""
    cells, naive, now, flying = Cells(), Naive(), 1000.0, list[tuple[Reservation, list[Event]]]()
    watched = [cell(kind) for kind in KINDS]
    for number, step in enumerate(steps):
        before = cells.look(watched, now)
        truth = {one.key: naive.value(one, now) for one in watched}
        if step[0] == "wait":
            now += float(str(step[1]))
        elif step[0] == "reserve":
            made = _reserve(cells, naive, f"c{number}", now - float(str(step[3])), str(step[1]), str(step[2]))
            flying.append(made)
        elif flying:
            told, events = flying.pop(int(str(step[1])) % len(flying))
            ended: Ended = "refused" if step[2] == "refused" else "failed" if step[2] == "failed" else "done"
            cells.settle(told, ended)
            for event in events:
                event.ended = ended
        after = cells.look(watched, now)
        for one in watched:
            assert same(after[one.key], naive.value(one, now)), (one.kind, after[one.key], naive.value(one, now))
            if step[0] != "wait" and cells.unchanged([(one, before[one.key])]):
                assert naive.value(one, now) == truth[one.key]


def _reserve(
    cells: Cells, naive: Naive, call: str, at: float, amount: str, word: str
) -> tuple[Reservation, list[Event]]:
    given_to: dict[Kind, Decimal | str | None] = {"sum": Decimal(amount), "count_distinct": word}
    entries = [Entry(cell(kind), given_to.get(kind)) for kind in KINDS]
    made = reservation(call, at, *entries)
    cells.reserve(made)
    events = [Event(at, entry.amount) for entry in entries]
    for entry, event in zip(entries, events, strict=True):
        naive.events.setdefault(entry.cell.key, []).append(event)
    return made, events


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_reserves_after_a_read_changes_it(kind: Kind) -> None:
    """Also where nothing was there; and time alone changes nothing."""
    cells, one = Cells(), cell(kind)
    reads = [(one, level(cells, one, 0.0))]
    assert cells.unchanged(reads)
    entry = Entry(one, Decimal(1) if kind == "sum" else "w")
    ended_call(cells, "c1", 0.0, entry)
    assert not cells.unchanged(reads)
    again = [(one, level(cells, one, 0.0))]
    level(cells, one, 1000.0)
    assert cells.unchanged(again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_does_not_stand_once_its_cell_was_forgotten_and_filled_again(kind: Kind) -> None:
    """Versions are never given twice, so what was read of an older cell is never taken for the new one."""
    cells, one = Cells(), cell(kind)
    entry = Entry(one, Decimal(1) if kind == "sum" else "w")
    ended_call(cells, "c1", 0.0, entry)
    stale = [(one, level(cells, one, 0.0))]
    for number in range(5000):
        ended_call(cells, f"d{number}", 1000.0 + number, Entry(cell("count", f"other {number}")))
    assert not cells.unchanged(stale)
    ended_call(cells, "c2", 9000.0, entry)
    assert not cells.unchanged(stale)


def test_cells_with_nothing_in_their_windows_are_forgotten() -> None:
    """Sessions are free to open: a cell for each of them does not stay for ever."""
    cells, most = Cells(), 0
    for number in range(25_000):
        ended_call(cells, f"c{number}", float(number), Entry(cell("count", f"session {number}")))
        most = max(most, len(cells))
    assert most <= 1024


def test_a_call_under_way_keeps_its_cell() -> None:
    """What it was reserved for still comes true after a sweep."""
    cells, done = Cells(), cell("formerly", within=1e6)
    flying = reservation("c_long", 0.0, Entry(done))
    cells.reserve(flying)
    for number in range(5000):
        ended_call(cells, f"c{number}", 100.0 * number, Entry(cell("count", f"session {number}")))
    cells.settle(flying, "done")
    assert level(cells, done, 5.0).value is True


def test_a_hundred_thousand_calls_on_one_cell_take_no_more_room_than_a_full_window() -> None:
    """Each count and sum is exact or too high, never too low; memory is bounded by the window's most."""
    cells, counted, summed = Cells(), cell("count", within=1e6), cell("sum", within=1e6)
    for number in range(100_000):
        one = reservation(f"c{number}", float(number), Entry(counted), Entry(summed, Decimal("0.1")))
        cells.reserve(one)
        cells.settle(one, "refused" if number % 10 == 0 else "done")
    assert level(cells, counted, 100_000.0).value == 90_000
    assert level(cells, summed, 100_000.0).value == 9000.0
    assert [len(held.marks) for held in cells._held.values()] == [MOST, MOST]  # type: ignore[attr-defined]  # bounds
    assert cells._flying == {}


def test_a_flood_beyond_a_full_window_is_never_counted_too_low() -> None:
    """Against the exact number and sum, while refunds come late and entries leave the window."""
    drawn, cells, naive, now = random.Random(7), Cells(), Naive(), 0.0
    watched = [cell("count"), cell("sum"), cell("count_distinct")]
    flying: list[tuple[Reservation, list[Event]]] = []
    for number in range(12_000):
        now += drawn.expovariate(100.0)
        flying.append(_reserve(cells, naive, f"c{number}", now, str(drawn.randrange(100)), str(drawn.randrange(6000))))
        if len(flying) > 50:
            one, events = flying.pop(drawn.randrange(len(flying)))
            ended: Ended = "refused" if drawn.random() < 0.3 else "done"
            cells.settle(one, ended)
            for event in events:
                event.ended = ended
        if number % 1000 == 999:
            for one_cell in watched:
                exact = naive.value(one_cell, now)[0]
                assert Fraction(repr(level(cells, one_cell, now).value)) >= exact  # type: ignore[operator]  # numbers all


def test_a_flow_that_never_ends_is_counted_a_slice_of_the_window_too_long_at_most() -> None:
    """5,000 calls an hour are about 5,000 on the tenth hour as on the first, whether anybody looks or not."""
    cells, watched = Cells(), [cell(kind, within=3600.0) for kind in ("count", "sum", "count_distinct")]
    unwatched = cell("count", "unwatched", within=3600.0)
    counted, summed, words = watched
    for number in range(50_000):
        entries = (Entry(counted), Entry(summed, Decimal(1)), Entry(words, f"w{number}"), Entry(unwatched))
        one = reservation(f"c{number}", number * 0.72, *entries)
        cells.reserve(one)
        cells.settle(one, "done")
        if number % 5000 == 4999:
            for each in watched:
                assert 5000 <= level(cells, each, one.at).value <= 5000 + 5000 / SLICES + 1
    lumps = [len(held.lumps) for held in cells._held.values()]  # type: ignore[attr-defined]  # bounds
    assert max(lumps) <= SLICES + 1
    assert 5000 <= level(cells, unwatched, one.at).value <= 5000 + 5000 / SLICES + 1


def test_what_a_lump_took_in_can_still_be_taken_back() -> None:
    """A call that was admitted before a flood and never ran leaves nothing behind."""
    cells, counted, summed = Cells(), cell("count"), cell("sum")
    first = reservation("c_first", 0.0, Entry(counted), Entry(summed, Decimal(1000)))
    cells.reserve(first)
    for number in range(MOST + 10):
        one = reservation(f"c{number}", 1.0, Entry(counted), Entry(summed, Decimal(1)))
        cells.reserve(one)
        cells.settle(one, "done")
    cells.settle(first, "refused")
    assert level(cells, counted, 2.0).value == MOST + 10
    assert level(cells, summed, 2.0).value == float(MOST + 10)
    assert level(cells, summed, 62.0).value == 0.0


def test_few_different_words_stay_exact_however_often_they_are_said() -> None:
    """A full window keeps the newest of each word."""
    cells, words = Cells(), cell("count_distinct", within=1e6)
    for number in range(20_000):
        ended_call(cells, f"c{number}", float(number), Entry(words, f"w{number % 3}"))
    assert level(cells, words, 20_000.0).value == 3
    for number in range(MOST + 500):
        ended_call(cells, f"d{number}", 20_000.0 + number, Entry(words, f"new {number}"))
    assert level(cells, words, 25_000.0).value == MOST + 503


def test_nothing_prolongs_a_permission() -> None:
    """`formerly` ends its window after the newest call that was done, whatever failed or was refused after it."""
    cells, done = Cells(), cell("formerly", within=60.0)
    ended_call(cells, "c1", 100.0, Entry(done))
    for number in range(MOST + 10):
        ended_call(cells, f"c_f{number}", 150.0, Entry(done), "failed" if number % 2 else "refused")
    assert level(cells, done, 159.9).value is True
    assert level(cells, done, 160.0).value is False


def test_the_time_since_is_that_of_the_call_before_when_the_latest_never_ran() -> None:
    """Taking back the latest brings the one before into sight, if that was not taken back as well."""
    cells, since = Cells(), cell("since")
    assert level(cells, since, 0.0).value == math.inf
    ended_call(cells, "c1", 10.0, Entry(since), "failed")
    latest = reservation("c2", 20.0, Entry(since))
    cells.reserve(latest)
    assert level(cells, since, 30.0).value == 10.0
    cells.settle(latest, "refused")
    assert level(cells, since, 30.0).value == 20.0
    assert level(cells, since, 70.0).value == math.inf


def test_a_sum_reads_as_people_write_it_and_is_else_never_too_low() -> None:
    """Tenths add up to what they add up to on paper; what no double is written as is the next one above."""
    cells, summed = Cells(), cell("sum")
    for number, amount in enumerate(["4.1", "4.1"]):
        ended_call(cells, f"c{number}", 0.0, Entry(summed, Decimal(amount)))
    assert level(cells, summed, 1.0).value == 8.2
    ended_call(cells, "c_little", 0.0, Entry(summed, Decimal("1e-30")))
    assert level(cells, summed, 1.0).value == math.nextafter(8.2, math.inf)


def test_a_sum_beyond_any_double_is_infinite_not_zero() -> None:
    """Twice the largest double is above every cap."""
    cells, summed = Cells(), cell("sum")
    for number in range(2):
        ended_call(cells, f"c{number}", 0.0, Entry(summed, Decimal("1.7e308")))
    assert level(cells, summed, 1.0).value == math.inf


def test_cells_filled_apart_are_taken_over_without_counting_a_call_twice() -> None:
    """A call that both know of counts once; what only the past knows is added, in its place in time."""
    ours, past = Cells(), Cells()
    kept = [cell(kind) for kind in KINDS]
    words: dict[Kind, Decimal | str | None] = {"sum": Decimal(5), "count_distinct": "w"}
    entries = [Entry(one, words.get(one.kind)) for one in kept]
    for cells, call, at in [(past, "c1", 10.0), (past, "c2", 20.0), (ours, "c2", 20.0), (ours, "c3", 30.0)]:
        one = reservation(call, at, *entries)
        cells.reserve(one)
        cells.settle(one, "done")
    reads = [(one, level(ours, one, 31.0)) for one in kept]
    ours.adopt(past)
    assert [level(ours, one, 31.0).value for one in kept] == [3, 1, 15.0, True, 1.0]
    assert [level(ours, one, 75.0).value for one in kept] == [2, 1, 10.0, True, 45.0]
    assert not any(ours.unchanged([read]) for read in reads)
    empty = Cells()
    empty.adopt(past)
    assert [level(empty, one, 31.0).value for one in kept] == [2, 1, 10.0, True, 11.0]


def test_an_owner_has_so_many_values_at_a_time_and_others_have_theirs() -> None:
    """One value more is refused until some have left their window; a value that is there goes on being counted."""
    cells = Cells(most_values=2)

    def take(owner: str, value: str, at: float) -> str | None:
        entry = Entry(Cell("state.seen", f"p\x1fseen\x1f1\x1f{owner}{OF_VALUE}{value}", "count", 300.0))
        reservation = Reservation(f"{owner}-{value}-{at}", at, (), (entry,))
        refused = cells.take(reservation)
        if refused is None:
            cells.settle(reservation, "done")
        return refused

    assert [take("ann", value, 100.0) for value in ("a", "b", "c", "a")] == [None, None, "full", None]
    assert take("bob", "c", 101.0) is None
    assert take("ann", "c", 300.0) == "full"
    assert take("ann", "c", 401.0) is None
    assert len(cells) == 1
