"""Settling and erasing from the command line, beside a running gateway and without one."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from gateway.audit.query import Record, in_doubt, records
from tests.served import Served, ready, served, start, toolgate

ENDLESS = {"code": "while True: pass"}


ONCE = """
apiVersion: toolgate/v1
kind: Policy
id: once
state:
  times: {count: {tools: [run_python]}, within: 24h, over: user}
rules:
- {id: code, effect: permit, match: {tools: [run_python]}}
- {id: once, effect: forbid, match: {tools: [run_python]}, when: [state.times > 0]}
"""


def left_in_doubt(gateway: Served) -> str:
    """Kills a gateway in the middle of a call; the id of the call."""
    before = len(intents(gateway.home))

    def call() -> None:
        with suppress(OSError, HTTPException, ValueError):
            gateway.call("run_python", ENDLESS)

    caller = threading.Thread(target=call)
    caller.start()
    until = time.monotonic() + 60
    while len(intents(gateway.home)) == before and time.monotonic() < until:
        time.sleep(0.05)
    gateway.kill()
    caller.join(60)
    return str(intents(gateway.home)[-1]["call_id"])


def intents(home: Path) -> list[Record]:
    """The intents on record, in order."""
    return [record for record in records(home) if record["type"] == "call.intent"]


def operator(home: Path) -> str:
    """A fresh operator's key."""
    return str(json.loads(toolgate(home, "keys", "create", "--scope", "operator", "--json").stdout)["key"])


def shown(home: Path, call_id: str) -> list[Any]:
    """Of each record of a call: its content, or why there is none."""
    said = json.loads(toolgate(home, "audit", "show", call_id, "--json").stdout)
    return [each["unreadable"] or each["content"] for each in said]


def test_a_call_in_doubt_is_settled_with_and_without_a_gateway(tmp_path: Path) -> None:
    """Stopped, the command does it itself; running, the gateway does it for an operator's key and for no other."""
    home = tmp_path / "home"
    first = left_in_doubt(ready(start(home), home))
    settled = toolgate(home, "audit", "resolve", first, "--as", "not-done", "--why", "No file was made.")
    wanted = (0, f"{first} is on record as not-done\n", "")
    assert (settled.returncode, settled.stdout, settled.stderr) == wanted
    assert toolgate(home, "audit", "in-doubt").returncode == 0
    explained = toolgate(home, "explain", first).stdout
    assert "ended: not-done, as an operator says: No file was made." in explained

    second = left_in_doubt(ready(start(home), home))
    with served(home) as gateway:
        assert [record["call_id"] for record in in_doubt(home)] == [second]
        asked = ("audit", "resolve", second, "--as", "done", "--why", "The file is there.")
        refused = toolgate(home, *asked)
        assert (refused.returncode, "toolgate keys create --scope operator" in refused.stderr) == (2, True)
        refused = toolgate(home, *asked, "--key", gateway.key)
        assert (refused.returncode, "insufficient_scope" in refused.stderr) == (1, True)
        key = operator(home)
        assert toolgate(home, *asked, "--key", key).returncode == 0
        again = toolgate(home, *asked, "--key", key)
        assert (again.returncode, "not_found" in again.stderr) == (1, True)
        assert in_doubt(home) == []
        body = json.dumps({"call_id": second, "as": "perhaps", "why": "?"}).encode()
        status, said = gateway.post("/v1/audit:resolve", body, Authorization=f"Bearer {key}")
        assert (status, said["code"]) == (400, "malformed")
    with served(home):
        assert in_doubt(home) == []
    assert toolgate(home, "audit", "verify").returncode == 0


def test_what_never_ran_is_given_back_by_the_gateway_that_runs(tmp_path: Path) -> None:
    """One call is permitted: the one in doubt takes it up, until the gateway hears that it did not happen."""
    home, policies = tmp_path / "home", tmp_path / "policies"
    policies.mkdir()
    (policies / "once.yaml").write_text(ONCE)
    flags = ("--policies", str(policies))
    doubtful = left_in_doubt(ready(start(home, *flags), home))
    with served(home, *flags) as gateway:
        assert gateway.call("run_python", {"code": "print(1)"})[1]["code"] == "forbidden"
        asked = ("audit", "resolve", doubtful, "--as", "not-done", "--why", "It had not begun.")
        assert toolgate(home, *asked, "--key", operator(home)).returncode == 0
        assert gateway.call("run_python", {"code": "print(1)"})[0] == 200
        assert gateway.call("run_python", {"code": "print(1)"})[1]["code"] == "forbidden"


def test_a_session_is_erased_under_a_running_gateway_and_a_tenant_without_one(tmp_path: Path) -> None:
    """What was said before is unreadable at once, what is said after is not; the log verifies throughout."""
    home = tmp_path / "home"
    with served(home) as gateway:
        _, before = gateway.call("json_query", {"document": {"n": 1}, "path": "/n"})
        assert shown(home, before["call_id"])[0]["arguments"]["document"] == {"n": 1}
        key = operator(home)
        asked = ("audit", "erase", "--session", "default", "--why", "She asked for it.", "--key", key, "--json")
        erased = toolgate(home, *asked)
        counts = json.loads(erased.stdout)
        assert (erased.returncode, counts["sessions"], counts["keys"]) == (0, 1, 1)
        assert set(shown(home, before["call_id"])) == {"its session key was erased"}
        status, after = gateway.call("json_query", {"document": {"n": 2}, "path": "/n"})
        assert status == 200
        assert shown(home, after["call_id"])[0]["arguments"]["document"] == {"n": 2}
        body = json.dumps({"tenant": "other", "why": "Not mine."}).encode()
        assert gateway.post("/v1/audit:erase", body, Authorization=f"Bearer {key}")[1]["code"] == "insufficient_scope"
        body = json.dumps({"why": "Whose?"}).encode()
        assert gateway.post("/v1/audit:erase", body, Authorization=f"Bearer {key}")[1]["code"] == "malformed"
        assert gateway.post("/v1/audit:erase", body)[1]["code"] == "insufficient_scope"
    assert toolgate(home, "audit", "erase", "--why", "Whose?").returncode == 2
    erased = toolgate(home, "audit", "erase", "--tenant", "default", "--why", "The contract ended.")
    assert erased.stdout == "sessions meant: 1, keys deleted: 1, blobs removed: 0\n"
    assert set(shown(home, after["call_id"])) == {"its session key was erased"}
    assert toolgate(home, "audit", "verify").returncode == 0
    with served(home) as gateway:
        assert gateway.call("json_query", {"document": {"n": 3}, "path": "/n"})[0] == 200
