"""Rules and parts in shadow: decided whole and told, never enforced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.model import Decision
from gateway.policy import PolicyBundle
from tests.gateway.policy.makers import FETCH, RUN, bundle, call, outcome
from tests.gateway.policy.test_state import PAY, after, pay
from tests.gateway.policy.test_state import TOOLS as MONEY

OPEN = "- {id: open, effect: permit, match: {tools: [fetch]}}\n"
STRICT = "- {id: strict, effect: forbid, mode: shadow, match: {tools: [fetch]}, when: ['%s'], message: not this}\n"
TRIED = "- {id: tried, effect: permit, mode: shadow, match: {tools: [fetch]}, with: {timeout: 5s}}\n"


def rules(*lines: str) -> PolicyBundle:
    """A bundle of one part with these rules."""
    return bundle("id: a\nrules:\n" + "".join(lines))


def both(decision: Decision) -> tuple[str, str]:
    """The decision in force, and the one in shadow."""
    assert decision.shadow is not None
    return outcome(decision), outcome(decision.shadow)


DECISIONS = [
    ("a forbid in shadow forbids in shadow", rules(OPEN, STRICT % "true"), "permit open", "forbidden strict"),
    ("one that is false changes nothing", rules(OPEN, STRICT % "false"), "permit open", "permit open"),
    ("one in error is an error in shadow only", rules(OPEN, STRICT % 'args.mode == "x"'), "permit open",
     "policy_error strict"),
    ("a permit in shadow permits in shadow", rules(TRIED), "no_permit", "permit tried"),
    ("and joins the others there", rules(OPEN, TRIED), "permit open", "permit open tried"),
    ("one that binds badly spoils the shadow only", rules(OPEN, STRICT % "args.any > 5"), "permit open",
     "policy_error strict"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "enforced", "shadow"), [d[1:] for d in DECISIONS], ids=[d[0] for d in DECISIONS])
def test_the_shadow_is_the_whole_decision_as_if_enforced(made: PolicyBundle, enforced: str, shadow: str) -> None:
    """Steps five to nine again with the shadow rules counted; the decision in force knows nothing of them."""
    called = call(arguments={"url": "https://a.org/", "any": 2**70})
    decision = made.decide(called)
    assert both(decision) == (enforced, shadow)
    assert not {"strict", "tried"} & {reason.rule for reason in decision.reasons}


def test_what_is_enforced_is_what_it_would_be_without_the_shadow() -> None:
    """Field by field, but for the bundle's digest: taking the shadow rules out of the file changes no decision."""
    for clause in ("true", "false", 'args.mode == "x"', "args.any > 5"):
        for arguments in ({"url": "u"}, {"url": "u", "mode": "x"}, {"url": "u", "any": 2**70}):
            called = call(arguments=arguments)
            with_shadow = rules(OPEN, STRICT % clause, TRIED).decide(called)
            without = rules(OPEN).decide(called)
            assert replace(with_shadow, bundle="", shadow=None) == replace(without, bundle="")


def test_the_shadow_is_what_it_would_be_if_it_were_enforced() -> None:
    """The shadow decision equals, but for the digest, that of the same file without `mode: shadow`."""
    for clause in ("true", "false", 'args.mode == "x"'):
        lines = (OPEN, STRICT % clause, TRIED)
        shadow = rules(*lines).decide(call()).shadow
        enforced = rules(*(line.replace("mode: shadow, ", "") for line in lines)).decide(call())
        assert shadow is not None
        assert replace(shadow, bundle="") == replace(enforced, bundle="")


def test_obligations_of_a_shadow_permit_are_owed_in_shadow_only() -> None:
    """A permit tried out with a timeout slows nobody down yet."""
    decision = rules(OPEN, TRIED).decide(call())
    assert decision.shadow is not None
    assert (decision.obligations.timeout, decision.shadow.obligations.timeout) == (None, 5.0)


def test_a_call_that_meets_no_shadow_rule_has_no_shadow() -> None:
    """By tool and by caller: what is not a candidate has no say, and the shadow itself has none."""
    made = rules(OPEN, "- {id: s, effect: forbid, mode: shadow, match: {tools: [fetch], agents: [ops]}}\n")
    assert made.decide(call()).shadow is None
    assert made.decide(call(RUN, {"code": "1"}, agent="ops")).shadow is None
    shadow = made.decide(call(agent="ops")).shadow
    assert shadow is not None
    assert shadow.shadow is None


def test_a_shadow_rule_hides_and_shows_no_tool() -> None:
    """Listing follows what is enforced: no shadow forbid takes a tool away, no shadow permit or boundary shows one."""
    permits = "- {id: a-run, effect: permit, mode: shadow, match: {tools: [run]}}\n"
    forbids = "- {id: a-no, effect: forbid, mode: shadow}\n"
    wall = "id: wall\nmode: shadow\nboundary: true\nrules:\n- {id: w, effect: permit, match: {tools: [run]}}\n"
    made = bundle("id: a\nrules:\n" + OPEN + permits + forbids, wall)
    assert made.visible(call().caller.principal) == {"fetch"}


def test_a_whole_part_in_shadow() -> None:
    """`mode: shadow` of a part holds for all its rules, whatever they say themselves."""
    made = bundle("id: a\nrules:\n" + OPEN, "id: b\nmode: shadow\nrules:\n- {id: f, effect: forbid, mode: enforce}\n")
    assert both(made.decide(call())) == ("permit open", "forbidden f")


def test_a_boundary_in_shadow_bounds_the_shadow_only() -> None:
    """Also for a tool about which it has no rule: that is what it would refuse."""
    wall = "id: wall\nmode: shadow\n{}boundary: true\nrules:\n- {{id: w, effect: permit, match: {{tools: [run]}}}}\n"
    everything = "id: a\nrules:\n- {id: all, effect: permit}\n"
    made = bundle(everything, wall.format(""))
    assert both(made.decide(call())) == ("permit all", "no_permit wall")
    assert both(made.decide(call(RUN, {"code": "1"}))) == ("permit all", "permit all w")
    other = bundle(everything, wall.format("tier: tenant\ntenant: other\n"))
    assert other.decide(call()).shadow is None


def test_a_shadow_rule_in_an_enforced_boundary_does_not_open_it() -> None:
    """The boundary wants a permit that is in force."""
    wall = "id: wall\nboundary: true\nrules:\n- {id: w, effect: permit, mode: shadow}\n"
    made = bundle("id: a\nrules:\n" + OPEN, wall)
    assert both(made.decide(call())) == ("no_permit wall", "permit open w")


def test_explaining_tells_every_clause_of_both() -> None:
    """`explain` decides the same, in force and in shadow."""
    made = rules(OPEN, STRICT % "session.calls > 3")
    short, full = made.decide(call()), made.explain(call())
    assert both(short) == both(full)
    assert short.shadow is not None
    assert full.shadow is not None
    assert [len(reason.clauses) for reason in short.shadow.reasons] == [0, 0]
    assert [len(reason.clauses) for reason in full.shadow.reasons] == [0, 1]


# ── what the shadow reads of the past ────────────────────────────────────────────────────────────────────────────────

CAP = """id: a
state:
  paid: {sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}
  n: {count: {tools: [pay]}, within: 1h}
rules:
- {id: p, effect: permit, match: {tools: [pay]}, when: [state.n < 9]}
- {id: cap, effect: forbid, mode: shadow, match: {tools: [pay]}, when: [state.paid + args.amount > 2.0]}
"""


def test_only_what_is_enforced_is_read_for_the_reservation() -> None:
    """Cells of shadow rules are looked up and fed, but a change of theirs does not send an admitted call back."""
    made = bundle(CAP, tools=MONEY)
    assert [cell.name for cell in made.cells(pay())] == ["state.paid", "state.n"]
    decision = after(made, pay(), pay(), pay())
    assert both(decision) == ("permit p", "forbidden cap")
    assert decision.shadow is not None
    assert [cell.name for cell, _ in decision.reads] == ["state.n"]
    assert [cell.name for cell, _ in decision.shadow.reads] == ["state.paid", "state.n"]
    assert [entry.cell.name for entry in decision.reserves] == ["state.paid", "state.n"]
    assert decision.shadow.reserves == ()


def test_a_call_under_way_is_waited_for_in_shadow_too() -> None:
    """A permit tried out that waits for another call: pending in shadow, plainly unpermitted in force."""
    made = bundle(
        "id: a\nstate:\n  x: {formerly: {tools: [pay]}, within: 1h}\nrules:\n"
        "- {id: s, effect: permit, mode: shadow, match: {tools: [pay]}, when: [state.x]}\n",
        tools=MONEY,
    )
    assert both(after(made, pay(), (pay(), None))) == ("no_permit", "precondition_pending")


def test_decisions_without_a_shadow_share_one_plan() -> None:
    """The two kinds of calls of one bundle do not get into each other's way."""
    made = bundle(CAP, "id: b\nrules:\n- {id: f, effect: permit, match: {tools: [fetch]}}\n", tools=[*MONEY, FETCH])
    for _ in range(3):
        assert made.decide(call()).shadow is None
        assert made.decide(call(PAY, {"amount": 1.0})).shadow is not None
