"""A whole gateway in front of a real backend: requests are counted where they arrive."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.upstream import counting_upstream, spec_and_policy
from tests.served import served, toolgate


def test_a_call_is_exactly_one_request_and_two_records(tmp_path: Path) -> None:
    """Fifty calls: fifty requests over one connection, fifty intents and fifty outcomes."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        with served(tmp_path / "home", "--specs", str(specs), "--policies", str(policies)) as gateway:
            for number in range(50):
                status, said = gateway.call("count", {"text": f"call {number}"})
                assert (status, said["result"]["structured_content"]) == (200, {"said": f"call {number}"})
        assert upstream.count() == 50
        assert len(upstream.peers) == 1
    lines = toolgate(tmp_path / "home", "audit", "tail", "-n", "1000", "--calls", "--json").stdout.splitlines()
    types = [json.loads(line)["type"] for line in lines]
    assert types == ["call.intent", "call.outcome"] * 50


def test_a_refused_call_reaches_nobody(tmp_path: Path) -> None:
    """Wrong arguments, a hidden tool, a closed session: the backend hears nothing."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        with served(tmp_path / "home", "--specs", str(specs), "--policies", str(policies)) as gateway:
            assert gateway.call("count", {"txt": "x"})[0] == 422
            assert gateway.call("counts", {"text": "x"})[0] == 404
            body = b'{"arguments": {"text": "x"}}'
            assert gateway.post("/v1/tools/count/call", body, **{"Toolgate-Session": "s_" + "0" * 32})[0] == 403
        assert upstream.count() == 0


def test_arguments_and_results_are_not_in_the_log_in_clear(tmp_path: Path) -> None:
    """Content is encrypted in the line; `audit show` opens it for whoever holds the home folder."""
    secret = "a-very-particular-sentence"
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        with served(tmp_path / "home", "--specs", str(specs), "--policies", str(policies)) as gateway:
            _, said = gateway.call("count", {"text": secret})
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    shown = toolgate(tmp_path / "home", "audit", "show", said["call_id"])
    assert secret in shown.stdout
