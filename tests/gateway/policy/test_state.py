"""Declared session state: what a call reads of the past, what it adds to it, and what a decision makes of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from gateway.aggregates import Ended, Level, Reservation
from gateway.model import Call, Decision, Effect
from gateway.policy import PolicyBundle
from gateway.policy.cases import NOW
from gateway.reliability.cells import Cells
from gateway.tool import Json
from tests.gateway.policy.makers import bundle, call, outcome, tool

PAY = tool(
    "pay",
    {
        "amount": {"type": "number"},
        "to": {"type": "string"},
        "order": {},
        "url": {"type": "string"},
        "bill": {"type": "object", "properties": {"total": {"type": "integer"}}},
    },
    ("write",),
    facts={"url": "url"},
)
LOOK = tool("look", {"order": {}}, ("read",), labels=("pii",))
TOOLS = (PAY, LOOK)
PERMIT = "- {id: p, effect: permit, match: {tools: [pay]}, when: ['%s']}\n"


def stateful(state: str, clause: str, more: str = "") -> PolicyBundle:
    """A bundle with one aggregate `x`, and a permit of `pay` with one clause."""
    return bundle(f"id: a\nstate:\n  x: {state}\nrules:\n" + PERMIT % clause + more, tools=TOOLS)


def pay(at: float = NOW, **more: Any) -> Call:
    """A call of `pay` at a unix time."""
    arguments: Mapping[str, Json] = {"amount": 1.0, **more.pop("arguments", {})}
    return replace(call(PAY, arguments, **more), now=at)


def look(at: float = NOW, **more: Any) -> Call:
    """A call of `look` at a unix time."""
    return replace(call(LOOK, more.pop("arguments", {}), **more), now=at)


def after(made: PolicyBundle, called: Call, *past: Call | tuple[Call, Ended | None]) -> Decision:
    """The decision on a call after others, which are done unless it says otherwise; None is still under way."""
    cells = Cells()
    for number, each in enumerate(past):
        one, ended = each if isinstance(each, tuple) else (each, "done")
        reservation = Reservation(f"c_past{number}", one.now, (), tuple(made.entries(one)))
        cells.reserve(reservation)
        if ended is not None:
            cells.settle(reservation, ended)
    return made.decide(called, cells.look(made.cells(called), called.now))


def seen(decision: Decision) -> Json:
    """What the decision read of the aggregate `x`."""
    ((cell, level),) = decision.reads
    assert cell.name == "state.x"
    return level.value


# ── what each kind holds ─────────────────────────────────────────────────────────────────────────────────────────────

TO = [{"to": "a"}, {"to": "b"}, {"to": "a"}]
KINDS: list[tuple[str, str, list[Call], Json]] = [
    ("{count: {tools: [pay]}, within: 1h}", "state.x == 0", [], 0),
    ("{count: {tools: [pay]}, within: 1h}", "state.x == 2", [pay(), pay(), look()], 2),
    ("{count: {tools: [pa*]}, within: 1h}", "state.x == 1", [pay(), look()], 1),
    ("{count: {effects: [read]}, within: 1h}", "state.x == 1", [pay(), look()], 1),
    ("{count: {tool_labels: [pii]}, within: 1h}", "state.x == 1", [pay(), look()], 1),
    ("{count: {}, within: 1h}", "state.x == 2", [pay(), look()], 2),
    ("{count_distinct: args.to, of: {tools: [pay]}, within: 1h}", "state.x == 2", [pay(arguments=a) for a in TO], 2),
    ("{count_distinct: arg.url.host, of: {tools: [pay]}, within: 1h}", "state.x == 1",
     [pay(arguments={"url": u}) for u in ("https://a.org/1", "https://A.org/2", "no url")], 1),
    ("{sum: args.amount, of: {tools: [pay]}, within: 1h}", "state.x == 0.0", [], 0.0),
    ("{sum: args.amount, of: {tools: [pay]}, within: 1h}", "state.x + args.amount == 1.75",
     [pay(arguments={"amount": a}) for a in (0.5, 0.25)], 0.75),
    ("{sum: args.bill.total, of: {tools: [pay]}, within: 1h}", "state.x == 7.0",
     [pay(arguments={"bill": b}) for b in ({"total": 3}, {"total": 4}, {})], 7.0),
    ("{formerly: {tools: [look]}, within: 1h}", "!state.x", [], False),
    ("{formerly: {tools: [look]}, within: 1h}", "state.x", [look()], True),
    ("{since: {tools: [look]}, within: 1h}", "state.x > 1e300", [], math.inf),
    ("{since: {tools: [look]}, within: 1h}", "state.x == 30.0", [look(NOW - 50), look(NOW - 30)], 30.0),
]  # fmt: skip


@pytest.mark.parametrize(("state", "clause", "past", "value"), KINDS, ids=[f"{k[0]} {k[1]}" for k in KINDS])
def test_each_kind_counts_what_it_says_and_has_its_type(state: str, clause: str, past: list[Call], value: Json) -> None:
    """The level after some calls, and a clause over it in the type of its kind: int, double or bool."""
    decision = after(stateful(state, clause), pay(), *past)
    assert seen(decision) == value
    assert outcome(decision) == "permit p"


def test_what_has_left_the_window_does_not_count() -> None:
    """A window ends where it says: a call as old as the window is long is out of it."""
    made = stateful("{count: {tools: [pay]}, within: 10m}", "state.x == 0")
    assert seen(after(made, pay(), pay(NOW - 599.5))) == 1
    assert seen(after(made, pay(), pay(NOW - 600))) == 0


def test_failed_calls_stay_counted_and_refused_ones_never_were() -> None:
    """What was dispatched may have happened; what was refused did not. `formerly` wants a call that was done."""
    counted = stateful("{count: {tools: [look]}, within: 1h}", "true || state.x == 0")
    formerly = stateful("{formerly: {tools: [look]}, within: 1h}", "true || state.x")
    ends: tuple[Ended | None, ...] = ("done", "failed", "refused", None)
    assert [seen(after(counted, pay(), (look(), ended))) for ended in ends] == [1, 1, 0, 1]
    assert [seen(after(formerly, pay(), (look(), ended))) for ended in ends] == [True, False, False, False]


# ── whose past, and which ────────────────────────────────────────────────────────────────────────────────────────────

ME = {"agent": "dev", "user": "ann", "tenant": "t", "uid": "s_1"}
OTHERS: list[tuple[dict[str, Any], set[str]]] = [
    (ME, {"session", "user", "agent", "tenant"}),
    ({**ME, "uid": "s_2"}, {"user", "agent", "tenant"}),
    ({**ME, "uid": "s_2", "agent": "bot"}, {"user", "tenant"}),
    ({**ME, "uid": "s_2", "user": "bob"}, {"agent", "tenant"}),
    ({**ME, "uid": "s_2", "user": "bob", "agent": "bot"}, {"tenant"}),
    ({**ME, "uid": "s_2", "user": None, "agent": "ann"}, {"tenant"}),  # an agent called like the user
    ({**ME, "uid": "s_2", "tenant": "u"}, set()),
]


@pytest.mark.parametrize("over", ["session", "user", "agent", "tenant"])
def test_over_says_whose_calls_count(over: str) -> None:
    """Another session, agent, user or tenant shares a cell exactly as far as `over` says."""
    made = stateful(f"{{count: {{tools: [pay]}}, within: 1h, over: {over}}}", "state.x == 0")
    for other, shared in OTHERS:
        assert seen(after(made, pay(**ME), pay(**other))) == (1 if over in shared else 0), other


def test_without_a_user_the_agent_is_the_user() -> None:
    """`over: user` counts an agent that acts for nobody by itself, over its sessions."""
    made = stateful("{count: {tools: [pay]}, within: 1h, over: user}", "state.x == 0")
    assert seen(after(made, pay(uid="s_1"), pay(uid="s_2"), pay(agent="bot"))) == 1


def test_the_same_value_in_every_spelling_and_no_other() -> None:
    """1.0 is 1 as JSON Schema has it; true, the text and another order of keys are told apart or not as JSON does."""
    made = stateful("{count: {tools: [look]}, same: args.order, within: 1h}", "true || state.x == 0")
    pairs: list[tuple[Json, Json, bool]] = [
        (1, 1.0, True), (-0.0, 0, True), ("a", "a", True), ({"a": 1, "b": [2.0]}, {"b": [2], "a": 1}, True),
        (1, True, False), (1, "1", False), (None, "null", False), ([1, 2], [2, 1], False), ("\ud800", "\ud800", True),
        (10**20, 1e20, True), (1, 2, False),
    ]  # fmt: skip
    for mine, theirs, equal in pairs:
        decision = after(made, pay(arguments={"order": mine}), look(arguments={"order": theirs}))
        assert seen(decision) == int(equal), (mine, theirs)


def test_same_compares_facts_too() -> None:
    """With `same: arg.url.host` two spellings of one host are one."""
    made = stateful("{count: {tools: [pay]}, same: arg.url.host, within: 1h}", "state.x == 1")
    first, second = pay(arguments={"url": "https://A.org/1"}), pay(arguments={"url": "https://a.org./2"})
    assert outcome(after(made, second, first)) == outcome(after(made, first, first)) == "permit p"


def test_without_the_value_to_compare_the_clause_is_in_error() -> None:
    """A call that lacks what `same` compares has no cell: a permit does not apply, a forbid refuses; nothing counts."""
    state = "{count: {tools: [pay]}, same: args.order, within: 1h}"
    permits = stateful(state, "state.x < 9")
    (reason,) = (decision := after(permits, pay(), pay())).reasons
    assert (outcome(decision), reason.result, decision.reads) == ("no_permit", "error", ())
    assert reason.clauses[0].values == {"state.x": {"absent": True}}
    assert list(permits.cells(pay())) == list(permits.entries(pay())) == []
    forbids = stateful(state, "true", "- {id: f, effect: forbid, match: {tools: [pay]}, when: [state.x > 9]}\n")
    assert outcome(after(forbids, pay())) == "policy_error f"


def test_a_level_that_is_not_there_is_an_error() -> None:
    """Whoever decides without looking gets no permit from a clause that reads the past, and no silence of a forbid."""
    made = stateful("{count: {tools: [pay]}, within: 1h}", "state.x >= 0")
    assert outcome(made.decide(pay())) == "no_permit"
    assert made.decide(pay()).reasons[0].result == "error"
    forbids = stateful(
        "{count: {tools: [pay]}, within: 1h}",
        "true",
        "- {id: f, effect: forbid, match: {tools: [pay]}, when: [state.x < 0]}\n",
    )
    assert outcome(forbids.decide(pay())) == "policy_error f"


@pytest.mark.parametrize("where", ["same: args.order, count: {tools: [pay]}", "count_distinct: args.order, of: {}"])
def test_what_is_too_large_to_compare_is_refused(where: str) -> None:
    """A call cannot keep the others waiting, nor slip by uncounted: more than a thousand values are a policy error."""
    made = stateful(f"{{{where}, within: 1h}}", "true || state.x > 0")
    large, largest = pay(arguments={"order": [0] * 1000}), pay(arguments={"order": [0] * 999})
    assert outcome(after(made, largest)) == "permit p"
    assert outcome(after(made, large)) == "policy_error"
    assert "more than 1000 values" in str(after(made, large).problem)
    assert list(made.entries(large)) == []
    deep = stateful(
        f"{{{where}, within: 1h}}", "true", "- {id: s, effect: forbid, mode: shadow, when: [state.x > 5]}\n"
    )
    assert (after(deep, largest).shadow is None, outcome(after(deep, large))) == (False, "policy_error")


# ── what a call adds ─────────────────────────────────────────────────────────────────────────────────────────────────

AMOUNTS: list[tuple[Json, Decimal | None]] = [
    (5, Decimal(5)),
    (0.1, Decimal("0.1")),
    (1e22, Decimal("1e22")),
    (10**40, Decimal(10**40)),
    (-7, Decimal(0)),
    (-0.5, Decimal(0)),
    (True, None),
    ("5", None),
    (None, None),
]


@pytest.mark.parametrize(("given", "amount"), AMOUNTS)
def test_an_amount_is_exact_and_never_below_zero(given: Json, amount: Decimal | None) -> None:
    """As JSON wrote it, without what binary fractions add; no call lowers a sum, and what is no number adds nothing."""
    made = stateful("{sum: args.amount, of: {tools: [pay]}, within: 1h}", "true || state.x > 0.0")
    assert [entry.amount for entry in made.entries(pay(arguments={"amount": given}))] == (
        [] if amount is None else [amount]
    )


def test_values_that_are_told_apart_are_kept_as_digests() -> None:
    """Neither the entry nor a cell's key holds what an argument said."""
    made = bundle(
        "id: a\nstate:\n  n: {count_distinct: args.to, of: {tools: [pay]}, same: args.order, within: 1h}\nrules:\n"
        + PERMIT % "state.n < 3",
        tools=TOOLS,
    )
    (entry,) = made.entries(pay(arguments={"to": "ann@secret.org", "order": "order-4711"}))
    assert isinstance(entry.amount, str)
    assert len(entry.amount) == 64
    assert "ann" not in repr(entry)
    assert "4711" not in repr(entry)


def test_a_call_adds_to_what_its_tool_feeds_whether_it_reads_it_or_not() -> None:
    """`look` meets no rule that reads state, so it asks for no cells; it still leaves its trace, when permitted."""
    more = "- {id: q, effect: permit, match: {tools: [look]}}\n"
    made = stateful("{formerly: {tools: [look]}, within: 1h}", "state.x", more)
    decision = made.decide(look())
    assert (list(made.cells(look())), decision.reads) == ([], ())
    assert [entry.cell.name for entry in decision.reserves] == ["state.x"]
    assert list(made.entries(pay())) == []


def test_a_refused_call_reserves_nothing_but_says_what_it_read() -> None:
    """Refusals never consume; what was read is part of why."""
    made = stateful("{count: {tools: [pay]}, within: 1h}", "state.x < 1")
    permitted, refused = after(made, pay()), after(made, pay(), pay())
    assert len(permitted.reserves) == 1
    assert (outcome(refused), refused.reserves, seen(refused)) == ("no_permit", (), 1)


def test_names_are_private_to_their_part() -> None:
    """Two parts may call different things `x`: each reads its own, and a tenant's part counts its tenant only."""
    head = "id: {}\n{}state:\n  x: {{count: {{tools: [{}]}}, within: 1h}}\nrules:\n"
    rule = "- {{id: {}, effect: permit, match: {{tools: [pay]}}, when: [state.x == {}]}}\n"
    made = bundle(
        head.format("one", "", "pay") + rule.format("p", 1),
        head.format("two", "tier: tenant\ntenant: t\n", "look") + rule.format("q", 2),
        tools=TOOLS,
    )
    past = (pay(tenant="t"), look(tenant="t"), look(tenant="t"))
    decision = after(made, pay(tenant="t"), *past)
    assert outcome(decision) == "permit p q"
    assert [cell.key.split("\x1f")[:2] for cell, _ in decision.reads] == [["one", "x"], ["two", "x"]]
    assert [entry.cell.key.split("\x1f")[0] for entry in made.entries(look())] == []


def test_a_changed_definition_starts_anew_and_a_moved_one_does_not() -> None:
    """The key of a cell holds the digest of what was declared, not where: other rules and comments change nothing."""

    def key(state: str, more: str = "") -> str:
        (cell,) = stateful(state, "state.x == 0", more).cells(pay())
        return cell.key

    first = key("{count: {tools: [pay]}, within: 1h}")
    assert first == key("{within: 60m, count: {tools: [pay]}}", "- {id: q, effect: permit}\n")
    changed = ["{count: {tools: [pay]}, within: 2h}", "{count: {tools: [pay, look]}, within: 1h}",
               "{since: {tools: [pay]}, within: 1h}"]  # fmt: skip
    assert len({first, *(key(each) for each in changed[:2])}) == 3
    assert first != stateful(changed[2], "state.x > 0.0").cells(pay())[0].key


# ── a precondition under way ─────────────────────────────────────────────────────────────────────────────────────────

REVIEWED = "{formerly: {tools: [look]}, same: args.order, within: 1h}"
PENDING: list[tuple[str, str, Ended | None, str]] = [
    ("state.x", "", None, "precondition_pending"),
    ("state.x", "", "done", "permit p"),
    ("state.x", "", "failed", "no_permit"),
    ("state.x && args.amount > 5.0", "", None, "no_permit"),
    ("!state.x", "", None, "permit p"),
    ("state.x", "- {id: f, effect: forbid, match: {tools: [pay]}}\n", None, "forbidden f"),
    ("state.x", "- {id: f, effect: forbid, match: {tools: [pay]}, when: [args.to == \"a\"]}\n", None, "policy_error f"),
    ("state.x", "- {id: f, effect: forbid, match: {tools: [pay]}, when: [state.x]}\n", None, "no_permit"),
    ("state.x", "- {id: q, effect: permit, match: {tools: [pay]}}\n", None, "permit q"),
]  # fmt: skip


@pytest.mark.parametrize(("clause", "more", "ended", "wanted"), PENDING)
def test_pending_is_said_only_where_waiting_would_help(
    clause: str, more: str, ended: Ended | None, wanted: str
) -> None:
    """Only a refusal for want of a permit, which a call under way would turn into one, is worth a second try."""
    made = stateful(REVIEWED, clause, more)
    decision = after(made, pay(arguments={"order": 7}), (look(arguments={"order": 7}), ended))
    assert outcome(decision) == wanted
    if wanted == "precondition_pending":
        assert decision.problem is not None
        assert decision.problem.retry_after_ms == 1000
        assert "still under way" in decision.problem.detail
        assert (decision.effect, decision.reserves, decision.rules) == (Effect.FORBID, (), ())
        assert decision.reasons[0].clauses[0].result == "false"


def test_a_call_under_way_about_another_value_promises_nothing() -> None:
    """The review of another order is under way: a flat denial."""
    made = stateful(REVIEWED, "state.x")
    assert outcome(after(made, pay(arguments={"order": 7}), (look(arguments={"order": 8}), None))) == "no_permit"


def test_pending_in_a_boundary_counts_too() -> None:
    """A boundary part that waits for a call under way says so, when the other parts permit."""
    state = f"state:\n  x: {REVIEWED}\n"
    made = bundle(
        f"id: task\nboundary: true\n{state}rules:\n" + PERMIT % "state.x",
        "id: all\nrules:\n- {id: q, effect: permit}\n",
        tools=TOOLS,
    )
    review = look(arguments={"order": 7})
    assert outcome(after(made, pay(arguments={"order": 7}), (review, None))) == "precondition_pending"
    assert outcome(after(made, pay(arguments={"order": 7}))) == "no_permit task"


# ── purity ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_call_and_levels_give_the_same_decision() -> None:
    """Decided a hundred times, in between others and by another bundle of the same files: equal to the last field."""
    text = f"id: a\nstate:\n  x: {REVIEWED}\n  n: {{sum: args.amount, of: {{tools: [pay]}}, within: 1h}}\nrules:\n"
    text += PERMIT % "state.x && state.n < 5.0"
    text += (
        "- {id: q, effect: permit, match: {tools: [pay]}, with: {approval: {when: state.n > 1.0, by: [requester]}}}\n"
    )
    text += "- {id: s, effect: forbid, mode: shadow, match: {tools: [pay]}, when: [state.n > 2.0]}\n"
    made, twin = bundle(text, tools=TOOLS), bundle(text, tools=TOOLS)
    called = pay(arguments={"order": 7})
    cells = made.cells(called)
    levels = {cells[0].key: Level(False, 3, pending=True), cells[1].key: Level(2.5, 9)}
    first = made.decide(called, levels)
    for number in range(100):
        made.decide(pay(arguments={"order": number, "amount": float(number)}), levels)
        assert made.decide(called, levels) == first
    assert twin.decide(called, levels) == first
    assert levels == {cells[0].key: Level(False, 3, pending=True), cells[1].key: Level(2.5, 9)}
    assert [cell for cell, _ in first.reads] == list(cells)
    assert replace(made.explain(called, levels), reasons=(), shadow=None) == replace(first, reasons=(), shadow=None)
