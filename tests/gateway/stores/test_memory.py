"""Recent outcomes: what one process keeps in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model import Outcome, Usage, Verdict
from gateway.stores.memory import MemoryOutcomes


def outcome(call_id: str, text: str = "") -> Outcome:
    """A done outcome."""
    verdict = Verdict("allow", frozenset())
    return Outcome(call_id, "echo", "done", text, None, None, verdict, Usage(), None)


def test_an_outcome_is_seen_by_its_owner_only() -> None:
    """Somebody else's call does not exist."""
    kept = MemoryOutcomes()
    kept.keep("ann", outcome("c_1"))
    assert asyncio.run(kept.find("ann", "c_1")) is not None
    assert asyncio.run(kept.find("bob", "c_1")) is None


def test_outcomes_are_gone_when_content_was_erased() -> None:
    """Whoever asks for a call by its id is not told what was erased; what comes after is kept again."""
    kept = MemoryOutcomes(most_bytes=10_000)
    kept.keep("ann", outcome("c_1", "x" * 4_000))
    kept.erased()
    assert asyncio.run(kept.find("ann", "c_1")) is None
    kept.keep("ann", outcome("c_2", "x" * 4_000))
    assert asyncio.run(kept.find("ann", "c_2")) is not None


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
