"""A refused call of a real gateway, explained from its record and, by an operator, before anybody makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.served import Served, served, toolgate

URL = "https://example.org/"
FETCH = {"type": "tool", "id": "http_fetch", "properties": {"arguments": {"url": URL}}}
ASKED = {"subject": {"type": "agent", "id": "dev"}, "action": {"name": "call"}, "resource": FETCH}


def evaluated(gateway: Served, key: str) -> tuple[int, Any]:
    """What the gateway answers to the question about the call."""
    body = json.dumps(ASKED).encode()
    return gateway.post("/v1/policy:explain", body, Authorization=f"Bearer {key}")


def test_the_record_of_a_call_and_the_question_about_it_have_one_answer(tmp_path: Path) -> None:
    """Effect, code, determining rules and nearest permit are the same; the record's clauses are among those told."""
    home = tmp_path / "home"
    with served(home) as gateway:
        made = toolgate(home, "keys", "create", "--scope", "operator", "--json")
        status, refused = gateway.call("http_fetch", {"url": URL})
        assert (status, refused["code"]) == (403, "no_permit")
        assert evaluated(gateway, gateway.key)[0] == 403
        status, told = evaluated(gateway, json.loads(made.stdout)["key"])
    assert (status, told["decision"]) == (200, False)
    past = json.loads(toolgate(home, "explain", refused["call_id"], "--json").stdout)["explained"]
    asked = told["context"]
    for key in (
        "effect",
        "code",
        "detail",
        "rule",
        "bundle",
        "call",
        "rules",
        "nearest",
        "obligations",
        "reads",
        "shadow",
    ):
        assert past[key] == asked[key], key
    assert past["nearest"]["rule"] == "fetch-docs"
    assert all(reason in asked["reasons"] for reason in past["reasons"] if reason["clauses"])
    call = tmp_path / "call.json"
    call.write_text(json.dumps({"call": {"http_fetch": {"url": URL}}}))
    supposed = toolgate(home, "explain", "--call", str(call), "--json")
    assert supposed.returncode == 1
    assert json.loads(supposed.stdout)["nearest"] == past["nearest"]
