"""Calls through the MCP door, and what a model gets to read of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.loading import ToolCatalogue, load_files
from gateway.model import Principal, RawOutput
from gateway.runners.canned import Upstream
from gateway.stores.memory import MemoryLedger
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.gateway.doors.mcp_client import ERAS, PROBLEM, meta, modern_headers, raw, request, run
from tests.kit import ECHO, PERMIT, Lab


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
    """By header or in `_meta`: a second call under the same key is the first one again, which is sent once."""
    lab = Lab.of()
    params: dict[str, object] = {"name": "echo", "arguments": {"text": "x"}}
    if where == "meta":
        params["_meta"] = {"dev.toolgate/idempotency-key": "k1"}
    headers = {"Idempotency-Key": "k1"} if where == "header" else {}
    first, second = (raw(lab, request("tools/call", params), **headers).json["result"] for _ in range(2))
    assert (first["isError"], first["content"]) == (False, second["content"])
    assert len(lab.trial.net.asked) == 1


@pytest.mark.parametrize(("header", "meta"), [("k1", "k2"), ("", "k2"), ("", None), (None, "")])
def test_an_idempotency_key_is_one_and_not_empty(header: str | None, meta: str | None) -> None:
    """Two keys that differ, and an empty one, are refused: whoever sent them relies on being called once."""
    lab = Lab.of()
    given = {} if meta is None else {"_meta": {"dev.toolgate/idempotency-key": meta}}
    headers = {} if header is None else {"Idempotency-Key": header}
    params = {"name": "echo", "arguments": {"text": "x"}, **given}
    result = raw(lab, request("tools/call", params), **headers).json["result"]
    assert (result["_meta"][PROBLEM]["code"], len(lab.trial.net.asked)) == ("malformed", 0)


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
