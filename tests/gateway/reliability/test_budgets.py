"""What budgets count: amounts of any size that a file or a caller may name, and how long they are remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.admission import Bounds, Budget
from gateway.bounds import BudgetShape
from gateway.model import Session
from gateway.reliability.budgets import accounts, unfit
from tests.kit import DEV

OPEN = Session("s_1", "u1", DEV.key, opened_at=0.0, expires_at=5000.0)


@pytest.mark.parametrize(
    "most",
    [
        {"tokens": 10**400},
        {"calls": 2**53 + 1},
        {"cost": 1e12},
        {"cost": float("nan")},
        {"cost": float("inf")},
        {"cost": -1},
        {"bytes": "999999999999GiB"},
        {"wall": "999999999999d"},
    ],
)
def test_a_budget_that_no_store_counts_exactly_is_refused(most: dict[str, Any]) -> None:
    """What is beyond 2^53 of its units, or no number, is no budget in a file; nor is it one of a session."""
    with pytest.raises(ValidationError):
        BudgetShape(over="tenant", **most)
    if not isinstance(next(iter(most.values())), str):
        assert unfit(most)


@pytest.mark.parametrize("within", [None, 86400.0])
def test_what_settings_give_a_session_is_forgotten_soon_after_its_end(within: float | None) -> None:
    """Nobody can draw on it any more; a session that a clock has ended already is remembered for an hour, too."""
    bounds = Bounds(budgets=(Budget("session", {"calls": 5}, within),))
    for session in (OPEN, replace(OPEN, budget={"calls": 3})):
        for now, lasts in ((1000.0, 4000.0 + 3600.0), (9000.0, 3600.0)):
            assert {each.lasts for each in accounts([session], DEV, bounds, now)} == {lasts}
