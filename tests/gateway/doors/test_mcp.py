"""The MCP door over a whole gateway in memory: who speaks what, and what is listed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model import Principal
from tests.gateway.doors.mcp_client import ERAS, meta, modern_headers, raw, request, run
from tests.kit import ECHO, PERMIT, Lab


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        (None, "2025-11-25"),
    ],
)
def test_initialize_agrees_on_a_version_and_gives_no_session(asked: str | None, given: str) -> None:
    """A version we speak is taken, any other is answered with our newest legacy one; nothing is remembered."""
    reply = raw(Lab.of(), request("initialize", {"protocolVersion": asked, "capabilities": {}, "clientInfo": {}}))
    assert reply.status == 200
    assert reply.json["result"]["protocolVersion"] == given
    assert reply.json["result"]["capabilities"] == {"tools": {}}
    assert "mcp-session-id" not in reply.headers


def test_discover_names_versions_and_capabilities() -> None:
    """`server/discover` says what is spoken, that the answer is complete and private, and who answers."""
    result = run(Lab.of().rpc("server/discover", {})).json["result"]
    assert result["supportedVersions"] == ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"]
    assert (result["resultType"], result["cacheScope"], result["capabilities"]) == (
        "complete",
        "private",
        {"tools": {}},
    )
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "toolgate"


@ERAS
def test_ping_is_legacy_only(modern: bool) -> None:
    """`ping` was removed in 2026-07-28."""
    reply = run(Lab.of().rpc("ping", {}, modern=modern))
    assert reply.json.get("result") == (None if modern else {})


@pytest.mark.parametrize("method", ["resources/list", "prompts/get", "initialize", "logging/setLevel", "no/such", ""])
def test_an_unknown_method_is_404_for_modern_clients(method: str) -> None:
    """-32601; the HTTP status tells modern clients, legacy ones get 200."""
    headers = modern_headers(method, "x" if method == "prompts/get" else None)
    reply = raw(Lab.of(), request(method, {"_meta": meta(), "name": "x"}, 7), **headers)
    assert (reply.status, reply.json["error"]["code"], reply.json["id"]) == (404, -32601, 7)
    if method != "initialize":
        reply = raw(Lab.of(), request(method, {"name": "x"}, 7))
        assert (reply.status, reply.json["error"]["code"], reply.json["id"]) == (200, -32601, 7)


@pytest.mark.parametrize("method", ["notifications/initialized", "notifications/cancelled", "anything"])
def test_a_notification_is_202_without_a_body(method: str) -> None:
    """Notifications are taken and dropped; whether one cancels is said by closing the request instead."""
    reply = raw(Lab.of(), {"jsonrpc": "2.0", "method": method})
    assert (reply.status, reply.body) == (202, b"")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_only_post_is_served(method: str) -> None:
    """There is no stream to open and no session to delete; a keyless caller is told 401 first."""
    reply = run(Lab.of().http(method, "/mcp"))
    assert (reply.status, reply.headers["allow"], reply.json["code"]) == (405, "POST", "method_not_allowed")
    assert run(Lab.of().http(method, "/mcp", by=None)).status == 401


def test_other_paths_below_mcp_are_not_the_door() -> None:
    """`/mcp/anything` is not found rather than served like `/mcp`."""
    assert run(Lab.of().http("POST", "/mcp/team", b"{}")).status == 404


@ERAS
def test_the_listing_says_what_the_operator_declared(modern: bool) -> None:
    """Schemas, hints derived from the effects, the digest; caching hints for modern clients only."""
    lab = Lab.of()
    result = run(lab.rpc("tools/list", {}, modern=modern)).json["result"]
    (tool,) = result["tools"]
    assert (tool["name"], tool["description"]) == ("echo", "Says what it was told.")
    assert tool["inputSchema"]["properties"]["text"] == {"type": "string", "maxLength": 100}
    assert tool["annotations"] == {
        "readOnlyHint": True,
        "destructiveHint": False,
        "idempotentHint": False,
        "openWorldHint": False,
    }
    found = lab.gate.catalogue.find("echo")
    assert found is not None
    assert tool["_meta"] == {"dev.toolgate/digest": found.digest}
    assert (result.get("cacheScope"), result.get("resultType")) == (("private", "complete") if modern else (None, None))


def test_a_caller_sees_only_the_tools_it_may_call() -> None:
    """Another agent's listing is empty."""
    lab = Lab.of()
    lab.trial.authority.principals["eve"] = Principal("eve", "default", scopes=frozenset({"agent"}))
    assert run(lab.rpc("tools/list", {}, "eve")).json["result"]["tools"] == []


def test_a_long_listing_comes_in_pages() -> None:
    """Every tool exactly once, in name order, and a cursor that is not ours is refused."""
    lab = Lab.of({f"t{n:04}.yaml": ECHO.replace("name: echo", f"name: t{n:04}") for n in range(1001)},
                 {"lab.yaml": PERMIT.replace("tools: [echo], agents", "effects: [read], agents")})  # fmt: skip
    names: list[str] = []
    sizes = []
    params: dict[str, Any] = {}
    while True:
        result = run(lab.rpc("tools/list", params)).json["result"]
        sizes.append(len(result["tools"]))
        names += [tool["name"] for tool in result["tools"]]
        if "nextCursor" not in result:
            break
        params = {"cursor": result["nextCursor"]}
    assert sizes == [500, 500, 1]
    assert names == [f"t{n:04}" for n in range(1001)]
    for cursor in ("!", "dDAwMDA=", 3, ""):
        assert run(lab.rpc("tools/list", {"cursor": cursor})).json["error"]["code"] == -32602
