"""Waits, deadlines and budgets of retries, against what they promise for any draw and any order of calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.retry import MAX_SAVED, RetryBudgets, until, wait
from gateway.tool import Retry

RETRY = Retry(frozenset({"upstream_unreachable"}), attempts=4, first=0.2, longest=5.0, percent=10)
TIMED = Retry(frozenset({"timeout"}), attempts=3, first=0.2, longest=5.0, percent=10)
DRAWS = st.floats(0.0, 1.0, exclude_max=True)


@pytest.mark.parametrize(("failed", "most"), [(1, 0.2), (2, 0.4), (3, 0.8), (5, 3.2), (6, 5.0), (1000, 5.0)])
def test_the_longest_wait_doubles_up_to_a_bound(failed: int, most: float) -> None:
    """Half of it is what half a draw gives, and nothing is what none gives: the jitter is full."""
    assert wait(RETRY, failed, 0.5) == most / 2
    assert wait(RETRY, failed, 0.0) == 0.0


@given(DRAWS, st.integers(1, 50), st.floats(0, 60))
def test_a_wait_is_never_shorter_than_the_backend_asked_for(drawn: float, failed: int, asked: float) -> None:
    """Nor longer than both."""
    assert asked <= wait(RETRY, failed, drawn, asked) <= max(asked, RETRY.longest)


def test_an_attempt_has_the_time_of_the_call() -> None:
    """Where nothing but what is known at once is tried again."""
    assert until(RETRY, 0, now=100.0, deadline=130.0) == 130.0


def test_attempts_share_the_time_where_timeouts_are_tried_again() -> None:
    """A third of it, half of what is left then, and all of what is left in the end."""
    assert [until(TIMED, failed, now=100.0, deadline=130.0) for failed in range(4)] == [110.0, 115.0, 130.0, 130.0]


@given(st.lists(st.sampled_from(["call", "retry"]), max_size=400), st.integers(1, 10))
def test_at_no_time_is_more_tried_again_than_the_share_of_the_calls(events: list[str], percent: int) -> None:
    """Whatever the order of calls and of wishes to retry."""
    budgets, calls, retries = RetryBudgets(), 0, 0
    for event in events:
        if event == "call":
            budgets.called("tool", percent)
            calls += 1
        else:
            retries += budgets.take("tool")
        assert retries * 100 <= calls * percent


def test_good_times_save_up_only_so_much() -> None:
    """A day of good calls does not pay for a storm."""
    budgets = RetryBudgets()
    for _ in range(10_000):
        budgets.called("tool", 10)
    assert sum(budgets.take("tool") for _ in range(100)) == MAX_SAVED


def test_each_tool_has_a_budget_of_its_own() -> None:
    """What one saved no other spends."""
    budgets = RetryBudgets()
    for _ in range(10):
        budgets.called("one", 10)
    assert (budgets.take("other"), budgets.take("one"), budgets.take("one")) == (False, True, False)
