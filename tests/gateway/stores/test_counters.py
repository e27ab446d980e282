"""One contract for every store of counters: rates, slots and declared state are taken together or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest

from gateway.admission import Ask, Bucket, Slot, Taken
from gateway.aggregates import Cell, Ended, Entry, Level, Reservation
from gateway.stores.counters import MemoryCounters
from gateway.stores.counters import MemoryCounters as Counters
from gateway.tool import Rate

CALLS = Cell("state.calls", "p\x1fcalls\x1f1\x1fann", "count", 60.0)
SPENT = Cell("state.spent", "p\x1fspent\x1f1\x1fann", "sum", 60.0)
DONE = Cell("state.done", "p\x1fdone\x1f1\x1fann", "formerly", 60.0)
ENTRIES = (Entry(CALLS), Entry(SPENT, Decimal("2.5")), Entry(DONE))


@pytest.fixture(params=[MemoryCounters])
def counters(request: pytest.FixtureRequest) -> Counters:
    """Fresh counters of each kind."""
    make: Callable[[], Counters] = request.param
    return make()


def asked(counters: Counters, call: str, at: float = 100.0) -> Reservation:
    """What a call reserves that has just read all three."""
    levels = counters.levels([CALLS, SPENT, DONE], at)
    return Reservation(call, at, tuple((cell, levels[cell.key]) for cell in (CALLS, SPENT, DONE)), ENTRIES)


def ask(one: Reservation, buckets: Sequence[Bucket] = (), slots: Sequence[Slot] = ()) -> Ask:
    """What a call asks for that reserves this."""
    return Ask(one.call_id, 0.0, 30.0, tuple(buckets), tuple(slots), reservation=one)


def took(counters: Counters, one: Reservation, buckets: Sequence[Bucket] = (), slots: Sequence[Slot] = ()) -> Taken:
    """The answer to it."""
    return asyncio.run(counters.take(ask(one, buckets, slots)))


def end(counters: Counters, one: Reservation, ended: Ended, slots: Sequence[Slot] = ()) -> None:
    """Settles it."""
    counters.settle(ask(one, slots=slots), Taken(), ended, {})


def values(counters: Counters, now: float = 101.0) -> list[object]:
    """The three levels."""
    levels = counters.levels([CALLS, SPENT, DONE], now)
    return [levels[cell.key].value for cell in (CALLS, SPENT, DONE)]


def test_what_was_never_reserved_is_nothing(counters: Counters) -> None:
    """Each kind has its zero; for a time since, that is infinity."""
    since, words = Cell("state.a", "a", "since", 60.0), Cell("state.b", "b", "count_distinct", 60.0)
    assert values(counters) == [0, 0.0, False]
    levels = counters.levels([since, words], 0.0)
    assert levels == {"a": Level(float("inf"), 0), "b": Level(0, 0)}


@pytest.mark.parametrize(
    ("ended", "left"),
    [("refused", [0, 0.0, False]), ("failed", [1, 2.5, False]), ("done", [1, 2.5, True])],
)
def test_how_a_call_ends_says_what_stays(counters: Counters, ended: Ended, left: list[object]) -> None:
    """Reserved at once; given back where nothing ran; only what was done was formerly done."""
    one = asked(counters, "c1")
    assert took(counters, one).kind is None
    assert values(counters) == [1, 2.5, False]
    assert counters.levels([DONE], 101.0)[DONE.key].pending
    end(counters, one, ended)
    assert values(counters) == left
    assert not counters.levels([DONE], 101.0)[DONE.key].pending
    assert values(counters, 160.0) == [0, 0.0, False]


def test_what_was_read_must_still_stand(counters: Counters) -> None:
    """Of two calls that read the same, the second is sent back to be decided again; then it may."""
    first, second = asked(counters, "c1"), asked(counters, "c2")
    assert took(counters, first).kind is None
    assert took(counters, second).kind == "changed"
    assert values(counters) == [1, 2.5, False]
    assert took(counters, asked(counters, "c2")).kind is None
    assert values(counters) == [2, 5.0, False]


def test_a_refund_changes_what_was_read_as_well(counters: Counters) -> None:
    """A call that was decided on what is not there any more is decided again, too."""
    one = asked(counters, "c1")
    took(counters, one)
    read = asked(counters, "c2")
    end(counters, one, "refused")
    assert took(counters, read).kind == "changed"


@pytest.mark.parametrize("short", ["concurrency", "rate", "changed"])
def test_nothing_is_taken_when_anything_refuses(counters: Counters, short: str) -> None:
    """Neither a slot nor a rate nor state; concurrency is looked at first, then rates, then what was read."""
    slot, bucket = [Slot("slot", 1)], [Bucket("bucket", Rate(1, 60.0), "tool")]
    stale = asked(counters, "c_stale")
    busy = slot if short == "concurrency" else []
    spent = bucket if short in ("concurrency", "rate") else []
    first = asked(counters, "c_before")
    took(counters, first, spent, busy)
    before = values(counters)
    assert took(counters, stale, bucket, slot).kind == short
    assert values(counters) == before
    end(counters, first, "failed", busy)
    assert took(counters, asked(counters, "c_after"), [] if spent else bucket, slot).kind is None
    assert values(counters) == [2, 5.0, False]


def test_a_call_that_only_reads_reserves_nothing(counters: Counters) -> None:
    """It neither changes a cell nor leaves anything to settle."""
    reads = ((CALLS, counters.levels([CALLS], 0.0)[CALLS.key]),)
    for number in range(2):
        one = Reservation(f"c{number}", 0.0, reads)
        assert took(counters, one).kind is None
        end(counters, one, "done")
    assert values(counters) == [0, 0.0, False]


def plain(call: str, now: float, buckets: Sequence[Bucket] = (), slots: Sequence[Slot] = ()) -> Ask:
    """What a call asks for that reserves no state."""
    return Ask(call, now, 30.0, tuple(buckets), tuple(slots))


def test_a_rate_lets_through_exactly_its_calls_then_says_when_to_come_again(counters: Counters) -> None:
    """Thirty in a minute from rest, the thirty-first after two seconds; how many are left is told each time."""
    bucket = [Bucket("k", Rate(30, 60.0), "tool")]
    taken = [asyncio.run(counters.take(plain(f"c{n}", 1000.0, bucket))) for n in range(31)]
    assert [t.refused for t in taken] == [None] * 30 + ["k"]
    assert [t.standings[0].left for t in taken] == [*range(29, -1, -1), 0]
    assert round(taken[-1].retry_after, 6) == 2.0
    assert asyncio.run(counters.take(plain("c32", 1002.0, bucket))).refused is None
    assert asyncio.run(counters.take(plain("c33", 1002.0, bucket))).refused == "k"


def test_all_buckets_are_taken_or_none(counters: Counters) -> None:
    """A call refused by its second bucket has not spent its first."""
    wide, narrow = Bucket("wide", Rate(2, 60.0), "tool"), Bucket("narrow", Rate(1, 60.0), "session")
    assert asyncio.run(counters.take(plain("c1", 0.0, [wide, narrow]))).refused is None
    assert asyncio.run(counters.take(plain("c2", 0.0, [wide, narrow]))).refused == "narrow"
    assert asyncio.run(counters.take(plain("c3", 0.0, [wide]))).refused is None


def test_a_slot_is_free_again_when_its_call_ends(counters: Counters) -> None:
    """Slots count running calls only, a refused call holds nothing, and the same call asks twice for one slot."""
    slot = [Slot("k", 1)]
    assert asyncio.run(counters.take(plain("c1", 0.0, (), slot))).refused is None
    assert asyncio.run(counters.take(plain("c1", 0.0, (), slot))).refused is None
    assert asyncio.run(counters.take(plain("c2", 0.0, (), slot))).kind == "concurrency"
    for _ in range(2):
        counters.settle(plain("c1", 0.0, (), slot), Taken(), "done", {})
    assert asyncio.run(counters.take(plain("c2", 0.0, (), slot))).refused is None
