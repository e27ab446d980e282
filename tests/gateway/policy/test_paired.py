"""A candidate beside the live bundle: heard, recorded, never followed."""

from __future__ import annotations

from decimal import Decimal

from gateway.aggregates import Reservation
from gateway.model import Effect
from gateway.policy import PolicyBundle
from gateway.policy.cases import NOW
from gateway.policy.paired import Paired
from gateway.reliability.cells import Cells
from tests.gateway.policy.makers import bundle, call, tool

PAY = tool("pay", {"amount": {"type": "number"}}, ("write",))
SUM = "state:\n  spent: {sum: args.amount, of: {tools: [pay]}, within: 1h}\n"


def rules(*lines: str, state: str = "", part: str = "a") -> PolicyBundle:
    """A bundle of one part about `pay`."""
    return bundle(f"id: {part}\n{state}rules:\n" + "".join(f"- {{{line}}}\n" for line in lines), tools=(PAY,))


PERMIT = "id: p, effect: permit, match: {tools: [pay]}"
FORBID = "id: f, effect: forbid, match: {tools: [pay]}, when: ['args.amount > 5.0']"
CAP = "id: f, effect: forbid, match: {tools: [pay]}, when: ['state.spent + args.amount > 5.0']"
SHADOW = "id: s, effect: forbid, mode: shadow, match: {tools: [pay]}"
PAYING = call(PAY, {"amount": 9.0})


def test_the_live_bundle_decides_and_the_candidate_is_said_beside() -> None:
    """Both whole, each under its own digest; everything else is the live bundle's."""
    live, candidate = rules(PERMIT), rules(PERMIT, FORBID)
    paired = Paired(live, candidate)
    decision = paired.decide(PAYING, {})
    assert (decision.effect, decision.bundle, decision.problem) == (Effect.PERMIT, live.digest, None)
    assert decision.shadow == candidate.decide(PAYING, {})
    assert decision.shadow is not None
    assert decision.shadow.bundle == candidate.digest
    assert decision.shadow.effect is Effect.FORBID
    assert paired.digest == live.digest


def test_a_candidate_that_permits_more_permits_nothing() -> None:
    """Not a call, and not a look at the list of tools."""
    live, candidate = rules(PERMIT, FORBID), rules(PERMIT)
    paired = Paired(live, candidate)
    decision = paired.decide(PAYING, {})
    assert decision.effect is Effect.FORBID
    assert decision.shadow is not None
    assert decision.shadow.effect is Effect.PERMIT
    nobody = rules("id: p, effect: permit, match: {tools: [pay], agents: [nobody]}")
    assert Paired(nobody, candidate).visible(PAYING.caller.principal) == frozenset()


def test_the_candidate_takes_the_place_of_the_live_shadow_and_has_none_of_its_own() -> None:
    """A decision has room for one other."""
    live, candidate = rules(PERMIT, SHADOW), rules(PERMIT, SHADOW, "id: q, effect: permit, match: {tools: [pay]}")
    assert live.decide(PAYING, {}).shadow is not None
    shadow = Paired(live, candidate).decide(PAYING, {}).shadow
    assert shadow is not None
    assert (shadow.bundle, shadow.effect, shadow.shadow) == (candidate.digest, Effect.PERMIT, None)


def test_the_past_that_only_the_candidate_declares_is_fed_and_read() -> None:
    """It counts what really happened, call by call; the live decision does not stand on it."""
    live, candidate = rules(PERMIT), rules(PERMIT, CAP, state=SUM)
    paired, cells = Paired(live, candidate), Cells()
    paying = call(PAY, {"amount": 3.0})
    effects = []
    for number in range(2):
        decision = paired.decide(paying, cells.look(paired.cells(paying), NOW))
        assert decision.shadow is not None
        effects.append((decision.effect, decision.shadow.effect))
        assert decision.reads == ()
        assert [entry.amount for entry in decision.reserves] == [Decimal(3)]
        cells.reserve(reservation := Reservation(f"c_{number}", NOW, decision.reads, decision.reserves))
        cells.settle(reservation, "done")
    assert effects == [(Effect.PERMIT, Effect.PERMIT), (Effect.PERMIT, Effect.FORBID)]


def test_what_both_declare_is_one_cell_and_fed_once() -> None:
    """The same definition in the same part has the same key, so nothing is counted twice."""
    live, candidate = rules(PERMIT, CAP, state=SUM), rules(PERMIT, state=SUM)
    paired, paying = Paired(live, candidate), call(PAY, {"amount": 3.0})
    cells = paired.cells(paying)
    decision = paired.decide(paying, Cells().look(cells, NOW))
    assert list(cells) == list(live.cells(paying))
    assert [cell for cell, _ in decision.reads] == list(cells)
    assert decision.reserves == tuple(live.entries(paying)) == tuple(paired.entries(paying))


def test_a_forbidden_call_adds_to_no_past() -> None:
    """Also where the candidate would have permitted it: it did not happen."""
    live, candidate = rules(FORBID, PERMIT), rules(PERMIT, CAP, state=SUM)
    paired = Paired(live, candidate)
    decision = paired.decide(PAYING, Cells().look(paired.cells(PAYING), NOW))
    assert (decision.effect, decision.reserves) == (Effect.FORBID, ())


def test_explaining_tells_every_clause_of_both() -> None:
    """Each rule that was looked at, with its clauses, in both halves."""
    live, candidate = rules(PERMIT, FORBID.replace("5.0", "50.0")), rules(PERMIT, FORBID)
    decision = Paired(live, candidate).explain(PAYING, {})
    assert decision.shadow is not None
    told = [{r.rule: [c.result for c in r.clauses] for r in each.reasons} for each in (decision, decision.shadow)]
    assert told == [{"p": [], "f": ["false"]}, {"p": [], "f": ["true"]}]
