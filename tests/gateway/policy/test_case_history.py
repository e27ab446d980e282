"""Cases with a past: what the caller did before in the session, how it ended, and what it left under way."""

from __future__ import annotations

import pytest

from gateway.policy.cases import run_cases
from tests.gateway.policy.makers import FETCH, RUN, bundle, tool

PAY = tool(
    "pay", {"amount": {"type": "number"}, "note": {"type": "string", "default": "none"}}, ("write",), ("amount",)
)
MERGE = tool("merge", {"pr": {"type": "integer"}}, ("write",), ("pr",))
APPROVE = tool("approve", {"pr": {"type": "integer"}}, ("write",), ("pr",))
TOOLS = (PAY, MERGE, APPROVE, FETCH, RUN)
POLICY = """id: a
state:
  paid: {sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}
  notes: {count_distinct: args.note, of: {tools: [pay]}, within: 1h}
  ok: {formerly: {tools: [approve]}, same: args.pr, within: 1h}
  last: {since: {tools: [approve]}, within: 1h}
rules:
- {id: pay, effect: permit, match: {tools: [pay]}, when: [state.paid + args.amount <= 10.0, state.notes < 2]}
- {id: merge, effect: permit, match: {tools: [merge]}, when: [state.ok]}
- {id: approve, effect: permit, match: {tools: [approve]}, when: [state.last >= 60.0]}
tests:
"""
CASES: list[tuple[str, str, str, str, bool, str]] = [
    ("", "pay: {amount: 10}", "permit", "pay", True, "permit pay"),
    ("{call: {pay: {amount: 4}}}, {call: {pay: {amount: 5}}}", "pay: {amount: 1}", "permit", "pay", True, "permit pay"),
    ("{call: {pay: {amount: 4}}}, {call: {pay: {amount: 5}}}", "pay: {amount: 2}", "deny", "no_permit", True, "deny"),
    ("{call: {pay: {amount: 9}}, ended: failed}", "pay: {amount: 2}", "deny", "no_permit", True, "deny"),
    ("{call: {pay: {amount: 9}}, ended: running}", "pay: {amount: 2}", "deny", "no_permit", True, "deny"),
    ("{call: {pay: {amount: 9}}, ended: refused}", "pay: {amount: 2}", "permit", "pay", True, "permit pay"),
    ("{call: {pay: {amount: 9}}, ago: 23h}", "pay: {amount: 2}", "deny", "no_permit", True, "deny"),
    ("{call: {pay: {amount: 9}}, ago: 24h}", "pay: {amount: 2}", "permit", "pay", True, "permit pay"),
    ("{call: {pay: {amount: 1}}}, {call: {pay: {amount: 1, note: none}}}", "pay: {amount: 1}", "permit", "pay", True,
     "permit pay"),
    ("{call: {pay: {amount: 1}}}, {call: {pay: {amount: 1, note: x}}}", "pay: {amount: 1}", "deny", "no_permit", True,
     "deny"),
    ("{call: {approve: {pr: 7}}}", "merge: {pr: 7}", "permit", "merge", True, "permit merge"),
    ("{call: {approve: {pr: 7.0}}}", "merge: {pr: 7}", "permit", "merge", True, "permit merge"),
    ("{call: {approve: {pr: 8}}}", "merge: {pr: 7}", "deny", "no_permit", True, "deny no_permit"),
    ("{call: {approve: {pr: 7}}, ended: failed}", "merge: {pr: 7}", "deny", "no_permit", True, "deny no_permit"),
    ("{call: {approve: {pr: 7}}, ended: running}", "merge: {pr: 7}", "deny", "precondition_pending", True,
     "deny precondition_pending"),
    ("{call: {approve: {pr: 7}}, ended: running}", "merge: {pr: 7}", "refused", "precondition_pending", True,
     "deny precondition_pending"),
    ("{call: {approve: {pr: 7}}, ended: running}", "merge: {pr: 7}", "deny", "no_permit", False,
     "deny precondition_pending"),
    ("{call: {approve: {pr: 7}}, ago: 10s}, {call: {approve: {pr: 7}}, ago: 100s}", "approve: {pr: 9}", "deny",
     "no_permit", True, "deny no_permit"),
    ("{call: {approve: {pr: 7}}, ago: 100s}", "approve: {pr: 9}", "permit", "approve", True, "permit approve"),
]  # fmt: skip


@pytest.mark.parametrize(("history", "called", "kind", "wanted", "ok", "got"), CASES)
def test_a_history_is_what_was_done_before(
    history: str, called: str, kind: str, wanted: str, ok: bool, got: str
) -> None:
    """Sums, windows, ends and values of past calls count in a case as they do in a gateway; defaults are filled in."""
    case = f"- {{name: one, session: {{history: [{history}]}}, call: {{{called}}}, expect: {{{kind}: {wanted}}}}}\n"
    (result,) = run_cases(bundle(POLICY + case, tools=TOOLS))
    assert (result.ok, got in result.got) == (ok, True), result


MISFITS = [
    ("{call: {pey: {amount: 1}}}", "history 1: there is no tool 'pey': did you mean 'pay'?"),
    ("{call: {pay: {amount: 1}}}, {call: {pay: {}}}", "history 2: no call of pay: "),
    ("{call: {pay: {amount: one}}}", "history 1: no call of pay: /amount is "),
    ("{call: {pay: [1]}}", "history 1: no call of pay: "),
]


@pytest.mark.parametrize(("history", "said"), MISFITS)
def test_a_past_call_that_nobody_could_have_made_fails_the_case(history: str, said: str) -> None:
    """Whatever the case wants: it says which call of the history does not fit, and why."""
    for wanted in ("permit: pay", "deny: no_permit", "refused: invalid_arguments"):
        case = f"- {{name: x, session: {{history: [{history}]}}, call: {{pay: {{amount: 1}}}}, expect: {{{wanted}}}}}\n"
        (result,) = run_cases(bundle(POLICY + case, tools=TOOLS))
        assert not result.ok
        assert result.got.startswith(said)


def test_the_past_is_the_caller_s_own() -> None:
    """A history is made by the caller of the case: over its user, and without one over its agent."""
    caller = "as: {agent: bot, user: ann, tenant: t}, "
    case = (
        f"- {{name: x, {caller}session: {{history: [{{call: {{pay: {{amount: 9}}}}}}]}}, call: {{pay: {{amount: 2}}}}, "
    )
    (result,) = run_cases(bundle(POLICY + case + "expect: {deny: no_permit}}\n", tools=TOOLS))
    assert result.ok


def test_cases_do_not_see_each_other_s_past() -> None:
    """Each case starts from its own history and nothing else."""
    past = "session: {history: [{call: {pay: {amount: 9}}}]}"
    one = f"- {{name: x, {past}, call: {{pay: {{amount: 1}}}}, expect: {{permit: pay}}}}\n"
    results = run_cases(bundle(POLICY + one * 3, tools=TOOLS))
    assert [result.ok for result in results] == [True] * 3


OBLIGED = """id: a
rules:
- id: fetch
  effect: permit
  match: {tools: [fetch]}
  with:
    approval: {when: has(args.price) && args.price > 5.0, by: ["group:managers"], ttl: 10m}
    screen: {injection: block}
tests:
"""


@pytest.mark.parametrize(("price", "asked"), [(1, False), (9, True)])
def test_an_expected_approval_is_the_one_of_this_call(price: int, asked: bool) -> None:
    """A case that expects an approval fails for a call whose arguments need none."""
    wanted = "{screen: {injection: block}, approval: {by: ['group:managers'], ttl: 10m}}"
    called = f"{{fetch: {{url: u, price: {price}}}}}"
    case = f"- {{name: x, call: {called}, expect: {{permit: fetch, obligations: {wanted}}}}}\n"
    (result,) = run_cases(bundle(OBLIGED + case, tools=TOOLS))
    assert (result.ok, "but not with approval" in result.got) == (asked, not asked)
