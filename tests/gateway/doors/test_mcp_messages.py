"""What the MCP door takes as a message: bodies, and the headers that have to match them."""

from __future__ import annotations

import json

import pytest

from tests.gateway.doors.mcp_client import meta, modern_headers, raw, request
from tests.kit import Lab


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
