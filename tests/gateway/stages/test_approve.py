"""What a permit requires of people: nobody can be asked yet, so such a call is refused and nothing runs."""

from __future__ import annotations

import asyncio

import pytest

from gateway.policy.cases import run_cases
from tests.kit import Lab

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: say, effect: permit, match: {tools: [echo]}, with: {approval: {by: ["group:managers", "user:ann"]}}}
"""
SECOND = """
- {id: also, effect: permit, match: {tools: [echo]}, with: {approval: {by: [requester], ttl: 1m}}}
"""
FREELY = """
- {id: freely, effect: permit, match: {tools: [echo]}}
"""


def refused(*rules: str) -> tuple[Lab, str, str | None]:
    """The lab, the sentence and the rule of a call that was refused with `policy_error`."""
    lab = Lab.of(policies={"lab.yaml": POLICY + "".join(rules)})
    outcome = asyncio.run(lab.call("echo", {"text": "hi"}))
    assert outcome.status == "refused"
    assert outcome.problem is not None
    assert outcome.problem.code == "policy_error"
    return lab, outcome.problem.detail, outcome.problem.rule


def test_a_call_that_needs_a_yes_is_refused_and_nothing_is_sent() -> None:
    """The refusal names who would have to say yes, and the rule; the tool never hears of the call."""
    lab, said, rule = refused()
    assert said == "This call needs a yes by group:managers or user:ann, and nobody can be asked yet."
    assert rule == "say"
    assert lab.trial.net.asked == []


@pytest.mark.parametrize("other", [SECOND, FREELY])
def test_another_permit_does_not_take_the_question_away(other: str) -> None:
    """A permit never loosens another one's obligations; two that ask are both named."""
    _, said, rule = refused(other)
    assert "a yes by" in said
    assert rule == ("also and say" if other == SECOND else "say")


def test_a_case_of_a_policy_sees_the_permit_and_what_it_requires() -> None:
    """The decision is a permit with an approval, so that policies can be written and tested before people are asked."""
    case = """
tests:
- name: asks
  call: {echo: {text: hi}}
  expect: {permit: say, obligations: {approval: {by: ["user:ann", "group:managers"]}}}
"""
    lab = Lab.of(policies={"lab.yaml": POLICY + case})
    bundle = lab.gate.bundles.current()
    assert [(each.ok, each.got) for each in run_cases(bundle)] == [(True, "permit say")]  # type: ignore[arg-type]  # a lab's bundle is the real one
