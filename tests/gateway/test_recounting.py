"""A Redis that was emptied gets back from a home's own ledger what its calls had counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.admission import Bounds, Budget
from gateway.app import SystemClock
from gateway.audit.ledger import open_ledger
from gateway.model import Outcome, RawOutput
from gateway.recounting import Recount, recount
from gateway.stores.redis_counters import RedisCounters
from gateway.tool import HttpBackend, Rate
from gateway.work import Work
from tests.gateway.stores.redis_life import opened
from tests.kit import Lab
from tests.redisserver import RedisServer

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: pay
version: 1.0.0
description: Pays.
input_schema: {type: object, properties: {amount: {type: integer}}, required: [amount]}
effects: [write]
runner:
  http: {method: POST, url: "https://pay.example.com/pay", json: {amount: "{amount}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: ok, effect: permit, match: {tools: ["*"]}}
"""
BOUNDS = Bounds({"tenant": Rate(6, 3600.0)}, (Budget("tenant", {"calls": 1000, "wall": 1_000_000}, 86400.0),))


@dataclass
class Till:
    """Pays; waits for `go` where the amount is 77."""

    paid: list[object] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, work: Work) -> RawOutput:
        self.paid.append(work.arguments["amount"])
        if work.arguments["amount"] == 77:
            await self.go.wait()
        return RawOutput(f"paid {work.arguments['amount']}")


@asynccontextmanager
async def shop(server: RedisServer, home: Path, me: str = "one") -> AsyncIterator[tuple[Lab, Till, RedisCounters]]:
    """A gateway with a real ledger that counts in Redis."""
    clock, till, lab = SystemClock(), Till(), Lab.of({"pay.yaml": SPEC}, {"lab.yaml": POLICY})
    ledger = open_ledger(home, clock=clock.now)
    try:
        async with opened(server, me, past=Recount(home, BOUNDS, clock)) as counters:
            given = {"ledger": ledger, "counters": counters, "claims": counters, "bounds": BOUNDS, "clock": clock}
            lab.gate = replace(lab.gate, runners={HttpBackend: till}, **given)
            yield lab, till, counters
    finally:
        await ledger.close()


async def pay(lab: Lab, amount: int, key: str) -> tuple[str, str | None, str]:
    """Status, code and text of a payment."""
    outcome: Outcome = await lab.call("pay", {"amount": amount}, idempotency_key=key)
    return outcome.status, outcome.problem.code if outcome.problem else None, outcome.text


def test_what_was_counted_counts_again(redis_server: RedisServer, tmp_path: Path) -> None:
    """After FLUSHALL nothing runs twice for one key, a call that was under way ends once, budgets and rates are as
    they were; with effects nothing runs in between."""

    async def go() -> None:
        async with shop(redis_server, tmp_path) as (lab, till, counters):
            assert await pay(lab, 5, "a") == ("done", None, "paid 5")
            assert await pay(lab, 6, "b") == ("done", None, "paid 6")
            slow = asyncio.create_task(pay(lab, 77, "c"))
            async with asyncio.timeout(20):
                while 77 not in till.paid:  # noqa: ASYNC110  # another task's state
                    await asyncio.sleep(0.01)
            redis_server.flush()
            assert (await pay(lab, 8, "d"))[1] == "overloaded"
            async with asyncio.timeout(20):
                while not counters.whole:  # noqa: ASYNC110  # another program's state
                    await asyncio.sleep(0.01)
            assert await pay(lab, 5, "a") == ("done", None, "paid 5")
            assert (await pay(lab, 77, "c"))[1] == "in_progress"
            till.go.set()
            assert await slow == ("done", None, "paid 77")
            assert await pay(lab, 77, "c") == ("done", None, "paid 77")
            got = [(await pay(lab, 9 + n, f"e{n}"))[1] for n in range(4)]
            assert got == [None, None, None, "rate_limited"]
            assert till.paid == [5, 6, 77, 9, 10, 11]
            await counters.told()
            (key,) = {used.key for used in recount(tmp_path, SystemClock().now(), 3600.0, frozenset()).used}
            assert (await counters.used([key]))[key]["calls"] == 6

    asyncio.run(go())


def test_a_rate_that_two_spent_is_spent_for_both(redis_server: RedisServer, tmp_path: Path) -> None:
    """What each has on record of a rate says what both had spent of it: after FLUSHALL there is no more of it."""

    async def go() -> None:
        homes = [tmp_path / name for name in ("one", "two")]
        async with (
            shop(redis_server, homes[0]) as (lab, _, one),
            shop(redis_server, homes[1], "two") as (other, _, two),
        ):
            paid = [await pay(each, n, f"{n}{each is lab}") for n in range(3) for each in (lab, other)]
            assert [status for status, _, _ in paid] == ["done"] * 6
            redis_server.flush()
            assert [(await pay(each, 9, "x"))[1] for each in (lab, other)] == ["overloaded"] * 2
            async with asyncio.timeout(20):
                while not (one.whole and two.whole):  # noqa: ASYNC110  # another program's state
                    await asyncio.sleep(0.01)
            assert [(await pay(each, 9, "x"))[1] for each in (lab, other)] == ["rate_limited"] * 2

    asyncio.run(go())


def test_a_home_without_a_ledger_has_no_past(tmp_path: Path) -> None:
    """Nothing is read, nothing is put back."""
    found = recount(tmp_path, 1000.0, 3600.0, frozenset())
    assert (found.claims, found.used, found.rates) == ((), (), {})
