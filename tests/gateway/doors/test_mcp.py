"""The MCP door over a whole gateway in memory: both generations, and what a model gets to read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from gateway.loading import ToolCatalogue, load_files
from gateway.model import Principal, RawOutput, Work
from gateway.runners.canned import Upstream
from gateway.stores.memory import MemoryLedger
from gateway.tool import HttpBackend
from tests.kit import ECHO, PERMIT, Lab, Reply

T = TypeVar("T")
ERAS = pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
VERSION = "2026-07-28"
PROBLEM = "dev.toolgate/problem"


def run(scene: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(scene)


def raw(lab: Lab, message: object, by: str | None = "dev", **headers: str) -> Reply:
    """One body as it is, JSON unless it is bytes."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return run(lab.http("POST", "/mcp", body, by, **headers))


def meta(version: str = VERSION, **more: object) -> dict[str, object]:
    """What every modern request carries."""
    prefix = "io.modelcontextprotocol/"
    return {f"{prefix}protocolVersion": version, f"{prefix}clientCapabilities": {}, **more}


def modern_headers(method: str, name: str | None = None, version: str = VERSION) -> dict[str, str]:
    headers = {"MCP-Protocol-Version": version, "Mcp-Method": method}
    return headers if name is None else {**headers, "Mcp-Name": name}


def request(method: str, params: object, number: object = 1) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


# ── who speaks what ──────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── bodies and headers ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1e400}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\\ud800"}}', -32700),
        (b"[" * 10_000, -32700),
        ('{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"), -32700),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"3", -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":99999999999999999999,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
    ],
)
def test_a_body_that_is_no_message_is_400(body: bytes, code: int) -> None:
    """Everything goes through the strict decoder; the error never quotes the body."""
    reply = raw(Lab.of(), body)
    assert (reply.status, reply.json["error"]["code"]) == (400, code)


@pytest.mark.parametrize(("number", "known"), [("a", "a"), (0, 0), (-5, -5)])
def test_the_id_comes_back_as_it_was(number: object, known: object) -> None:
    """In results and in errors."""
    assert raw(Lab.of(), request("ping", {}, number)).json["id"] == known
    assert raw(Lab.of(), request("ping", [], number)).json["id"] == known


def test_a_keyless_request_is_401_whatever_else_is_wrong() -> None:
    """Authentication comes before the body is looked at, and says how to authenticate."""
    for body in (b"{", b"x" * 2_000_000, json.dumps(request("tools/list", {})).encode()):
        reply = raw(Lab.of(), body, None)
        assert (reply.status, reply.json["code"]) == (401, "unauthenticated")
        assert reply.headers["www-authenticate"].startswith("Bearer")


def test_a_body_over_the_cap_and_a_wrong_media_type_are_refused() -> None:
    """413 and 415, as on the other door."""
    assert raw(Lab.of(), b" " * (1 << 20) + b"{}").status == 413
    assert raw(Lab.of(), request("ping", {}), **{"Content-Type": "text/plain"}).status == 415


@pytest.mark.parametrize(("name", "value"), [("Host", "evil.example.com"), ("Origin", "http://evil.example.com")])
def test_a_foreign_host_or_origin_is_403(name: str, value: str) -> None:
    """A web page cannot reach a gateway on loopback (DNS rebinding)."""
    assert raw(Lab.of(), request("ping", {}), **{name: value}).status == 403


@pytest.mark.parametrize(
    ("params", "headers", "code"),
    [
        ({}, {}, -32602),
        ({"_meta": {}}, {}, -32602),
        ({"_meta": {**meta(), "io.modelcontextprotocol/clientCapabilities": None}}, {}, -32602),
        ({"_meta": {**meta(), "io.modelcontextprotocol/protocolVersion": 3}}, {}, -32602),
        ({"_meta": meta()}, {"MCP-Protocol-Version": "2025-11-25"}, -32020),
        ({"_meta": meta()}, {"Mcp-Method": "tools/call"}, -32020),
        ({"_meta": meta()}, {"Mcp-Method": "TOOLS/LIST"}, -32020),
        ({"_meta": meta("2099-01-01")}, {}, -32020),
        ({"_meta": meta("2099-01-01")}, {"MCP-Protocol-Version": "2099-01-01"}, -32022),
    ],
)
def test_a_modern_request_that_breaks_its_duties_is_400(params: object, headers: dict[str, str], code: int) -> None:
    """Fields first, then headers against the body, then whether the version is spoken."""
    reply = raw(Lab.of(), request("tools/list", params), **{**modern_headers("tools/list"), **headers})
    assert (reply.status, reply.json["error"]["code"], reply.json["id"]) == (400, code, 1)
    if code == -32022:
        assert reply.json["error"]["data"] == {"supported": ["2026-07-28"], "requested": "2099-01-01"}


@pytest.mark.parametrize("missing", ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"])
def test_a_header_that_is_missing_does_not_match(missing: str) -> None:
    """Each of the three is needed on a modern call."""
    headers = {k: v for k, v in modern_headers("tools/call", "echo").items() if k != missing}
    reply = raw(Lab.of(), request("tools/call", {"_meta": meta(), "name": "echo"}), **headers)
    assert (reply.status, reply.json["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize(
    ("name", "status"), [("  echo ", 200), ("=?base64?ZWNobw==?=", 200), ("=?base64?ZWNobw?=", 400)]
)
def test_the_name_header_may_be_padded_or_wrapped(name: str, status: int) -> None:
    """White space around a field value does not count (RFC 9110); base64 has to be canonical."""
    params = {"_meta": meta(), "name": "echo", "arguments": {"text": "x"}}
    assert raw(Lab.of(), request("tools/call", params), **modern_headers("tools/call", name)).status == status


# ── the listing ──────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@ERAS
def test_a_call_that_is_done(modern: bool) -> None:
    """A text block always, structured content where there is some, the call's id and verdict in `_meta`."""
    result = run(Lab.of().mcp("echo", {"text": "hi"}, modern=modern))
    assert json.loads(result["content"][0]["text"]) == {"said": "hello"}
    assert result["structuredContent"] == {"said": "hello"}
    assert result["isError"] is False
    assert result["_meta"]["dev.toolgate/call-id"].startswith("c_")
    assert result["_meta"]["dev.toolgate/verdict"]["labels"] == ["untrusted"]
    assert PROBLEM not in result["_meta"]
    assert result.get("resultType") == ("complete" if modern else None)


@ERAS
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"text": "war"}, "forbidden", "We do not talk of war."),
        ({"text": "secret"}, "no_permit", "Do not repeat the same call"),
        ({}, "invalid_arguments", "text"),
        ({"text": 3}, "invalid_arguments", "/text"),
        ({"txet": "x", "text": "y"}, "invalid_arguments", "txet"),
        ([], "invalid_arguments", "object"),
    ],
)
def test_a_refused_call_is_a_text_that_a_model_can_act_on(modern: bool, arguments: Any, code: str, words: str) -> None:
    """HTTP 200 and `isError`: the text alone says what happened; the machine part is in `_meta`, never structured."""
    reply = run(Lab.of().rpc("tools/call", {"name": "echo", "arguments": arguments}, modern=modern))
    result = reply.json["result"]
    assert (reply.status, result["isError"]) == (200, True)
    assert words in result["content"][0]["text"]
    assert result["_meta"][PROBLEM]["code"] == code
    assert result["_meta"][PROBLEM]["call_id"] == result["_meta"]["dev.toolgate/call-id"]
    assert "structuredContent" not in result


def test_an_unknown_tool_is_a_protocol_error_only_where_the_protocol_wants_it() -> None:
    """-32602 in modern mode, with the reason; a readable result in legacy mode. Both are on record."""
    lab = Lab.of()
    reply = run(lab.rpc("tools/call", {"name": "nope", "arguments": {}}))
    assert (reply.status, reply.json["error"]["code"]) == (200, -32602)
    assert "unknown_tool" in reply.json["error"]["message"]
    assert reply.json["error"]["data"][PROBLEM]["code"] == "unknown_tool"
    result = run(lab.mcp("nope", {}, modern=False))
    assert result["isError"] is True
    assert result["_meta"][PROBLEM]["code"] == "unknown_tool"


@ERAS
def test_a_tool_that_failed(modern: bool) -> None:
    """An upstream's error is an answer: what the tool said, flagged."""
    result = run(Lab.of(upstream=Upstream(404, {"why": "no such echo"})).mcp("echo", {"text": "x"}, modern=modern))
    assert result["isError"] is True
    assert "no such echo" in result["content"][0]["text"]
    assert result["_meta"][PROBLEM]["code"] == "tool_error"
    assert "structuredContent" not in result


@ERAS
@pytest.mark.parametrize("name", [None, 3, "x" * 200])
def test_a_call_without_a_usable_name_is_no_call(modern: bool, name: object) -> None:
    """-32602: there is no tool to refuse."""
    params: dict[str, object] = {"name": name, "arguments": {}}
    headers = {}
    if modern:
        params["_meta"], headers = meta(), modern_headers("tools/call", str(name))
    error = raw(Lab.of(), request("tools/call", params), **headers).json["error"]
    assert error["code"] == (-32020 if modern and name != "x" * 200 else -32602)


@pytest.mark.parametrize("where", ["header", "meta"])
def test_the_callers_trace_is_named_in_a_refusal(where: str) -> None:
    """`traceparent`, from `_meta` or from the header, is the parent: its trace id comes back with the problem."""
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    params: dict[str, object] = {"name": "echo", "arguments": {}}
    if where == "meta":
        params["_meta"] = {"traceparent": parent}
    headers = {"traceparent": parent} if where == "header" else {}
    result = raw(Lab.of(), request("tools/call", params), **headers).json["result"]
    assert result["_meta"][PROBLEM]["trace_id"] == "ab" * 16


def test_arguments_may_be_left_out() -> None:
    """No arguments are empty arguments: the schema judges them."""
    result = raw(Lab.of(), request("tools/call", {"name": "echo"})).json["result"]
    assert result["_meta"][PROBLEM]["code"] == "invalid_arguments"


@pytest.mark.parametrize("where", ["header", "meta"])
def test_an_idempotency_key_reaches_the_pipeline(where: str) -> None:
    """By header or in `_meta`: it is not served yet, and says so instead of being dropped."""
    params: dict[str, object] = {"name": "echo", "arguments": {"text": "x"}}
    if where == "meta":
        params["_meta"] = {"dev.toolgate/idempotency-key": "k1"}
    headers = {"Idempotency-Key": "k1"} if where == "header" else {}
    result = raw(Lab.of(), request("tools/call", params), **headers).json["result"]
    assert result["_meta"][PROBLEM]["code"] == "malformed"


def test_calls_of_one_session_header_share_a_session() -> None:
    """`Toolgate-Session` names the session; a session that is not the caller's is refused readably, as a result."""
    lab = Lab.of()
    params = {"name": "echo", "arguments": {"text": "x"}}
    for _ in range(2):
        assert not raw(lab, request("tools/call", params), **{"Toolgate-Session": "mine"}).json["result"]["isError"]
    foreign = {"Toolgate-Session": "s_somebodys"}
    reply = raw(lab, request("tools/call", params), **foreign)
    assert (reply.status, reply.json["result"]["_meta"][PROBLEM]["code"]) == (200, "session_closed")
    assert raw(lab, request("tools/list", {}), **foreign).status == 403


def marked() -> Lab:
    """A lab whose echo tool wants `text` in a header too, as a tool of an upstream server may."""
    loaded = load_files({"echo.yaml": ECHO.encode()}, {"lab.yaml": PERMIT.encode()})
    schema = {"type": "object", "properties": {"text": {"type": "string", "x-mcp-header": "Words"}}}
    tools = [replace(tool, input_schema=schema) for tool in loaded.catalogue.all()]
    return Lab.over(replace(loaded, catalogue=ToolCatalogue(tools)), Upstream(200, {"said": "hello"}))


@pytest.mark.parametrize(
    ("value", "status"),
    [("hi", 200), ("=?base64?aGk=?=", 200), ("ho", 400), ("=?base64?aGk?=", 400), (None, 400)],
)
def test_marked_arguments_have_to_match_their_headers(value: str | None, status: int) -> None:
    """`x-mcp-header` arguments are mirrored: what a proxy routed by is what is executed."""
    lab = marked()
    headers = modern_headers("tools/call", "echo")
    if value is not None:
        headers["Mcp-Param-Words"] = value
    params = {"_meta": meta(), "name": "echo", "arguments": {"text": "hi"}}
    reply = raw(lab, request("tools/call", params), **headers)
    assert reply.status == status
    if status == 400:
        assert reply.json["error"]["code"] == -32020


def test_a_hidden_tools_headers_are_not_told() -> None:
    """To a caller who may not see the tool it does not exist, whatever its headers are."""
    lab = marked()
    lab.trial.authority.principals["eve"] = Principal("eve", "default", scopes=frozenset({"agent"}))
    params = {"_meta": meta(), "name": "echo", "arguments": {"text": "hi"}}
    reply = raw(lab, request("tools/call", params), "eve", **modern_headers("tools/call", "echo"))
    assert reply.json["error"]["data"][PROBLEM]["code"] == "unknown_tool"


class Endless:
    """A runner that never ends by itself."""

    def __init__(self) -> None:
        self.cancelled = False

    async def run(self, work: Work) -> RawOutput:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError("never")


def test_a_client_that_goes_away_cancels_its_call() -> None:
    """Closing the request is how a call is cancelled: the work ends, the outcome is on record, nothing is sent."""
    runner = Endless()
    made = Lab.of()
    lab = Lab(replace(made.trial, gate=replace(made.gate, runners={HttpBackend: runner})))
    sent: list[object] = []
    body = json.dumps(request("tools/call", {"name": "echo", "arguments": {"text": "x"}})).encode()
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
    headers = {"host": Lab.HOST, "content-type": "application/json", "authorization": "Bearer dev"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    async def scene() -> None:
        async with asyncio.timeout(20):
            await lab.app(scope, receive, send)

    run(scene())
    assert runner.cancelled
    assert sent == []
    assert isinstance(lab.gate.ledger, MemoryLedger)
    assert [line.type for line in lab.gate.ledger.lines][-2:] == ["call.intent", "call.outcome"]
    closing = lab.gate.ledger.lines[-1].fields["outcome"]
    assert closing == {"status": "failed", "code": "cancelled", "retryable": False, "rule": None}
