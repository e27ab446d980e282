"""Who may answer for a parked call: another person, of the tenant, whom a rule names; and nobody by a trick."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.model import Principal, Refusal
from gateway.obligations import Approval
from gateway.parked import Answer, Parked
from gateway.stages.answering import answerable, same_person
from gateway.stores.approvals import answered
from tests.kit import Lab

OPERATOR, APPROVER = frozenset({"operator"}), frozenset({"approver"})
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: say, effect: permit, match: {tools: [echo]}, with: {approval: {by: BY, ttl: 10m}}}
"""
PARKED = Parked(
    id="a_1",
    binding="sha256:0",
    call_id="c_1",
    tool="echo",
    tool_digest="sha256:1",
    tenant="default",
    owner="default\x1fdev\x1fbob",
    agent="dev",
    user="bob",
    token_id="k_dev",
    session="u_1",
    needs=(Approval("say", ("group:managers", "user:ann"), 600.0),),
    asked_at=1000.0,
    expires_at=1600.0,
)


def person(name: str | None, scopes: frozenset[str] = OPERATOR, **more: object) -> Principal:
    """Somebody with a token of their own."""
    return replace(Principal("desk", "default", name, scopes=scopes, token_id=f"t_{name}"), **more)  # type: ignore[arg-type]  # the fields of a principal


def by(*names: str) -> Parked:
    """A call that needs a yes by one of these."""
    return replace(PARKED, needs=(Approval("say", names, 600.0),))


def lab_of(by: str, user: str | None = "bob") -> Lab:
    """A lab whose rule asks somebody, for a call of an agent that acts for a person, or for nobody."""
    lab = Lab.of(policies={"lab.yaml": POLICY.replace("BY", by)})
    dev = lab.trial.authority.principals["dev"]
    lab.trial.authority.principals["dev"] = replace(dev, user=user)
    return lab


async def asked(lab: Lab) -> str:
    """A parked call's approval."""
    outcome = await lab.call("echo", {"text": "hi"})
    assert outcome.problem is not None
    assert outcome.problem.approval is not None
    return outcome.problem.approval


@pytest.mark.parametrize(
    ("who", "parked", "may"),
    [
        (person("ann"), PARKED, True),
        (person("ann", APPROVER), PARKED, True),
        (person("Ann"), PARKED, False),  # whom a rule names is named exactly
        (person("eve"), PARKED, False),
        (person("eve", groups=frozenset({"managers"})), PARKED, True),
        (person("eve", groups=frozenset({"Managers"})), PARKED, False),
        (person("eve"), by("group:operators"), True),
        (person("eve", APPROVER), by("group:operators"), False),
        (person("eve", APPROVER, groups=frozenset({"operators"})), by("group:operators"), True),
        (person("bob"), by("user:bob", "group:operators"), False),
        (person("BOB"), by("group:operators"), False),
        (person("\uff42ob"), by("group:operators"), False),  # full-width, the same person to the eye
        (person("bob "), by("group:operators"), False),
        (person("eve", token_id="k_dev"), by("group:operators"), False),
        (person("bob"), by("requester"), True),
        (person("eve"), by("requester"), False),
        (person("bob", token_id="k_dev"), by("requester"), False),
        (person("eve"), replace(by("group:operators"), user=None), True),
        (person("eve", token_id="k_dev"), replace(by("group:operators"), user=None), False),
        (person("eve"), replace(by("requester"), user=None), False),
        (person("bot"), replace(by("group:operators"), user=None, agent="bot"), False),  # a client of that very name
        (person("bob"), replace(by("group:operators"), user="ann", agent="bob"), False),  # bob acts for ann
        (person("bob"), replace(by("group:operators"), user="ann", actors=("ui", "Bob")), False),
        (person("eve", agent="dev", authn="jwt"), by("group:operators"), False),  # the agent has eve's token
        (person("bob", agent="dev", authn="jwt"), by("requester"), False),  # or a newer one of bob's
        (person("eve", agent="console", authn="jwt"), by("group:operators"), True),
        (person("eve", agent="dev"), by("group:operators"), True),  # a key is of whoever holds it
    ],
    ids=str,
)
def test_who_may_answer(who: Principal, parked: Parked, may: bool) -> None:
    """A person whom the rule names, and never the requester's own, by whatever spelling or credential."""
    assert bool(answerable(who, parked, "rest")) == may


def test_what_is_said_on_the_requesters_own_connection_is_a_confirmation() -> None:
    """It answers what the requester may answer and nothing else, and only on that very caller's connection."""
    dev = Principal("dev", "default", "bob", scopes=frozenset({"agent"}), token_id="k_dev")
    assert [each.rule for each in answerable(dev, by("requester"), "elicitation")] == ["say"]
    assert not answerable(dev, by("group:operators", "user:bob"), "elicitation")
    assert not answerable(replace(dev, user="eve"), by("requester"), "elicitation")


def test_a_rule_that_was_answered_is_not_answered_again() -> None:
    """One yes answers all the rules that fit, another person's the rest."""
    two = replace(PARKED, needs=(*PARKED.needs, Approval("also", ("group:operators",), 600.0)))
    ann = person("ann")
    assert [each.rule for each in answerable(ann, two, "rest")] == ["say", "also"]
    eve = Answer(True, ("also",), "eve", "t_eve", 1001.0, "rest")
    assert [each.rule for each in answerable(ann, answered(two, eve), "rest")] == ["say"]


@pytest.mark.parametrize(
    ("who", "code"),
    [
        (person("ann", frozenset({"agent"})), "insufficient_scope"),
        (person("ann", frozenset({"auditor"})), "insufficient_scope"),
        (person(None), "insufficient_scope"),
        (person("ann", actors=("bot",)), "insufficient_scope"),
        (person("ann", tenant="other"), "not_found"),
        (person("bob"), "insufficient_scope"),
        (person("carl"), "insufficient_scope"),
    ],
    ids=str,
)
@pytest.mark.parametrize("yes", [True, False])
def test_whoever_may_not_answer_is_refused_and_not_heard(who: Principal, code: str, yes: bool) -> None:
    """Agents, auditors, keys of nobody, those who act for a person, other tenants, the requester: no yes and no no."""

    async def run() -> None:
        lab = lab_of("[user:ann]")
        approval = await asked(lab)
        with pytest.raises(Refusal) as caught:
            await lab.gate.answer(who, approval, yes)
        assert caught.value.problem.code == code
        assert (await lab.gate.approval_of(person("ann"), approval)).answers == ()
        assert [line.type for line in lab.trial.ledger.lines].count("approval.decided") == 0

    asyncio.run(run())


@pytest.mark.parametrize("user", ["bob", None])
def test_a_client_that_accepts_everything_can_approve_nothing(user: str | None) -> None:
    """Through elicitation: a confirmation, also for nobody by name; what needs an approval, never."""

    async def run() -> None:
        for names, may in (("[requester]", True), ('["group:operators"]', False)):
            lab = lab_of(names, user)
            dev, approval = lab.trial.authority.principals["dev"], await asked(lab)
            if may:
                assert (await lab.gate.answer(dev, approval, True, via="elicitation")).state == "granted"
                assert (await lab.call("echo", {"text": "hi"})).status == "done"
            else:
                with pytest.raises(Refusal) as caught:
                    await lab.gate.answer(dev, approval, True, via="elicitation")
                assert caught.value.problem.code == "insufficient_scope"

    asyncio.run(run())


def test_an_agents_key_confirms_nothing_over_rest() -> None:
    """The requester's person has a key of their own for that; somebody else's connection is none of the requester's."""

    async def run() -> None:
        lab = lab_of("[requester]")
        approval = await asked(lab)
        dev = lab.trial.authority.principals["dev"]
        for who, via, code in (
            (dev, "rest", "insufficient_scope"),
            (replace(dev, user="eve"), "elicitation", "not_found"),
            (replace(dev, agent="twin"), "elicitation", "not_found"),
        ):
            with pytest.raises(Refusal) as caught:
                await lab.gate.answer(who, approval, True, via=via)  # type: ignore[arg-type]  # a word of the table above
            assert caught.value.problem.code == code
        assert (await lab.gate.answer(person("bob", APPROVER), approval, True)).state == "granted"

    asyncio.run(run())


def test_only_one_of_two_answers_counts() -> None:
    """A no and a yes at once: whichever is second hears that it is over."""

    async def run() -> None:
        lab = lab_of('["group:operators"]')
        approval = await asked(lab)
        said = await asyncio.gather(
            lab.gate.answer(person("ann"), approval, False),
            lab.gate.answer(person("eve"), approval, True),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in said) == ["Parked", "Refusal"]

    asyncio.run(run())


def test_how_an_approval_stands() -> None:
    """Pending and granted ones expire; what was denied or used stays so."""
    states = ("pending", "granted", "denied", "used")
    assert [replace(PARKED, state=state).standing(1599.9) for state in states] == list(states)
    assert [replace(PARKED, state=state).standing(1600.0) for state in states] == ["expired"] * 2 + ["denied", "used"]


@pytest.mark.parametrize(
    "other",
    [
        "BOB",
        "Bob",
        "\uff22\uff2f\uff22",
        " bob",
        "bob\u3000",
        "b\u043eb",
        "\u0392ob",
        "bo\u200bb",
        "b\u00adob",
        "bob\ufe0f",
    ],
)
def test_a_person_is_one_however_written(other: str) -> None:
    """Case, compatibility forms, blanks, letters that look the same and what is not seen make no other person."""
    assert same_person("bob", other)
    assert not same_person("bob", "bobby")
    assert not same_person("jose", "jos\u00e9")
    assert not same_person(None, None)
