"""Calls that wait for a person: parked, answered, resumed once, and void for everything but exactly that call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.model import Outcome, Principal, Refusal, Request
from gateway.pipeline import Gate
from gateway.policy.cases import run_cases
from gateway.stores.approvals import MemoryApprovals
from gateway.trial import StillClock
from tests.kit import ECHO, Lab

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: say, effect: permit, match: {tools: [echo]}, with: {approval: {by: ["group:managers", "user:ann"], ttl: 10m}}}
"""
SECOND = """
- {id: also, effect: permit, match: {tools: [echo]}, with: {approval: {by: ["group:operators"], ttl: 1m}}}
"""
FREELY = """
- {id: freely, effect: permit, match: {tools: [echo]}}
"""
CONFIRM = POLICY.replace('["group:managers", "user:ann"]', "[requester]")
HELLO = {"text": "hi"}


def person(name: str | None, *scopes: str, token: str = "", **more: Any) -> Principal:
    """Somebody with a key of their own."""
    given = frozenset(scopes or ("operator",))
    return Principal("desk", more.pop("tenant", "default"), name, scopes=given, token_id=token or f"k_{name}", **more)


ANN = person("ann")


def lab_of(*rules: str, policy: str = POLICY, user: str | None = "bob") -> Lab:
    """A lab in which agent dev acts for a person."""
    lab = Lab.of(policies={"lab.yaml": policy + "".join(rules)})
    lab.trial.authority.principals["dev"] = replace(lab.trial.authority.principals["dev"], user=user)
    return lab


async def parked(lab: Lab, arguments: Mapping[str, Any] = HELLO, **more: Any) -> str:
    """The approval that a call waits for."""
    outcome = await lab.call("echo", dict(arguments), **more)
    assert (outcome.status, code(outcome)) == ("parked", "approval_required")
    assert outcome.problem is not None
    assert outcome.problem.approval is not None
    return outcome.problem.approval


def code(outcome: Outcome) -> str | None:
    """What a call was refused with."""
    return outcome.problem.code if outcome.problem else None


async def refused(lab: Lab, principal: Principal, approval: str, **more: Any) -> str:
    """What an answer was refused with."""
    with pytest.raises(Refusal) as caught:
        await lab.gate.answer(principal, approval, True, **more)
    return caught.value.problem.code


def test_a_call_waits_for_a_yes_and_then_happens_once() -> None:
    """Parked and nothing sent; the same call while it waits asks nobody again; after the yes it is sent, once."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab)
        assert await parked(lab) == approval
        assert lab.trial.net.asked == []
        await lab.gate.answer(ANN, approval, True)
        assert (await lab.call("echo", HELLO)).status == "done"
        assert await parked(lab) != approval
        assert len(lab.trial.net.asked) == 1

    asyncio.run(run())


def test_what_a_model_is_told_says_what_to_do() -> None:
    """The text names the approval and what to do, and nobody who may answer."""

    async def run() -> None:
        lab = lab_of()
        outcome = await lab.call("echo", HELLO)
        assert outcome.problem is not None
        said = f"{outcome.problem.detail} {outcome.problem.advice}"
        assert f"pending as {outcome.problem.approval} for at most 10 minutes" in said
        assert "Call again with the same arguments when approved; do not repeat the call before that." in said
        assert "ann" not in said.replace("any", "")
        assert outcome.problem.rule == "say"

    asyncio.run(run())


def test_every_step_is_on_record() -> None:
    """What was asked and what was parked, then the answer, then the intent with who said yes."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab)
        await lab.gate.answer(ANN, approval, True, why="fine")
        await lab.call("echo", HELLO)
        lines = [each for each in lab.trial.ledger.lines if each.type.startswith(("call.", "approval."))]
        kinds = ["approval.requested", "call.parked", "approval.decided", "call.intent", "call.outcome"]
        assert [each.type for each in lines] == kinds
        assert [each.fields["approval"] for each in lines[:3]] == [{"id": approval}] * 3
        assert "hi" not in str(lines[0].fields)
        assert lines[0].content == {"arguments": {"text": "hi", "loud": False}}
        assert lines[2].fields["by"] == {"person": "ann", "authn": "api_key", "token_id": "k_ann"}
        by = [{"person": "ann", "token_id": "k_ann", "at": lab.trial.clock.now()}]
        assert lines[3].fields["approval"] == {"id": approval, "by": by}

    asyncio.run(run())


@pytest.mark.parametrize("other", [SECOND, FREELY])
def test_another_permit_does_not_take_the_question_away(other: str) -> None:
    """A permit never loosens another one's obligations; two that ask both need their yes."""

    async def run() -> None:
        lab = lab_of(other)
        approval = await parked(lab)
        after = await lab.gate.answer(person("ann", "approver"), approval, True)
        assert after.state == ("pending" if other == SECOND else "granted")
        if other == SECOND:
            assert await parked(lab) == approval
            await lab.gate.answer(person("carl"), approval, True)
        assert (await lab.call("echo", HELLO)).status == "done"

    asyncio.run(run())


def test_a_no_is_remembered_with_its_reason() -> None:
    """One no is enough, nothing hidden in its reason reaches the model, and nobody is asked again until it expires."""

    async def run() -> None:
        lab = lab_of(SECOND)
        approval = await parked(lab)
        await lab.gate.answer(ANN, approval, False, why="too\x1b[31m loud\u202e")
        outcome = await lab.call("echo", HELLO)
        assert (outcome.status, code(outcome)) == ("refused", "approval_denied")
        assert outcome.problem is not None
        assert "too\\u{1b}[31m loud\\u{202e}" in outcome.problem.detail
        assert await refused(lab, person("carl"), approval) == "approval_expired"
        lab.trial.clock.at += 61
        assert await parked(lab) != approval

    asyncio.run(run())


def test_a_yes_does_not_outlive_its_time() -> None:
    """Expired before it was answered, it cannot be; expired before it was used, the call is asked about anew."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab)
        lab.trial.clock.at += 600
        assert await refused(lab, ANN, approval) == "approval_expired"
        second = await parked(lab)
        assert second != approval
        await lab.gate.answer(ANN, second, True)
        lab.trial.clock.at += 600
        assert await parked(lab) not in (approval, second)
        assert lab.trial.net.asked == []

    asyncio.run(run())


class SetBack(StillClock):
    """A clock that somebody set back, by so many seconds."""

    back = 0.0

    def now(self) -> float:
        return self.at - self.back


def test_a_clock_that_is_set_back_gives_no_more_time() -> None:
    """What was over is over: it is neither answered nor used."""

    async def run() -> None:
        lab = lab_of()
        clock = SetBack()
        lab.gate = replace(lab.gate, clock=clock)
        first, second = await parked(lab), await parked(lab, {"text": "ho"})
        await lab.gate.answer(ANN, first, True)
        clock.at += 601
        clock.back = 3600.0
        assert await refused(lab, ANN, second) == "approval_expired"
        assert await parked(lab) != first
        assert lab.trial.net.asked == []

    asyncio.run(run())


@pytest.mark.parametrize("change", ["argument", "session", "key", "person"])
def test_a_yes_is_for_that_call_only(change: str) -> None:
    """One byte of an argument, another session, another key of the same agent, another person: another call."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab)
        await lab.gate.answer(ANN, approval, True)
        dev = lab.trial.authority.principals["dev"]
        lab.trial.authority.principals["key"] = replace(dev, token_id="k_other")
        lab.trial.authority.principals["person"] = replace(dev, user="eve")
        by = change if change in ("key", "person") else "dev"
        arguments = {"text": "hj"} if change == "argument" else HELLO
        more = {"session": "another"} if change == "session" else {}
        assert await parked(lab, arguments, by=by, **more) != approval
        assert lab.trial.net.asked == []
        assert (await lab.call("echo", HELLO)).status == "done"

    asyncio.run(run())


def test_an_explicit_default_is_the_same_call() -> None:
    """Arguments are compared as they are validated: a default spelled out, and another order, change nothing."""

    async def run() -> None:
        lab = lab_of()
        await lab.gate.answer(ANN, await parked(lab), True)
        assert (await lab.call("echo", {"loud": False, "text": "hi"})).status == "done"

    asyncio.run(run())


def test_a_yes_to_another_version_of_the_tool_is_none() -> None:
    """A tool whose digest changed is asked about anew."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab)
        await lab.gate.answer(ANN, approval, True)
        other = Lab.of({"echo.yaml": ECHO.replace("Says what", "Tells what")}, {"lab.yaml": POLICY})
        moved = replace(lab.gate, catalogue=other.gate.catalogue, bundles=other.gate.bundles)
        outcome = await Lab(replace(lab.trial, gate=moved)).call("echo", HELLO)
        assert (outcome.status, outcome.problem and outcome.problem.approval == approval) == ("parked", False)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("policy", "status", "said"),
    [
        (
            POLICY + "- {id: no, effect: forbid, match: {tools: [echo]}, when: ['args.text == \"hi\"']}\n",
            "refused",
            "forbidden",
        ),
        (POLICY.replace('"group:managers", "user:ann"', '"user:carl"'), "parked", "approval_required"),
        (POLICY + SECOND, "parked", "approval_required"),
        (POLICY.replace("10m", "1m"), "parked", "approval_required"),
        (POLICY.replace("id: asking", "id: renamed"), "done", None),
    ],
)
def test_a_call_is_decided_again_when_it_is_resumed(policy: str, status: str, said: str | None) -> None:
    """A policy that forbids by now wins; one that asks others, more or for less long voids the yes."""

    async def run() -> None:
        lab = lab_of()
        await lab.gate.answer(ANN, await parked(lab), True)
        lab.trial.clock.at += 120
        other = Lab.of(policies={"lab.yaml": policy})
        moved = replace(lab.gate, catalogue=other.gate.catalogue, bundles=other.gate.bundles)
        outcome = await moved.handle(again(moved))
        assert (outcome.status, code(outcome)) == (status, said)

    asyncio.run(run())


def again(gate: Gate) -> Request:
    """The call, as dev makes it again."""
    return Request(gate.new_call_id(), "echo", HELLO, "dev")


def test_two_calls_race_for_one_yes() -> None:
    """Of many at once with one yes, one is sent; the others wait together for the next."""

    async def run() -> None:
        lab = lab_of()
        await lab.gate.answer(ANN, await parked(lab), True)
        outcomes = await asyncio.gather(*(lab.call("echo", HELLO) for _ in range(20)))
        assert sorted(each.status for each in outcomes) == ["done", *["parked"] * 19]
        assert len({each.problem.approval for each in outcomes if each.problem}) == 1
        assert len(lab.trial.net.asked) == 1

    asyncio.run(run())


def test_a_yes_comes_back_when_nothing_was_sent() -> None:
    """A call that is refused after its yes was used may use it again; one that was sent may not."""

    async def run() -> None:
        lab = Lab.of(
            {"echo.yaml": ECHO.replace("100/1m", "1/1m")}, {"lab.yaml": POLICY + FREELY.replace("freely", "f")}
        )
        lab.trial.authority.principals["dev"] = replace(lab.trial.authority.principals["dev"], user="bob")
        for each in ("a", "b"):
            await lab.gate.answer(ANN, await parked(lab, {"text": each}), True)
        assert (await lab.call("echo", {"text": "a"})).status == "done"
        assert code(await lab.call("echo", {"text": "b"})) == "rate_limited"
        lab.trial.clock.at += 60
        assert (await lab.call("echo", {"text": "b"})).status == "done"

    asyncio.run(run())


def test_so_many_calls_of_one_caller_wait_and_no_more() -> None:
    """The 65th is refused until one of them is answered or expires; another caller's are not counted."""

    async def run() -> None:
        lab = lab_of()
        lab.trial.authority.principals["eve"] = replace(lab.trial.authority.principals["dev"], user="eve")
        first, *_ = [await parked(lab, {"text": str(n)}) for n in range(64)]
        assert code(await lab.call("echo", {"text": "more"})) == "rate_limited"
        await parked(lab, {"text": "more"}, by="eve")
        await lab.gate.answer(ANN, first, False)
        await parked(lab, {"text": "more"})

    asyncio.run(run())


def test_a_decision_in_shadow_asks_nobody() -> None:
    """A rule in shadow that would ask is recorded, and the call goes on."""

    async def run() -> None:
        lab = lab_of(policy=POLICY.replace("effect: permit", "mode: shadow, effect: permit") + FREELY)
        assert (await lab.call("echo", HELLO)).status == "done"
        assert await lab.gate.approvals_of(ANN) == []

    asyncio.run(run())


def test_a_session_that_was_closed_takes_its_yes_with_it() -> None:
    """The caller cannot call there any more, and in another session it is another call."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab, session="desk")
        await lab.gate.answer(ANN, approval, True)
        dev = lab.trial.authority.principals["dev"]
        session = lab.gate.sessions.find(dev.key, "desk")
        assert session is not None
        await lab.gate.end_session(session, None)
        assert code(await lab.call("echo", HELLO, session="desk")) == "session_closed"
        assert await parked(lab) != approval

    asyncio.run(run())


def test_nobody_says_yes_to_what_was_erased() -> None:
    """Once the content of the session was erased there is nothing to show: a no can be said, a yes cannot."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab)
        asked = await lab.gate.approvals.get("default", approval)
        assert asked is not None
        assert isinstance(lab.gate.approvals, MemoryApprovals)
        lab.gate.approvals.erased([asked.session])
        assert await refused(lab, ANN, approval) == "approval_expired"
        assert (await lab.gate.answer(ANN, approval, False)).state == "denied"
        assert lab.trial.net.asked == []

    asyncio.run(run())


def test_a_case_of_a_policy_sees_the_permit_and_what_it_requires() -> None:
    """The decision is a permit with an approval, so that policies can be tested without asking anybody."""
    case = """
tests:
- name: asks
  call: {echo: {text: hi}}
  expect: {permit: say, obligations: {approval: {by: ["user:ann", "group:managers"], ttl: 10m}}}
"""
    lab = Lab.of(policies={"lab.yaml": POLICY + case})
    bundle = lab.gate.bundles.current()
    assert [(each.ok, each.got) for each in run_cases(bundle)] == [(True, "permit say, asking for say")]  # type: ignore[arg-type]  # a lab's bundle is the real one
