"""One contract for every store of counters: rates, slots and declared state are taken together or not at all."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from gateway.aggregates import Cell, Ended, Entry, Level, Reservation
from gateway.ports import Counters
from gateway.stores.memory import MemoryCounters
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
    levels = counters.look([CALLS, SPENT, DONE], at)
    return Reservation(call, at, tuple((cell, levels[cell.key]) for cell in (CALLS, SPENT, DONE)), ENTRIES)


def values(counters: Counters, now: float = 101.0) -> list[object]:
    """The three levels."""
    levels = counters.look([CALLS, SPENT, DONE], now)
    return [levels[cell.key].value for cell in (CALLS, SPENT, DONE)]


def test_what_was_never_reserved_is_nothing(counters: Counters) -> None:
    """Each kind has its zero; for a time since, that is infinity."""
    since, words = Cell("state.a", "a", "since", 60.0), Cell("state.b", "b", "count_distinct", 60.0)
    assert values(counters) == [0, 0.0, False]
    levels = counters.look([since, words], 0.0)
    assert levels == {"a": Level(float("inf"), 0), "b": Level(0, 0)}


@pytest.mark.parametrize(
    ("ended", "left"),
    [("refused", [0, 0.0, False]), ("failed", [1, 2.5, False]), ("done", [1, 2.5, True])],
)
def test_how_a_call_ends_says_what_stays(counters: Counters, ended: Ended, left: list[object]) -> None:
    """Reserved at once; given back where nothing ran; only what was done was formerly done."""
    one = asked(counters, "c1")
    assert counters.take((), (), 0.0, one).kind is None
    assert values(counters) == [1, 2.5, False]
    assert counters.look([DONE], 101.0)[DONE.key].pending
    counters.settle(one, ended)
    assert values(counters) == left
    assert not counters.look([DONE], 101.0)[DONE.key].pending
    assert values(counters, 160.0) == [0, 0.0, False]


def test_what_was_read_must_still_stand(counters: Counters) -> None:
    """Of two calls that read the same, the second is sent back to be decided again; then it may."""
    first, second = asked(counters, "c1"), asked(counters, "c2")
    assert counters.take((), (), 0.0, first).kind is None
    assert counters.take((), (), 0.0, second).kind == "changed"
    assert values(counters) == [1, 2.5, False]
    assert counters.take((), (), 0.0, asked(counters, "c2")).kind is None
    assert values(counters) == [2, 5.0, False]


def test_a_refund_changes_what_was_read_as_well(counters: Counters) -> None:
    """A call that was decided on what is not there any more is decided again, too."""
    one = asked(counters, "c1")
    counters.take((), (), 0.0, one)
    read = asked(counters, "c2")
    counters.settle(one, "refused")
    assert counters.take((), (), 0.0, read).kind == "changed"


@pytest.mark.parametrize("short", ["concurrency", "rate", "changed"])
def test_nothing_is_taken_when_anything_refuses(counters: Counters, short: str) -> None:
    """Neither a slot nor a rate nor state; concurrency is looked at first, then rates, then what was read."""
    slot, bucket = [("slot", 1)], [("bucket", Rate(1, 60.0))]
    stale = asked(counters, "c_stale")
    busy = slot if short == "concurrency" else []
    spent = bucket if short in ("concurrency", "rate") else []
    counters.take(spent, busy, 0.0, asked(counters, "c_before"))
    before = values(counters)
    assert counters.take(bucket, slot, 0.0, stale).kind == short
    assert values(counters) == before
    counters.leave(busy)
    again = counters.take([] if spent else bucket, slot, 0.0, asked(counters, "c_after"))
    assert again.kind is None
    assert values(counters) == [2, 5.0, False]


def test_a_call_that_only_reads_reserves_nothing(counters: Counters) -> None:
    """It neither changes a cell nor leaves anything to settle."""
    reads = ((CALLS, counters.look([CALLS], 0.0)[CALLS.key]),)
    for number in range(2):
        one = Reservation(f"c{number}", 0.0, reads)
        assert counters.take((), (), 0.0, one).kind is None
        counters.settle(one, "done")
    assert values(counters) == [0, 0.0, False]
