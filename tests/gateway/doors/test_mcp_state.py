"""What a client carries from a question to its answer: good once, for the very call it was given for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from gateway.doors.mcp import McpDoor
from tests.gateway.doors.asking_lab import POLICY, YES, answering, asked, called, code, decisions, lab_of, sent
from tests.gateway.doors.mcp_client import PROBLEM, run
from tests.kit import DEV, Lab, Reply, of_calls

Attack = Callable[[Lab, str], Coroutine[Any, Any, Reply]]


async def _tampered(lab: Lab, state: str) -> Reply:
    return await sent(lab, **answering(state + "-TAMPERED"))


async def _longer(lab: Lab, state: str) -> Reply:
    said, _, signature = state.partition(".")
    return await sent(lab, **answering(f"{said}0.{signature}"))


async def _other_approval(lab: Lab, state: str) -> Reply:
    _, _, signature = (await asked(lab, args={"text": "other"})).partition(".")
    return await sent(lab, **answering(f"{state.partition('.')[0]}.{signature}"))


async def _unsigned(lab: Lab, state: str) -> Reply:
    return await sent(lab, **answering(state.partition(".")[0]))


async def _not_a_text(lab: Lab, state: str) -> Reply:
    return await sent(lab, **{**answering(state), "requestState": {"state": state}})


async def _far_too_long(lab: Lab, state: str) -> Reply:
    return await sent(lab, **answering(state + "é" * 100_000))


async def _other_arguments(lab: Lab, state: str) -> Reply:
    return await sent(lab, args={"text": "hi!"}, **answering(state))


async def _other_tool(lab: Lab, state: str) -> Reply:
    return await sent(lab, tool="shout", **answering(state))


async def _other_principal(lab: Lab, state: str) -> Reply:
    lab.trial.authority.principals["eve"] = replace(DEV, user="eve", token_id="k_eve")
    return await sent(lab, by="eve", **answering(state))


async def _not_declared(lab: Lab, state: str) -> Reply:
    return await sent(lab, can={}, **answering(state))


async def _another_gateway(lab: Lab, state: str) -> Reply:
    return await sent(lab, **answering(await asked(lab_of())))


@pytest.mark.parametrize(
    "attack",
    [
        _tampered,
        _longer,
        _other_approval,
        _unsigned,
        _not_a_text,
        _far_too_long,
        _other_arguments,
        _other_tool,
        _other_principal,
        _not_declared,
        _another_gateway,
    ],
)
def test_a_state_that_was_not_given_for_this_very_call_is_refused(attack: Attack) -> None:
    """-32602 with a typed problem, on record as a refused call; nothing was answered and nothing sent."""

    async def scene() -> None:
        lab = lab_of(POLICY.replace("agents: [dev]", "agents: [dev, eve]"))
        answer = await attack(lab, await asked(lab))
        assert answer.status == 200
        error = answer.json["error"]
        assert (error["code"], error["data"][PROBLEM]["code"]) == (-32602, "malformed")
        last = of_calls(lab.trial.ledger.lines)[-1]
        assert last.type == "call.refused"
        assert last.fields["call_id"] == error["data"][PROBLEM]["call_id"]
        assert decisions(lab) == []
        assert lab.trial.net.asked == []

    run(scene())


@pytest.mark.parametrize("said", [YES, {"action": "decline"}], ids=["yes", "no"])
def test_a_state_is_answered_once(said: Any) -> None:
    """The same answer again, or another one, is refused on record; a call that happened does not happen again."""

    async def scene() -> None:
        lab = lab_of()
        state = await asked(lab)
        await called(lab, **answering(state, said))
        happened = len(lab.trial.net.asked)
        for again in (said, YES):
            assert code(await called(lab, **answering(state, again))) == "approval_expired"
        assert len(lab.trial.net.asked) == happened
        assert len(decisions(lab)) == 1

    run(scene())


def test_two_states_of_one_question_are_one_yes() -> None:
    """A client that asked twice has two states of one approval: one of them is answered, and the call happens once."""

    async def scene() -> None:
        lab = lab_of()
        states = [await asked(lab), await asked(lab)]
        results = await asyncio.gather(*(called(lab, **answering(state)) for state in states))
        assert sorted(result["isError"] for result in results) == [False, True]
        assert len(lab.trial.net.asked) == 1

    run(scene())


def test_an_answer_that_comes_too_late_is_none() -> None:
    """When the time of the approval is over, so is that of the state: the caller may ask anew."""

    async def scene() -> None:
        lab = lab_of()
        state = await asked(lab)
        lab.trial.clock.at += 600
        assert code(await called(lab, **answering(state))) == "approval_expired"
        assert decisions(lab) == []
        assert (await called(lab))["resultType"] == "input_required"

    run(scene())


def test_a_gateway_with_the_same_secret_takes_the_answer() -> None:
    """Gateways that share their secret and their approvals are one to a client; without, each door knows its own."""

    async def scene() -> None:
        lab = lab_of()
        doors = [McpDoor(lab.gate, "0", secret=b"shared" * 8) for _ in range(2)]
        lab.app = doors[0]
        state = await asked(lab)
        lab.app = doors[1]
        assert (await called(lab, **answering(state)))["isError"] is False

    run(scene())
