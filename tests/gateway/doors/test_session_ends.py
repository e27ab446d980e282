"""Sessions over REST: what they may use up, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.tool import HttpBackend
from tests.gateway.doors.session_lab import COSTLY, QUICK, Slow, ask, code, lab_of, opened, records, until

# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_ten_times_as_many_concurrent_calls_exactly_the_budget_is_admitted() -> None:
    """Those under way count; with the session above spent, a fresh one below it has nothing left either."""

    async def tried() -> None:
        lab = lab_of()
        backend = Slow(asyncio.Event())
        lab.gate = replace(lab.gate, runners={HttpBackend: backend})
        top = await opened(lab, budget={"calls": 10})
        below = [await opened(lab, parent=top["id"], budget={"calls": 7}) for _ in range(2)]
        names = [top["id"], *(each["id"] for each in below)]
        calls = [asyncio.create_task(code(lab, names[number % 3])) for number in range(100)]
        await until(lambda: sum(call.done() for call in calls) >= 90)
        backend.gate.set()
        ended = await asyncio.gather(*calls)
        assert (backend.begun, ended.count("done"), ended.count("budget_exhausted")) == (10, 10, 90)
        fresh = await opened(lab, parent=top["id"])
        refused = await lab.rest("echo", {"text": "7"}, **{"Toolgate-Session": fresh["id"]})
        assert (refused.status, refused.json["code"], refused.json["retryable"]) == (403, "budget_exhausted", False)
        assert "of a session above this one is used up: it is for 10 calls" in refused.json["detail"]
        shown = (await ask(lab, "GET", f"/{top['id']}")).json
        assert (shown["budget"], shown["used"]) == ({"calls": 10}, {"calls": 10, "cost": 0})

    asyncio.run(tried())


def test_a_budget_of_cost_is_for_that_many_calls_and_refused_ones_cost_nothing() -> None:
    """Three calls of 0.1 fit into 0.3; a call that policy or a rate refuses, or that was never sent, gives it back."""

    async def tried() -> None:
        lab = lab_of(COSTLY)
        made = (await opened(lab, budget={"cost": 0.3}))["id"]
        assert await code(lab, made, "war") == "forbidden"
        assert [await code(lab, made) for _ in range(4)] == ["done", "done", "done", "budget_exhausted"]
        short = lab_of(QUICK.replace("100000/1s", "1/1m"))
        made = (await opened(short, budget={"calls": 2}))["id"]
        assert [await code(short, made) for _ in range(3)] == ["done", "rate_limited", "rate_limited"]
        assert (await ask(short, "GET", f"/{made}")).json["used"] == {"calls": 1, "cost": 0}

    asyncio.run(tried())


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"token": 5}, "'token' is no dimension of a budget, only calls, cost, wall, sandbox, bytes, tokens are"),
        ({"calls": 1.5}, "calls is a whole number, 0 or more"),
        ({"calls": -1}, "calls is a whole number, 0 or more"),
        ({"cost": -0.1}, "cost is a number, 0 or more"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(budget: Mapping[str, float], said: str) -> None:
    """In a sentence that says which part of it."""
    reply = asyncio.run(ask(lab_of(), "POST", "", "dev", {"budget": budget}))
    assert (reply.status, reply.json["code"], said in reply.json["detail"]) == (400, "malformed", True)


# ── how they end ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_call_is_admitted_once_closing_has_returned() -> None:
    """A thousand calls on their way, the session closed in between: what has not begun by then never does."""

    async def tried() -> None:
        lab = lab_of()
        backend = Slow(asyncio.Event())
        lab.gate = replace(lab.gate, runners={HttpBackend: backend})
        backend.gate.set()
        made = (await opened(lab))["id"]

        async def late(number: int) -> str:
            for _ in range(number % 50):
                await asyncio.sleep(0)
            return await code(lab, made)

        calls = [asyncio.create_task(late(number)) for number in range(1000)]
        await until(lambda: backend.begun >= 100)
        assert (await ask(lab, "DELETE", f"/{made}")).status == 200
        admitted = backend.begun
        ended = await asyncio.gather(*calls)
        assert 0 < admitted < 1000
        assert (backend.begun, set(ended)) == (admitted, {"done", "session_closed"})
        assert ended.count("done") == admitted

    asyncio.run(tried())


def test_first_use_and_expiry_are_on_record_once() -> None:
    """A named session is opened by its first call; nobody has to ask for its end."""

    async def tried() -> None:
        lab = lab_of()
        assert await asyncio.gather(*(code(lab, "chat-1") for _ in range(20))) == ["done"] * 20
        (begun,) = records(lab, "session.opened")
        assert lab.trial.ledger.lines[0] == begun
        said = {name: begun.fields[name] for name in ("session_id", "labels", "budget", "ttl", "parent", "tenant")}
        assert said == {
            "session_id": "chat-1",
            "labels": [],
            "budget": {},
            "ttl": 86400,
            "parent": None,
            "tenant": "default",
        }
        assert begun.fields["principal"] == {"agent": "dev", "user": None}
        await lab.gate.record_sessions()
        lab.trial.clock.at += 86400
        await lab.gate.record_sessions()
        await lab.gate.record_sessions()
        assert await code(lab, "default") == "done"
        (ended,) = records(lab, "session.closed")
        assert (ended.fields["why"], ended.fields["calls"], ended.fields["uid"]) == ("expired", 20, begun.fields["uid"])

    asyncio.run(tried())
