"""Confirmations over MCP: asked of the requester's own person, answered once, and never more than a confirmation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from gateway.doors.mcp import McpDoor
from gateway.model import Principal
from tests.gateway.doors.mcp_client import PROBLEM, meta, modern_headers, request, run
from tests.kit import DEV, ECHO, Lab, Reply, of_calls

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: say, effect: permit, match: {tools: [echo, shout]}, with: {approval: {by: [requester], ttl: 10m}}}
"""
APPROVE = POLICY.replace("[requester]", '["group:managers"]')
EITHER = POLICY.replace("[requester]", '[requester, "group:managers"]')
BOTH = APPROVE + "- {id: too, effect: permit, match: {tools: [echo]}, with: {approval: {by: [requester], ttl: 10m}}}\n"
FREE = POLICY.replace(", with: {approval: {by: [requester], ttl: 10m}}", "")
SPECS = {"echo.yaml": ECHO, "shout.yaml": ECHO.replace("name: echo", "name: shout")}
HI = {"text": "hi"}
FORM: dict[str, Any] = {"elicitation": {"form": {}}}
YES = {"action": "accept", "content": {"ok": True}}
ANN = Principal("desk", "default", "ann", frozenset({"managers"}), frozenset({"approver"}), token_id="k_ann")


def lab_of(policy: str = POLICY) -> Lab:
    """A lab in which agents dev and eve act for bob and for eve."""
    lab = Lab.of(SPECS, {"lab.yaml": policy})
    known = lab.trial.authority.principals
    known["dev"] = replace(DEV, user="bob")
    known["eve"] = replace(DEV, agent="eve", user="eve", token_id="k_eve")
    return lab


async def sent(lab: Lab, *, tool: str = "echo", by: str = "dev", can: Any = FORM, args: Any = HI, **more: Any) -> Reply:
    """One modern `tools/call` of a client that declares `can`, with whatever more stands in its params."""
    said = meta(**{"io.modelcontextprotocol/clientCapabilities": can})
    body = request("tools/call", {"name": tool, "arguments": args, "_meta": said, **more})
    return await lab.http("POST", "/mcp", json.dumps(body).encode(), by, **modern_headers("tools/call", tool))


async def called(lab: Lab, **more: Any) -> Any:
    """The result of such a call."""
    answer = await sent(lab, **more)
    assert answer.status == 200
    return answer.json["result"]


async def asked(lab: Lab, **more: Any) -> str:
    """The state of the question that a call is answered with."""
    result = await called(lab, **more)
    assert result["resultType"] == "input_required"
    return str(result["requestState"])


def answering(state: str, said: Any = YES) -> dict[str, Any]:
    """What a client adds to its call when its person has answered."""
    return {"requestState": state, "inputResponses": {"confirm": said}}


def code(result: Any) -> str:
    """The problem of a result that a model can read."""
    assert result["isError"] is True
    return str(result["_meta"][PROBLEM]["code"])


def decisions(lab: Lab) -> list[Any]:
    """What is on record of answers."""
    return [line.fields for line in lab.trial.ledger.lines if line.type == "approval.decided"]


def test_a_person_is_asked_and_says_yes() -> None:
    """A closed form, in words that hide nothing; with the yes the call goes on in the same request, once."""

    async def scene() -> None:
        lab = lab_of()
        first = await called(lab, args={"text": "hi \u202e\u001b[2J"})
        assert first.keys() == {"resultType", "inputRequests", "requestState", "_meta"}
        question = first["inputRequests"]["confirm"]
        assert question["method"] == "elicitation/create"
        assert question["params"]["mode"] == "form"
        assert question["params"]["requestedSchema"]["properties"].keys() == {"ok"}
        assert question["params"]["requestedSchema"]["properties"]["ok"]["default"] is False
        said = question["params"]["message"]
        assert "dev wants to call echo" in said
        assert "Rule say" in said
        assert '"text": "hi \\u{202e}\\u{1b}[2J"' in said
        assert lab.trial.net.asked == []
        second = await called(lab, args={"text": "hi \u202e\u001b[2J"}, **answering(first["requestState"]))
        assert (second["resultType"], second["isError"]) == ("complete", False)
        assert len(lab.trial.net.asked) == 1
        (decision,) = decisions(lab)
        assert (decision["via"], decision["by"]["person"], decision["yes"]) == ("elicitation", "bob", True)
        kinds = [line.type for line in of_calls(lab.trial.ledger.lines)]
        assert kinds == ["call.parked", "call.intent", "call.outcome"]

    run(scene())


@pytest.mark.parametrize(
    "said",
    [{"action": "decline"}, {"action": "cancel"}, {"action": "accept", "content": {"ok": False}}],
    ids=["decline", "cancel", "no"],
)
def test_what_is_not_confirmed_does_not_happen(said: Any) -> None:
    """A no, in whichever way it is said, denies the call: a text for the model, and nothing sent."""

    async def scene() -> None:
        lab = lab_of()
        result = await called(lab, **answering(await asked(lab), said))
        assert code(result) == "approval_denied"
        assert "a person said no" in result["content"][0]["text"]
        assert code(await called(lab)) == "approval_denied"
        assert lab.trial.net.asked == []
        assert [decision["yes"] for decision in decisions(lab)] == [False]

    run(scene())


@pytest.mark.parametrize(
    "responses",
    [
        None,
        {},
        7,
        [YES],
        {"other": YES},
        {"confirm": 7},
        {"confirm": {"action": "accept"}},
        {"confirm": {"action": "accept", "content": {}}},
        {"confirm": {"action": "accept", "content": {"ok": "true"}}},
        {"confirm": {"action": "accept", "content": {"ok": 1}}},
        {"confirm": {"action": ["accept"], "content": {"ok": True}}},
        {"confirm": {"content": {"ok": True}}},
    ],
)
def test_half_an_answer_is_none(responses: Any) -> None:
    """Whoever sends a form off without a yes or no in it is asked again, under the same approval."""

    async def scene() -> None:
        lab = lab_of()
        state = await asked(lab)
        again = await called(lab, requestState=state, inputResponses=responses)
        assert again["resultType"] == "input_required"
        assert decisions(lab) == []
        assert lab.trial.net.asked == []
        assert (await called(lab, **answering(again["requestState"])))["isError"] is False

    run(scene())


def test_an_answer_to_a_question_that_is_not_named_is_none() -> None:
    """A yes without the state that came with the question is not heard: the person is asked."""

    async def scene() -> None:
        lab = lab_of()
        for more in ({}, {"requestState": None}):
            assert (await called(lab, inputResponses={"confirm": YES}, **more))["resultType"] == "input_required"
        assert decisions(lab) == []

    run(scene())


@pytest.mark.parametrize(
    "can",
    [{}, {"elicitation": {"url": {}}}, {"elicitation": True}, {"elicitation": {"form": None}}, {"sampling": {}}],
)
def test_a_client_that_cannot_ask_is_told_in_words(can: Any) -> None:
    """The text says that a person has to confirm, and what to do then; the approval's id is for machines as well."""

    async def scene() -> None:
        lab = lab_of()
        result = await called(lab, can=can)
        assert code(result) == "approval_required"
        approval = result["_meta"][PROBLEM]["approval"]
        assert approval in result["content"][0]["text"]
        assert "Call again with the same arguments" in result["content"][0]["text"]

    run(scene())


def test_a_client_that_names_no_mode_is_asked_by_a_form() -> None:
    """`"elicitation": {}` has always meant forms."""

    async def scene() -> None:
        lab = lab_of()
        state = await asked(lab, can={"elicitation": {}})
        assert (await called(lab, can={"elicitation": {}}, **answering(state)))["isError"] is False

    run(scene())


def test_older_clients_are_told_in_words() -> None:
    """2025-11-25 would ask over a stream of its own, which there is none of here; what it sends along is not read."""

    async def scene() -> None:
        lab = lab_of()
        state = await asked(lab)
        for more in ({}, answering(state)):
            params = {"name": "echo", "arguments": HI, **more}
            answer = await lab.rpc("tools/call", params, modern=False)
            assert (answer.status, code(answer.json["result"])) == (200, "approval_required")
        assert decisions(lab) == []

    run(scene())


@pytest.mark.parametrize("policy", [APPROVE, EITHER], ids=["approve", "either"])
def test_a_client_that_accepts_everything_approves_nothing(policy: str) -> None:
    """Where another person may have to say yes, there is no question and no state, whatever it sends."""

    async def scene() -> None:
        lab = lab_of(policy)
        other = await asked(lab_of(), **{})
        for more in ({}, {"inputResponses": {"confirm": YES}}):
            result = await called(lab, **more)
            assert (result["resultType"], code(result)) == ("complete", "approval_required")
            assert "requestState" not in result
        refused = await sent(lab, **answering(other))
        assert refused.json["error"]["code"] == -32602
        assert decisions(lab) == []
        assert lab.trial.net.asked == []

    run(scene())


def test_a_confirmation_is_none_of_the_approvals_that_a_call_needs_beside_it() -> None:
    """The requester is asked for what is theirs to say; the call goes on waiting for the other person's yes."""

    async def scene() -> None:
        lab = lab_of(BOTH)
        first = await called(lab)
        said = first["inputRequests"]["confirm"]["params"]["message"]
        assert "Rule too permits it only with your yes" in said
        assert "It needs the yes of others too" in said
        waits = await called(lab, **answering(first["requestState"]))
        assert code(waits) == "approval_required"
        assert code(await called(lab, **answering(first["requestState"]))) == "insufficient_scope"
        assert [decision["rules"] for decision in decisions(lab)] == [["too"]]
        assert lab.trial.net.asked == []
        await lab.gate.answer(ANN, waits["_meta"][PROBLEM]["approval"], True)
        assert (await called(lab))["isError"] is False
        assert len(lab.trial.net.asked) == 1

    run(scene())


def test_an_approval_by_another_person_lets_the_same_call_through() -> None:
    """What elicitation cannot grant, a manager can; the agent then calls as it did before."""

    async def scene() -> None:
        lab = lab_of(APPROVE)
        approval = (await called(lab))["_meta"][PROBLEM]["approval"]
        await lab.gate.answer(ANN, approval, True)
        assert (await called(lab))["isError"] is False
        assert len(lab.trial.net.asked) == 1

    run(scene())


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
