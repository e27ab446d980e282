"""Limits along the whole line over each store that counts: exact at once, and each call told of once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.admission import Bounds
from gateway.tool import Rate
from tests.gateway.doors.session_lab import records
from tests.gateway.limited import budget, lab_of, many, with_runner
from tests.gateway.stores.stores import KINDS, Life, Store, made

MADE = {
    "rate": (Bounds(rates={"principal": Rate(12, 600.0), "all": Rate(40, 600.0)}), 12, "rate_limited"),
    "calls": (budget("tenant", calls=12), 12, "budget_exhausted"),
    "cost": (budget("principal", cost=6_000_000), 12, "budget_exhausted"),
    "wall": (budget(wall=12 * 30_000), 12, "budget_exhausted"),
    "bytes": (budget(bytes=12 * 256 * 1024), 12, "budget_exhausted"),
}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each of them."""
    return made(request, tmp_path)


@pytest.mark.parametrize("name", MADE)
def test_a_limit_is_exact_at_once(name: str, store: Store) -> None:
    """Of ten times as many calls at once as there may be, exactly those are made; a budget is told of by one."""
    bounds, most, code = MADE[name]

    async def body(life: Life) -> tuple[dict[str, int], int]:
        lab, slow = lab_of(bounds, size=256 * 1024)
        store.now = lab.trial.clock.at
        lab.gate = replace(with_runner(lab, slow), counters=life.counters, claims=life.counters)
        return Counter(await many(lab, 10 * most)), len(records(lab, "budget.warned"))

    ended, told = store.run(body)
    assert ended == {"done": most, code: 9 * most}
    assert told == (0 if name in ("rate", "wall") else 1)  # time was reserved, and not used
