"""What others wrote is shown at a terminal, never obeyed by it."""

from __future__ import annotations

from gateway.audit.query import Shown
from gateway.audit.text import printable
from gateway.cli.call import _shown
from gateway.cli.explain import explain
from gateway.tool import Json

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e\u200b\nrun_python"


def test_a_hostile_name_stays_on_its_line() -> None:
    """Whoever calls chooses the name of a tool that does not exist, and an operator reads it."""
    record: dict[str, Json] = {"call_id": "c_1", "type": "call.refused", "tool": {"name": HOSTILE}, "ts": "now"}
    for line in explain([Shown(record, None, None)]):
        assert printable(line).isprintable()


def test_a_result_cannot_move_the_cursor() -> None:
    """Lines and tabs are kept; escape sequences, bidi and invisible characters are spelled out."""
    assert _shown("a\tb\nc") == "a\tb\nc"
    shown = _shown(HOSTILE)
    assert shown == "\\u001b]0;owned\\u0007\\u009b2J\\u202e\\u200b\nrun_python"


def test_an_explanation_gives_obligations_with_units_and_the_reason_of_the_end() -> None:
    """What an operator reads needs no knowledge of how it is kept."""
    rates: Json = [{"rule": "r", "key": "agent", "rate": {"calls": 5, "per": 60.0}}]
    origin: Json = {"timeout": ["r"], "limit": ["r"], "label": ["r"], "limits.output": ["r", "s"]}
    duties: Json = {"timeout": 3.0, "limits": rates, "labels": ["a", "b"], "output": 1024, "origin": origin}
    asked: dict[str, Json] = {"call_id": "c_1", "decision": {"effect": "permit", "obligations": duties}}
    ended: dict[str, Json] = {"type": "call.outcome", "outcome": {"status": "refused", "code": "upstream_unreachable"}}
    lines = list(explain([Shown(asked, None, None), Shown(ended, {"detail": "Nobody is there."}, None)]))
    assert "    obligation timeout: 3 s, from r" in lines
    assert "    obligation limit: 5 calls in 60 s by agent, from r" in lines
    assert "    obligation label: a, b, from r" in lines
    assert "    obligation limits.output: 1024 bytes, from r and s" in lines
    assert lines[-2:] == ["  ended: refused (upstream_unreachable)", "    Nobody is there."]
