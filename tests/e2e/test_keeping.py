"""Archiving and expiring beside a running gateway, which puts both on record."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.audit.query import records
from gateway.audit.verify import verify
from tests.gateway.audit.archives import write_aged
from tests.served import served, toolgate


def test_a_running_gateway_puts_on_record_what_is_archived(tmp_path: Path) -> None:
    """For an operator's key and no other; it goes on serving, stops, and starts over what is left."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_aged(home, count=3)
    asked = ("audit", "archive", "--before", "90d", "--to", str(elsewhere))
    with served(home) as gateway:
        refused = toolgate(home, *asked)
        assert (refused.returncode, "--scope operator" in refused.stderr) == (2, True)
        refused = toolgate(home, *asked, "--key", gateway.key)
        assert (refused.returncode, "insufficient_scope" in refused.stderr) == (1, True)
        assert verify(home / "audit")[0].archived == 0
        key = json.loads(toolgate(home, "keys", "create", "--scope", "operator", "--json").stdout)["key"]
        done = toolgate(home, *asked, "--key", key, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        (told,) = verify(home / "audit")
        assert (told.ok, told.archived) == (True, said["last"] + 1)
        assert gateway.call("run_python", {"code": "print(1)"})
    with served(home) as gateway:
        assert gateway.call("run_python", {"code": "print(2)"})
    (told,) = verify(home / "audit", archive=elsewhere)
    assert (told.ok, told.archived) == (True, 0)
    (record,) = [record for record in records(home) if record["type"] == "log.archived"]
    assert said["record"]["seq"] == record["seq"]


def test_a_gateway_erases_what_has_expired(tmp_path: Path) -> None:
    """When it starts, by itself: a session whose key and records are years old."""
    home = tmp_path / "home"
    write_aged(home, count=1)
    with closing(sqlite3.connect(home / "state.db")) as state, state:
        state.execute("UPDATE audit_session_keys SET created_at = 1700000000")
    with served(home, env={"TOOLGATE_AUDIT__RETAIN__CONTENT": "30d"}):
        pass
    (record,) = [record for record in records(home) if record["type"] == "payload.erased"]
    assert (record["sessions"], record["why"], record["who"]) == (["s1"], "retention", {"authn": "gateway"})
