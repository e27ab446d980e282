"""Counters and recent outcomes: what one process keeps in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model import Outcome, Usage, Verdict
from gateway.stores.memory import MemoryCounters, MemoryOutcomes
from gateway.tool import Rate


def outcome(call_id: str, text: str = "") -> Outcome:
    """A done outcome."""
    verdict = Verdict("allow", frozenset())
    return Outcome(call_id, "echo", "done", text, None, None, verdict, Usage(), None)


def test_a_rate_lets_through_exactly_its_calls_then_says_when_to_come_again() -> None:
    """Thirty in a minute from rest, the thirty-first after two seconds."""
    counters, bucket = MemoryCounters(), [("k", Rate(30, 60.0))]
    taken = [counters.take(bucket, (), 1000.0) for _ in range(31)]
    assert [t.refused for t in taken] == [None] * 30 + ["k"]
    assert round(taken[-1].retry_after, 6) == 2.0
    assert counters.take(bucket, (), 1002.0).refused is None
    assert counters.take(bucket, (), 1002.0).refused == "k"


def test_all_buckets_are_taken_or_none() -> None:
    """A call refused by its second bucket has not spent its first."""
    counters = MemoryCounters()
    wide, narrow = ("wide", Rate(2, 60.0)), ("narrow", Rate(1, 60.0))
    assert counters.take([wide, narrow], (), 0.0).refused is None
    assert counters.take([wide, narrow], (), 0.0).refused == "narrow"
    assert counters.take([wide], (), 0.0).refused is None


def test_a_slot_is_free_again_when_its_call_leaves() -> None:
    """Concurrency counts running calls only, and a refused call holds nothing."""
    counters, slot = MemoryCounters(), [("k", 1)]
    assert counters.take((), slot, 0.0).refused is None
    assert counters.take((), slot, 0.0).kind == "concurrency"
    counters.leave(slot)
    assert counters.take((), slot, 0.0).refused is None


def test_idle_buckets_are_forgotten() -> None:
    """A table of one-off callers does not grow for ever."""
    counters = MemoryCounters()
    for n in range(25_000):
        counters.take([(f"caller {n}", Rate(10, 1.0))], (), float(n))
    assert len(counters._arrival) <= counters._SWEEP_AT + 1


def test_an_outcome_is_seen_by_its_owner_only() -> None:
    """Somebody else's call does not exist."""
    kept = MemoryOutcomes()
    kept.keep("ann", outcome("c_1"))
    assert asyncio.run(kept.find("ann", "c_1")) is not None
    assert asyncio.run(kept.find("bob", "c_1")) is None


def test_old_outcomes_make_room_for_new_ones() -> None:
    """Kept by number and by bytes, whichever is reached first."""
    kept = MemoryOutcomes(most=2, most_bytes=10_000)
    for n in range(3):
        kept.keep("ann", outcome(f"c_{n}"))
    assert asyncio.run(kept.find("ann", "c_0")) is None
    kept.keep("ann", outcome("c_big", "x" * 4_000))
    assert asyncio.run(kept.find("ann", "c_1")) is None
    assert asyncio.run(kept.find("ann", "c_big")) is not None


def test_structured_results_count_too() -> None:
    """A result that is all structure takes room like one that is all text."""
    kept = MemoryOutcomes(most_bytes=100_000)
    for n in range(3):
        kept.keep("ann", replace(outcome(f"c_{n}"), structured={"rows": [[]] * 1_500}))
    assert asyncio.run(kept.find("ann", "c_1")) is None
    assert asyncio.run(kept.find("ann", "c_2")) is not None
