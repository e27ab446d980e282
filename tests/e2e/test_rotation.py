"""The signing key replaced beside a running gateway, which goes on serving, for an operator of the whole of it."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.audit.verify import verify
from gateway.audit.verify_proof import main as check
from tests.served import served, toolgate


def test_the_key_is_replaced_under_a_running_gateway(tmp_path: Path) -> None:
    """For a key of scope operator and tenant default and for no other; calls before and after it are proved by either
    key, also after a restart."""
    home = tmp_path / "home"
    with served(home) as gateway:
        old = (home / "audit" / "key.pub").read_text()
        _, before = gateway.call("json_query", {"document": {"n": 1}, "path": "/n"})
        asked = ("audit", "rotate-key", "--why", "Once a year.")
        refused = toolgate(home, *asked)
        assert (refused.returncode, "toolgate keys create --scope operator" in refused.stderr) == (2, True)
        made = ("keys", "create", "--scope", "operator", "--json")
        foreign = json.loads(toolgate(home, *made, "--tenant", "other").stdout)["key"]
        for key in (gateway.key, foreign):
            refused = toolgate(home, *asked, "--key", key)
            assert (refused.returncode, "insufficient_scope" in refused.stderr) == (1, True)
        assert (home / "audit" / "key.pub").read_text() == old
        operator = json.loads(toolgate(home, *made).stdout)["key"]
        assert gateway.post("/v1/audit:rotate-key", b"{}", Authorization=f"Bearer {operator}")[1]["code"] == "malformed"
        done = toolgate(home, *asked, "--key", operator, "--json")
        new = json.loads(done.stdout)["new"]
        assert (done.returncode, new) == (0, (home / "audit" / "key.pub").read_text().strip())
        _, after = gateway.call("json_query", {"document": {"n": 2}, "path": "/n"})
    with served(home) as gateway:
        assert gateway.call("json_query", {"document": {"n": 3}, "path": "/n"})[0] == 200
        (tmp_path / "old.pub").write_text(old)
        for call in (before, after):
            proof = tmp_path / call["call_id"]
            assert toolgate(home, "audit", "prove", call["call_id"], "-o", str(proof)).returncode == 0
            assert check([str(proof), "--key", str(tmp_path / "old.pub")]) == 0
    for key in (old, new):
        assert all(result.ok for result in verify(home / "audit", key))
