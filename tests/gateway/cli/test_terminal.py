"""What others wrote is shown at a terminal, never obeyed by it."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from gateway.audit.query import Shown
from gateway.audit.text import printable
from gateway.cli.call import _shown
from gateway.cli.common import say
from gateway.cli.explain import explain
from gateway.tool import Json

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e\u200b\nrun_python"


def test_a_hostile_name_stays_on_its_line() -> None:
    """Whoever calls chooses the name of a tool that does not exist, and an operator reads it."""
    record: dict[str, Json] = {"call_id": "c_1", "type": "call.refused", "tool": {"name": HOSTILE}, "ts": "now"}
    for line in explain([Shown(record, None, None)]):
        assert printable(line).isprintable()


@pytest.mark.parametrize("as_json", [False, True])
def test_what_any_command_says_is_safe(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """Findings, names of files and records, for people and as JSON; which still says the same to who reads it."""
    say(Namespace(json=as_json), {"said": HOSTILE}, HOSTILE)
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert json.loads(out) == {"said": HOSTILE} if as_json else out.endswith("\\u200b\nrun_python\n")


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


def test_an_explanation_tells_what_the_code_called_and_what_it_was_called_by() -> None:
    """From a call one gets to those that its code made, and from each of them back."""
    asked: dict[str, Json] = {"call_id": "c_2", "parent_call_id": "c_1", "decision": {"effect": "permit"}}
    sent: Json = [
        {"method": "GET", "host": "a.example", "path": "/x", "status": 200, "bytes": 3},
        {"method": "PUT", "host": "b.example", "path": "/", "status": None, "bytes": 0},
    ]
    ended: dict[str, Json] = {"type": "call.outcome", "outcome": {"status": "done"}, "network": sent}
    below: list[dict[str, Json]] = [
        {"call_id": "c_3", "tool": {"name": "sum"}, "outcome": {"status": "failed", "code": "timeout"}},
        {"call_id": "c_4", "tool": {"name": "send"}, "type": "call.intent"},
    ]
    lines = list(explain([Shown(asked, None, None), Shown(ended, None, None)], below))
    assert lines[2] == "  made because of c_1"
    assert "  because of it: sum: failed (timeout), c_3" in lines
    assert "  because of it: send: not known (call.intent), c_4" in lines
    assert "  network: GET a.example/x: status 200, 3 bytes" in lines
    assert "  network: PUT b.example/: no answer" in lines
