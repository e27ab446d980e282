"""Confirmations over MCP: asked of the requester's own person, and never more than a confirmation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.doors.asking_lab import (
    ANN,
    APPROVE,
    BOTH,
    EITHER,
    HI,
    YES,
    answering,
    asked,
    called,
    code,
    decisions,
    lab_of,
    sent,
)
from tests.gateway.doors.mcp_client import PROBLEM, run
from tests.kit import of_calls


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
