"""A caller who hangs up: the work ends, and the record says so."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from tests.served import Served, served, toolgate

LOOP = json.dumps({"arguments": {"code": "while True: pass"}})


def hang_up_during(gateway: Served, path: str, body: str) -> None:
    """Sends a request and closes the connection without waiting for the answer."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nAuthorization: Bearer {gateway.key}\r\n"
            f"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        wire.sendall((head + body).encode())
        time.sleep(0.5)


def outcomes(gateway: Served, wanted: int) -> list[dict[str, Any]]:
    """The outcomes on record, once there are so many."""
    deadline = time.monotonic() + 20
    while True:
        lines = toolgate(gateway.home, "audit", "tail", "--calls", "--json").stdout.splitlines()
        found = [record for record in map(json.loads, lines) if record["type"] == "call.outcome"]
        if len(found) >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_work_nobody_waits_for_is_killed_and_recorded_as_cancelled(tmp_path: Path) -> None:
    """Over REST and MCP: status failed, code cancelled; the next call is served."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    params = {"name": "run_python", "arguments": {"code": "while True: pass"}}
    with served(tmp_path / "home") as gateway:
        hang_up_during(gateway, "/v1/tools/run_python/call", LOOP)
        hang_up_during(gateway, "/mcp", json.dumps({**call, "params": params}))
        found = outcomes(gateway, 2)
        assert [record["outcome"]["code"] for record in found] == ["cancelled", "cancelled"]
        assert all(record["stages"]["admit"] >= 0 for record in found)
        status, said = gateway.call("run_python", {"code": "print(1)"})
        assert (status, said["status"]) == (200, "done")
    assert toolgate(tmp_path / "home", "audit", "in-doubt").returncode == 0
