"""Limits of settings in a gateway of its own: an agent that repeats itself, and budgets that hold over both doors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.served import Served, served, toolgate

SAME = {"document": {"a": 42}, "path": "/a"}


def over_mcp(gateway: Served, arguments: object) -> str:
    """One call over MCP: its code, or `done`."""
    params = {"name": "json_query", "arguments": arguments}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    _, said = gateway.post("/mcp", body, Accept="application/json, text/event-stream")
    result: Any = said["result"]
    return str(result["_meta"]["dev.toolgate/problem"]["code"]) if result["isError"] else "done"


def over_rest(gateway: Served, arguments: object) -> str:
    """One call over REST: its code, or `done`."""
    _, said = gateway.call("json_query", arguments)
    return str(said.get("code", said["status"]))


def test_an_agent_is_stopped_by_loops_and_budgets(tmp_path: Path) -> None:
    """220 times the same, as fast as it can, over both doors: no more than the hundred of the settings; something new
    goes, until all calls together are those of the budget."""
    budgets = json.dumps([{"over": "principal", "within": "24h", "calls": 110}, {"over": "tenant", "tokens": 50}])
    env = {"TOOLGATE_LIMITS__REPEATS": "100", "TOOLGATE_LIMITS__BUDGETS": budgets}
    with served(tmp_path / "home", env=env) as gateway:
        turns = [(over_rest, over_mcp)[n % 2](gateway, SAME) for n in range(220)]
        found = Counter(turns)
        assert turns[:80] == ["done"] * 80
        assert set(turns[100:]) == {"loop_detected"}
        assert found["done"] + found["rate_limited"] == 100
        assert over_rest(gateway, {"document": [7], "path": "/0"}) == "done"
        status, said = gateway.call("json_query", SAME)
        assert (status, said["result"]["structured_content"]) == (200, {"value": 42})
        left = 108 - found["done"]
        turns = [(over_rest, over_mcp)[n % 2](gateway, {"document": [n], "path": "/0"}) for n in range(left + 4)]
        assert turns == ["done"] * left + ["budget_exhausted"] * 4
        _, refused = gateway.call("json_query", {"document": [1], "path": "/0"})
        told = toolgate(gateway.home, "explain", str(refused["call_id"])).stdout
        assert "ended: refused (budget_exhausted) by the limit budget" in told
        status, said = gateway.post("/v1/sessions/default/usage", b'{"tokens": 50}')
        assert (status, said["id"]) == (200, "default")
