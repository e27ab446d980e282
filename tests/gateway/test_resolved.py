"""A call in doubt that an operator settles counts so at once in the running gateway, as it would after a restart."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from gateway.aggregates import Cell, Entry, Reservation
from gateway.audit import query
from gateway.audit.ledger import open_ledger
from gateway.history import History
from gateway.model import RawOutput
from gateway.reliability.cells import Cells
from gateway.stores.counters import MemoryCounters
from gateway.tool import HttpBackend
from gateway.upkeep import LedgerUpkeep
from gateway.work import Work
from tests.gateway.test_history import STATED, Life, Told, bundle_of
from tests.gateway.test_state_line import SPECS
from tests.kit import Lab

WHO = {"authn": "local", "uid": 1000}
BEFORE = (("pay", {"amount": 5, "pr": 1}), ("review", {"pr": 7, "amount": 0}))
AFTER = ("pay", {"amount": 2, "pr": 1})
Settled = Literal["done", "not-done"]


@dataclass
class Killed(Told):
    """A runner that copies the home while a call of the amount 77 is under way: what a kill would have left."""

    home: Path
    copy: Path

    async def run(self, work: Work) -> RawOutput:
        if work.arguments["amount"] == 77:
            shutil.copytree(self.home, self.copy)
        return await super().run(work)


async def settled(tmp_path: Path, tool: str, pr: int, ended: Settled) -> list[dict[str, object]]:
    """What a payment reads of the past, with one call in doubt, and once that was settled: in the gateway that runs,
    and in one that reads the ledger anew."""
    first, home = tmp_path / "first", tmp_path / "home"
    lab = Lab.of(SPECS, {"lab.yaml": STATED})
    bundle, clock = bundle_of(STATED), lab.trial.clock
    ledger = open_ledger(first, clock=clock.now)
    lab.gate = replace(lab.gate, ledger=ledger, runners={HttpBackend: Killed(first, home)}, counters=MemoryCounters())
    for name, arguments in (*BEFORE, (tool, {"amount": 77, "pr": pr})):
        assert (await lab.call(name, arguments)).status == "done"
        clock.at += 10
    await ledger.close()

    ledger, counters = open_ledger(home, clock=clock.now), MemoryCounters()
    history = History(home, counters, clock, print)
    await history.prepare(bundle, [])
    lab.gate = replace(lab.gate, ledger=ledger, counters=counters)
    await lab.call(*AFTER)
    life = Life(home, lab)
    (doubt,) = query.in_doubt(home)
    seen = [life.levels(counters, bundle, pr=pr)]
    upkeep = LedgerUpkeep(home, ledger, count=history.resolved)
    await upkeep.resolve(str(doubt["call_id"]), ended, "Looked it up.", WHO)
    seen.append(life.levels(counters, bundle, pr=pr))
    await ledger.close()
    return [*seen, life.levels(life.read(bundle)[0], bundle, pr=pr)]


def test_what_never_ran_gives_back_what_it_had_reserved(tmp_path: Path) -> None:
    """The count, the sum and the different values are those of the other calls."""
    doubtful, running, restarted = asyncio.run(settled(tmp_path, "pay", 3, "not-done"))
    assert (doubtful["times"], doubtful["paid"], doubtful["numbers"]) == (3, 84.0, 3)
    assert running == restarted
    assert (running["times"], running["paid"], running["numbers"]) == (2, 7.0, 2)


def test_what_was_done_counts_as_done(tmp_path: Path) -> None:
    """A review makes `formerly` true; what it had reserved stays."""
    doubtful, running, restarted = asyncio.run(settled(tmp_path, "review", 9, "done"))
    assert (doubtful["reviewed"], running["reviewed"]) == (False, True)
    assert running == restarted
    assert {name: running[name] for name in ("times", "numbers", "last")} == {
        name: doubtful[name] for name in ("times", "numbers", "last")
    }


def test_the_latest_is_the_one_before_when_the_last_never_ran(tmp_path: Path) -> None:
    """`since` goes back to the review before, `formerly` of the same value too."""
    doubtful, running, restarted = asyncio.run(settled(tmp_path, "review", 7, "not-done"))
    assert (doubtful["last"], running["last"]) == (10.0, 20.0)
    assert running["reviewed"] is True
    assert running == restarted


@pytest.mark.parametrize("kind", ["count", "sum", "count_distinct", "since", "formerly"])
def test_only_the_call_that_is_meant_is_taken_back(kind: Literal["count", "sum"]) -> None:
    """Twice is once, and a call that is under way meanwhile ends as it does."""
    cell, cells = Cell("state.x", "x", kind, 100.0), Cells()
    made = [Reservation(f"c{at}", float(at), (), (Entry(cell, _amount(kind, at)),)) for at in range(3)]
    for one in made:
        cells.reserve(one)
    cells.settle(made[0], "done")
    cells.settle(made[1], "done")
    past = Cells()
    past.reserve(made[0])
    past.settle(made[0], "done")
    for _ in range(2):
        cells.restate(made[1], "refused", past)
    cells.settle(made[2], "refused")
    assert cells.look([cell], 50.0)["x"].value == past.look([cell], 50.0)["x"].value


def _amount(kind: str, at: int) -> Decimal | str | None:
    if kind == "sum":
        return Decimal(at + 1)
    return f"word {at}" if kind == "count_distinct" else None
