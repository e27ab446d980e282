"""The approval that a permit asks for: owed by the calls for which its condition holds, or cannot be judged."""

from __future__ import annotations

from tests.gateway.policy.makers import bundle, call, outcome
from tests.gateway.policy.test_state import PAY, TOOLS, after, pay

ASKS = "- {{id: {}, effect: permit, match: {{tools: [pay]}}, with: {{label: [{}], approval: {{{}by: [requester]}}}}}}\n"


def test_an_approval_is_owed_where_its_condition_is_true_or_cannot_be_judged() -> None:
    """False spares the caller; true, and an error, ask. Other obligations of the rule stay in any case."""
    made = bundle("id: a\nrules:\n" + ASKS.format("p", "one", "when: args.amount > 5.0, "), tools=TOOLS)
    small, large, none = (
        made.decide(call(PAY, arguments)) for arguments in ({"amount": 1.0}, {"amount": 9.0}, {"to": "a"})
    )
    assert [outcome(each) for each in (small, large, none)] == ["permit p"] * 3
    assert [len(each.obligations.approvals) for each in (small, large, none)] == [0, 1, 1]
    assert [each.obligations.labels for each in (small, large, none)] == [{"one"}] * 3
    assert "approval" not in small.obligations.origin


def test_each_permit_asks_by_its_own_condition() -> None:
    """Of several true permits, the ones whose condition holds ask, whatever was merged for the call before."""
    made = bundle(
        "id: a\nrules:\n"
        + ASKS.format("p", "one", "when: args.amount > 5.0, ")
        + ASKS.format("q", "two", "when: args.amount > 7.0, ")
        + "- {id: r, effect: permit, match: {tools: [pay]}}\n",
        tools=TOOLS,
    )

    def asking(amount: float) -> list[str]:
        decision = made.decide(call(PAY, {"amount": amount}))
        assert decision.obligations.labels == {"one", "two"}
        return [approval.rule for approval in decision.obligations.approvals]

    assert [asking(amount) for amount in (1.0, 6.0, 9.0, 6.0, 1.0)] == [[], ["p"], ["p", "q"], ["p"], []]
    always = bundle("id: a\nrules:\n" + ASKS.format("p", "one", ""), tools=TOOLS)
    assert len(always.decide(pay()).obligations.approvals) == 1


def test_an_approval_may_depend_on_the_past() -> None:
    """The condition reads state like a clause: its cell is asked for, and without a level it asks a person."""
    made = bundle(
        "id: a\nstate:\n  x: {sum: args.amount, of: {tools: [pay]}, within: 1h}\nrules:\n"
        + ASKS.format("p", "one", "when: state.x + args.amount > 2.0, "),
        tools=TOOLS,
    )
    owed = [len(after(made, pay(), *past).obligations.approvals) for past in ((), (pay(),), (pay(), pay()))]
    assert owed == [0, 0, 1]
    assert len(made.decide(pay()).obligations.approvals) == 1
