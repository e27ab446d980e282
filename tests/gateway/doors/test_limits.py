"""What callers see of limits, over REST and MCP: headers, notes, budgets and what they report themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.admission import Bounds, Budget
from gateway.tool import Rate
from tests.gateway.doors.session_lab import WHO, opened
from tests.gateway.doors.session_lab import ask as ask_sessions
from tests.kit import ECHO, PERMIT, Lab, Reply

ARGUMENTS = {"text": "hello"}
RULED = PERMIT.replace("""when: ['args.text != "secret"']}""", """with: {limit: {key: agent, calls: 5/10s}}}""")


def lab_of(bounds: Bounds | None = None, policy: str = PERMIT) -> Lab:
    """A lab with these limits, that knows everybody of `WHO`."""
    lab = Lab.of({"echo.yaml": ECHO.replace("100/1m", "3/1m")}, {"lab.yaml": policy}, bounds=bounds)
    lab.trial.authority.principals.update(WHO)
    return lab


async def over_mcp(lab: Lab, modern: bool = True, **more: Any) -> Reply:
    """One call over MCP, with its headers."""
    return await lab.rpc("tools/call", {"name": "echo", "arguments": ARGUMENTS, **more}, modern=modern)


def test_every_answer_says_how_the_rates_stand() -> None:
    """Each rate by name, in structured fields: of the rule, the tool and the settings."""
    lab = lab_of(Bounds(rates={"tenant": Rate(1000, 86400.0), "tool": Rate(50, 0.5)}), RULED)

    async def test() -> tuple[Reply, Reply]:
        return await lab.rest("echo", ARGUMENTS), await over_mcp(lab)

    first, second = asyncio.run(test())
    policy = '"rule-echo-ok";q=5;w=10, "tool";q=3;w=60, "limits-tenant";q=1000;w=86400, "limits-tool";q=50;w=1'
    assert (first.headers["ratelimit-policy"], second.headers["ratelimit-policy"]) == (policy, policy)
    assert first.headers["ratelimit"] == (
        '"rule-echo-ok";r=4;t=2, "tool";r=2;t=20, "limits-tenant";r=999;t=87, "limits-tool";r=49;t=1'
    )
    assert second.headers["ratelimit"].startswith('"rule-echo-ok";r=3;t=4, "tool";r=1;t=40')


@pytest.mark.parametrize("modern", [True, False])
def test_a_call_that_comes_too_soon_is_told_when_to_come(modern: bool) -> None:
    """429 with what is left, which is nothing, and `Retry-After`; over MCP the same headers on the answer."""
    lab = lab_of()

    async def test() -> tuple[Reply, Reply]:
        for _ in range(3):
            await lab.rest("echo", ARGUMENTS)
        return await lab.rest("echo", ARGUMENTS), await over_mcp(lab, modern)

    rest, mcp = asyncio.run(test())
    assert (rest.status, mcp.status) == (429, 200)
    assert mcp.json["result"]["isError"]
    for reply in (rest, mcp):
        assert reply.headers["ratelimit"] == '"tool";r=0;t=60'
        assert reply.headers["retry-after"] == "20"


def test_a_call_that_no_rate_bounds_has_no_such_headers() -> None:
    """Nor has a refusal that spent none."""
    lab = Lab.of({"echo.yaml": ECHO.replace("limits: {calls: 100/1m}\n", "")})

    async def test() -> list[Reply]:
        return [await lab.rest("echo", ARGUMENTS), await lab.rest("echo", {"text": "war"}), await over_mcp(lab)]

    assert not [name for reply in asyncio.run(test()) for name in reply.headers if name.startswith("ratelimit")]


@pytest.mark.parametrize("door", ["rest", "modern", "legacy"])
def test_a_loop_is_stopped_in_words(door: str) -> None:
    """220 times the same: over each door no more than ten run, and what stops it can be read and is no retry."""
    lab = Lab.of({"echo.yaml": ECHO.replace("100/1m", "100000/1s")}, bounds=Bounds(repeats=10))

    async def one() -> tuple[int, Any]:
        lab.trial.clock.at += 2.0
        if door == "rest":
            reply = await lab.rest("echo", ARGUMENTS)
            return reply.status, reply.json
        reply = await over_mcp(lab, door == "modern")
        return reply.status, reply.json["result"]

    async def test() -> list[tuple[int, Any]]:
        return [await one() for _ in range(220)]

    answers = asyncio.run(test())
    assert len(lab.trial.net.asked) == 10
    status, last = answers[-1]
    problem = last if door == "rest" else last["_meta"]["dev.toolgate/problem"]
    said = problem["detail"] if door == "rest" else last["content"][0]["text"]
    assert status == (403 if door == "rest" else 200)
    assert (problem["code"], problem["retryable"]) == ("loop_detected", False)
    assert "was asked for 220 times in a row with the same arguments, and gave the same result each time" in said
    assert "Stop: do not make this call again" in (problem["advice"] if door == "rest" else said)
    told = answers[4][1]
    shown = told["result"]["content"] if door == "rest" else told["content"]
    assert "It is stopped after 10 of them" in shown[1]["text"]
    assert (told["notes"] if door == "rest" else told["_meta"]["dev.toolgate/notes"]) == [shown[1]["text"]]


def test_clients_report_tokens_of_their_own_session() -> None:
    """A whole number of a bounded size, by the session's owner; what is shown as used is what was reported."""
    lab = lab_of(Bounds(budgets=(Budget("session", {"tokens": 10_000}),)))

    async def test() -> None:
        session = await opened(lab, budget={"tokens": 5000, "calls": 3})
        path = f"/{session['id']}/usage"
        reply = await ask_sessions(lab, "POST", path, body={"tokens": 1200})
        assert reply.status == 200
        assert reply.json["used"] == {"calls": 0, "cost": 0.0, "tokens": 1200}
        assert reply.json["limits"] == [
            {"over": "session", "within": None, "most": {"tokens": 10_000}, "used": {"tokens": 1200}}
        ]
        for bad in ({}, {"tokens": 0}, {"tokens": -1}, {"tokens": 1.5}, {"tokens": "7"}, {"tokens": True}):
            assert (await ask_sessions(lab, "POST", path, body=bad)).status == 400
        for bad in ({"tokens": 10**10}, {"tokens": 1, "calls": -1}):
            assert (await ask_sessions(lab, "POST", path, body=bad)).status == 400
        for other in ("bot", "ann", "ops", "stranger"):
            assert (await ask_sessions(lab, "POST", path, other, {"tokens": 1})).status == 404
        assert (await ask_sessions(lab, "POST", path, "eyes", {"tokens": 1})).status == 403
        await ask_sessions(lab, "DELETE", f"/{session['id']}")
        assert (await ask_sessions(lab, "POST", path, body={"tokens": 1})).json["code"] == "session_closed"

    asyncio.run(test())


@pytest.mark.parametrize("door", ["rest", "modern", "legacy"])
def test_a_call_may_bring_what_was_used_before_it(door: str) -> None:
    """In a header, or in `_meta`: it counts before the call, and what is no number refuses it."""
    lab = lab_of(Bounds(budgets=(Budget("session", {"tokens": 100}),)))

    async def one(tokens: Any) -> str | None:
        if door == "rest":
            said = (await lab.rest("echo", ARGUMENTS, **{"Toolgate-Tokens": str(tokens)})).json
            return str(said["code"]) if "code" in said else None
        params = {"name": "echo", "arguments": ARGUMENTS, "_meta": {"dev.toolgate/tokens": tokens}}
        result = (await lab.rpc("tools/call", params, modern=door == "modern")).json["result"]
        return result["_meta"]["dev.toolgate/problem"]["code"] if result["isError"] else None

    async def test() -> list[str | None]:
        return [await one(tokens) for tokens in (60, "many", 0, 60, 1)]

    assert asyncio.run(test()) == [None, "malformed", "malformed", "budget_exhausted", "budget_exhausted"]


def test_operators_see_what_their_tenant_and_its_principals_have_used() -> None:
    """In the words of settings, by owner and window; another tenant's is another."""
    budgets = (Budget("tenant", {"calls": 100, "cost": 2_000_000}, 86400.0), Budget("principal", {"calls": 10}))
    lab = lab_of(Bounds(budgets=budgets))

    async def test() -> None:
        await lab.rest("echo", ARGUMENTS)
        await lab.rest("echo", ARGUMENTS, "ann")
        tenant = {"over": "tenant", "within": 86400.0, "most": {"calls": 100, "cost": 2.0}}
        own = {"over": "principal", "within": None, "most": {"calls": 10}}
        found = await lab.http("GET", "/v1/budgets", by="ops")
        assert found.json == {"budgets": [tenant | {"used": {"calls": 2, "cost": 0.0}}]}
        found = await lab.http("GET", "/v1/budgets?agent=dev&user=ann", by="ops")
        assert found.json["budgets"][1] == own | {"used": {"calls": 1}}
        found = await lab.http("GET", "/v1/budgets?agent=dev", by="strange-ops")
        assert [each["used"]["calls"] for each in found.json["budgets"]] == [0, 0]
        assert (await lab.http("GET", "/v1/budgets")).json["code"] == "insufficient_scope"
        assert (await lab.http("GET", "/v1/budgets?whose=dev", by="ops")).status == 400

    asyncio.run(test())
