"""A caller may go away at any moment: every place where a call waits is tried, over a real ledger and database."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import query
from gateway.audit.ledger import open_ledger
from gateway.model import Outcome, RawOutput
from gateway.stores.sqlite import State
from gateway.stores.sqlite_sessions import SqliteSessions
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.kit import ECHO, Lab

LABELLED = ECHO.replace("effects: [read]", "effects: [read]\nlabels: {output: [pii]}").replace("100}", "200000}")


class Waits:
    """A runner that waits once before it answers."""

    async def run(self, work: Work) -> RawOutput:
        await asyncio.sleep(0.001)
        return RawOutput("x")


async def cancelled_at(nth: int, call: Coroutine[Any, Any, Outcome]) -> bool:
    """Runs the call and cancels it the `nth` time it waits for something; false when it never waits that often."""
    task = asyncio.ensure_future(call)
    waits, last = 0, None
    while not task.done():
        waiting_for = getattr(task, "_fut_waiter", None)
        if waiting_for is not None and waiting_for is not last:
            last, waits = waiting_for, waits + 1
            if waits == nth:
                task.cancel()
        await asyncio.sleep(0)
    await task
    return waits >= nth


async def cancel_everywhere(home: Path, text: str) -> tuple[int, dict[str, list[str]], object]:
    """How many places there are, the types of the records of each call, and the concurrency slots still taken."""
    ledger = open_ledger(home)
    with closing(State(home / "state.db")) as state:
        lab = Lab.of({"echo.yaml": LABELLED})
        lab.gate = replace(lab.gate, runners={HttpBackend: Waits()}, ledger=ledger, sessions=SqliteSessions(state))
        nth = 1
        while await cancelled_at(nth, lab.call("echo", {"text": text}, session=f"n{nth}")):
            nth += 1
        await ledger.close()
    types: dict[str, list[str]] = {}
    for record in query.tail(home, 1000):
        if "call_id" in record:
            types.setdefault(str(record["call_id"]), []).append(str(record["type"]))
    return nth - 1, types, getattr(lab.gate.counters, "_running")  # noqa: B009  # the port does not tell


@pytest.mark.parametrize("size", [3, 150_000])
def test_wherever_a_call_is_cancelled_its_intent_gets_an_outcome_and_its_slot_comes_back(
    tmp_path: Path, size: int
) -> None:
    """Also while its outcome is written, its labels are kept, or a body too large for the log goes into a file."""
    places, types, running = asyncio.run(cancel_everywhere(tmp_path, "y" * size))
    assert places >= 4
    assert len(types) >= places
    intended = [each for each in types.values() if "call.intent" in each]
    assert intended
    assert all(each in (["call.intent", "call.outcome"], ["call.intent", "call.refused"]) for each in intended)
    assert running == {}
