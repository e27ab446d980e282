"""`toolgate explain` of a call that was a repeat, and of one whose backend said what became of it."""

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
