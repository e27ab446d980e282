"""`toolgate explain` of calls that were repeats, waited for people, met limits, or were answered by something else."""

from __future__ import annotations

from gateway.audit.query import Record, Shown
from gateway.cli.explain import explain

CALL: Record = {"call_id": "c_1", "principal": {"agent": "dev"}, "tool": {"name": "pay"}, "session_id": "s", "ts": "t"}


def told(*records: Record) -> str:
    return "\n".join(explain([Shown({**CALL, **record}, None) for record in records]))


def test_a_repeat_names_the_call_it_was_a_repeat_of() -> None:
    """Nothing was decided, and how the first call ended is said."""
    said = told({"type": "call.repeated", "repeat_of": "c_0", "outcome": {"status": "failed", "code": "timeout"}})
    assert "decided: nothing; this is a repeat of c_0" in said
    assert "ended: failed (timeout)" in said


def test_what_a_backend_said_of_a_call_is_told() -> None:
    """With the call by which it was asked."""
    decision = {"effect": "permit", "rules": ["ok"]}
    reconciled: Record = {"type": "call.reconciled", "as": "done", "asked": "c_2"}
    assert "ended: done, as its backend says in c_2" in told({"type": "call.intent", "decision": decision}, reconciled)


INTENT: Record = {"type": "call.intent", "decision": {"effect": "permit", "rules": ["ok"]}}
DONE: Record = {"type": "call.outcome", "outcome": {"status": "done"}}


def test_a_warning_is_told_and_is_not_how_a_call_ended() -> None:
    """The record of a warning comes after the outcome."""
    loop: Record = {"type": "loop.warned", "tools": ["pay", "ask"], "times": 4}
    said = told(INTENT, DONE, loop)
    assert "warned: the last 4 calls brought nothing new (pay, ask)" in said
    budget: Record = {"type": "budget.warned", "over": "tenant", "dimension": "calls", "used": 48.0, "most": 60.0}
    said += told(INTENT, DONE, budget)
    assert "warned: 48 of 60 calls of the tenant's budget were used" in said
    assert said.count("ended: done") == 2


def test_a_refusal_is_told_in_words_and_when_to_come_again() -> None:
    """The sentence of its code, where no other is on record."""
    outcome = {"status": "refused", "code": "rate_limited", "limit": "tool", "retry_after_ms": 3109}
    said = told({"type": "call.refused", "decision": INTENT["decision"], "outcome": outcome})
    assert "ended: refused (rate_limited) by the limit tool\n    Too many calls" in said
    assert "it was told to call again after 3.109 s" in said


def test_the_approval_that_a_call_waits_for_or_used_up_is_named() -> None:
    """So that it can be looked at."""
    approval = {"approval": {"id": "a_1"}}
    waits: Record = {"type": "call.parked", "outcome": {"status": "parked", "code": "approval_required"}}
    assert "it waits for a person under a_1" in told(waits | approval)
    assert "it used up the approval a_1" in told(INTENT | approval, DONE)


def test_who_gave_the_result_is_told_where_that_was_not_the_backend_at_once() -> None:
    """A kept result, the fallback, the last of several attempts."""
    assert "answered by a kept result" in told(INTENT, DONE | {"attempt": 0, "answered_by": "cache"})
    said = told(INTENT, DONE | {"attempt": 0, "answered_by": "fallback", "origin": "fallback mirror"})
    assert "answered by its fallback mirror" in said
    assert "attempts: 2" in told(INTENT, DONE | {"attempt": 2})
    assert "attempts" not in told(INTENT, DONE | {"attempt": 1})
