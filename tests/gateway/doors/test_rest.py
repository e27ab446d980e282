"""The REST door: what may come in, what goes out, and in which order a request is judged."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.kit import Lab, Reply, ask_raw, of_calls

CALL = "/v1/tools/echo/call"
GOOD = b'{"arguments": {"text": "7"}}'


def post(body: bytes, by: str | None = "dev", path: str = CALL, **headers: str) -> Reply:
    """One POST to a fresh lab."""
    return asyncio.run(Lab.of().http("POST", path, body, by, **headers))


def test_a_call_answers_with_its_outcome() -> None:
    """The whole shape of an outcome, and the call id in a header too."""
    reply = post(GOOD)
    said = reply.json
    assert reply.status == 200
    assert reply.headers["toolgate-call-id"] == said["call_id"]
    assert said["status"] == "done"
    assert said["result"]["structured_content"] == {"said": "hello"}
    assert said["result"]["content"] == [{"type": "text", "text": '{"said":"hello"}'}]
    parts = {"result", "problem", "verdict", "artifacts", "notes", "usage", "record"}
    assert set(said) == {"call_id", "tool", "status", *parts}
    assert said["verdict"] == {"action": "allow", "labels": ["untrusted"], "findings": []}
    assert said["record"] == {"shard": "memory", "seq": 2}


def test_a_refusal_is_problem_json_with_its_own_status() -> None:
    """RFC 9457: media type, status in body and line, and a call id that leads to the record."""
    reply = post(b'{"arguments": {"text": "war"}}')
    assert (reply.status, reply.headers["content-type"]) == (403, "application/problem+json")
    said = reply.json
    assert (said["code"], said["status"], said["rule"]) == ("forbidden", 403, "no-war")
    assert said["call_id"] == reply.headers["toolgate-call-id"]
    assert said["type"] == "urn:toolgate:problem:forbidden"


MALFORMED = {
    "nothing": b"",
    "not JSON": b"arguments",
    "duplicate keys": b'{"arguments": {"text": "a", "text": "b"}}',
    "duplicate keys, one escaped": b'{"arguments": {"text": "a", "te\\u0078t": "b"}}',
    "NaN": b'{"arguments": {"text": NaN}}',
    "an infinite number": b'{"arguments": {"text": 1e400}}',
    "a lone surrogate": b'{"arguments": {"text": "\\ud800"}}',
    "not UTF-8": b'{"arguments": {"text": "\xff"}}',
    "UTF-16": '{"arguments": {"text": "7"}}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "depth 10,000": b'{"arguments": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "two values": GOOD + GOOD,
    "another key": b'{"arguments": {}, "tool": "x"}',
    "no arguments": b"{}",
    "an array": b"[]",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_not_strict_json_is_malformed_and_on_record(body: bytes) -> None:
    """A 400 with the place where it is wrong and never its text; the refusal is recorded, nothing runs."""
    lab = Lab.of()
    reply = asyncio.run(lab.http("POST", CALL, body))
    assert (reply.status, reply.json["code"]) == (400, "malformed")
    assert [line.type for line in of_calls(lab.trial.ledger.lines)] == ["call.refused"]


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    """Declared or counted, the answer is 413."""
    big = b'{"arguments": {"text": "' + b"x" * (1 << 20) + b'"}}'
    assert post(big).status == 413
    lab = Lab.of()
    head = [(b"host", Lab.HOST.encode()), (b"content-type", b"application/json"), (b"authorization", b"Bearer dev")]
    reply = asyncio.run(ask_raw(lab.app, "POST", CALL, head, [big[:700_000], big[700_000:], b"never read" * 10]))
    assert reply.status == 413
    lying = [*head, (b"content-length", b"99999999999999999999999999")]
    assert asyncio.run(ask_raw(lab.app, "POST", CALL, lying, [b""])).status == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
def test_only_plain_json_is_taken(headers: dict[str, str]) -> None:
    """Another content type, charset or encoding is 415."""
    assert post(GOOD, **headers).status == 415


@pytest.mark.parametrize("twice", [b"authorization", b"content-type", b"host", b"idempotency-key", b"toolgate-session"])
def test_a_header_that_decides_something_may_stand_once_only(twice: bytes) -> None:
    """Two of them is how a proxy and a server come to read one request differently."""
    head = [(b"host", Lab.HOST.encode()), (b"content-type", b"application/json"), (b"authorization", b"Bearer dev")]
    values = dict(head)
    doubled = [*head, (twice, values.get(twice, b"x")), *([] if twice in values else [(twice, b"x")])]
    reply = asyncio.run(ask_raw(Lab.of().app, "POST", CALL, doubled, [GOOD]))
    assert (reply.status, reply.json["code"]) == (400, "malformed")


def test_too_many_or_too_large_headers_are_431() -> None:
    """64 headers, 8 KiB a header, 16 KiB in all."""
    many = {f"X-{n}": "v" for n in range(70)}
    assert post(GOOD, **many).status == 431
    assert post(GOOD, **{"X-Long": "v" * 9000}).status == 431
    assert post(GOOD, **{f"X-{n}": "v" * 5000 for n in range(4)}).status == 431


def test_a_keyless_request_is_401_whatever_else_is_wrong() -> None:
    """The caller comes before the body, its type and its size."""
    for body, headers in ((b"{", {}), (b"x" * (2 << 20), {}), (GOOD, {"Content-Type": "text/plain"})):
        reply = post(body, None, **headers)
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert reply.json["call_id"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:9999", "", "127.0.0.1:8080.evil.example"])
def test_another_host_is_refused_on_every_route(host: str) -> None:
    """A name that was rebound to loopback is not ours."""
    for path in (CALL, "/mcp", "/healthz", "/v1/tools"):
        reply = asyncio.run(Lab.of().http("POST", path, GOOD, Host=host))
        assert (reply.status, reply.json["code"]) == (403, "bad_origin")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:8080.evil.example", "http://localhost"]
)
def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    """Also with a good key: a browser tab is not a client."""
    assert post(GOOD, Origin=origin).status == 403
    assert post(GOOD, Origin=f"http://{Lab.HOST}").status == 200


def test_tools_are_called_by_post_only() -> None:
    """Any other method is 405, after the host and before the caller."""
    assert asyncio.run(Lab.of().http("GET", CALL)).status == 405


def test_the_trace_of_the_caller_is_on_record() -> None:
    """A valid traceparent is kept; a malformed one is ignored, as W3C Trace Context says."""
    lab = Lab.of()
    trace = "0af7651916cd43dd8448eb211c80319c"
    asyncio.run(lab.http("POST", CALL, GOOD, traceparent=f"00-{trace}-b7ad6b7169203331-01"))
    asyncio.run(lab.http("POST", CALL, GOOD, traceparent="00-zz-b7ad6b7169203331-01"))
    found = [line.fields.get("trace_id") for line in lab.trial.ledger.lines if line.type == "call.intent"]
    assert found == [trace, None]


def test_a_listing_shows_what_the_caller_may_see() -> None:
    """The plain form, by name, with schemas and digests; nothing for an agent without a permit."""
    said = asyncio.run(Lab.of().http("GET", "/v1/tools")).json
    (tool,) = said["tools"]
    assert (tool["name"], tool["effects"], said["next_cursor"]) == ("echo", ["read"], None)
    assert tool["input_schema"]["additionalProperties"] is False
    assert tool["digest"].startswith("sha256:")


def test_a_listing_that_did_not_change_is_not_sent_again() -> None:
    """An ETag that matches is 304 with an empty body."""
    lab = Lab.of()
    first = asyncio.run(lab.http("GET", "/v1/tools"))
    again = asyncio.run(lab.http("GET", "/v1/tools", **{"If-None-Match": first.headers["etag"]}))
    assert (again.status, again.body) == (304, b"")


def test_openapi_has_one_typed_path_for_each_tool() -> None:
    """OpenAPI 3.1, closed request body, the tool's own schema inside."""
    said = asyncio.run(Lab.of().http("GET", "/v1/openapi.json")).json
    assert said["openapi"] == "3.1.0"
    body = said["paths"]["/v1/tools/echo/call"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["arguments"]["properties"]["text"] == {"type": "string", "maxLength": 100}
    assert body["additionalProperties"] is False


def test_a_session_is_opened_used_shown_and_closed() -> None:
    """From 201 to `session_closed`: its calls are refused once it is closed."""
    lab = Lab.of()

    async def life() -> list[object]:
        opened = await lab.http("POST", "/v1/sessions", b'{"labels": ["internal"], "ttl": 60}')
        name = opened.json["id"]
        used = await lab.rest("echo", {"text": "7"}, **{"Toolgate-Session": name})
        shown = (await lab.http("GET", f"/v1/sessions/{name}")).json
        closed = (await lab.http("DELETE", f"/v1/sessions/{name}")).json
        after = await lab.rest("echo", {"text": "7"}, **{"Toolgate-Session": name})
        return [
            opened.status,
            used.status,
            sorted(shown["labels"]),
            shown["calls"],
            closed["state"],
            after.json["code"],
        ]

    assert asyncio.run(life()) == [201, 200, ["internal", "untrusted"], 1, "closed", "session_closed"]


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"ttl": 0}', b'{"labels": ["No Good"]}', b'{"budget": {"calls": -1}}', b"[]", b"{", b'{"ttl": "60"}'),
        *(b'{"labels": [], "labels": ["x"]}', b'{"ttl": NaN}', b'{"ttl": 1e400}', b"[" * 10_000),
    ],
)
def test_a_session_that_makes_no_sense_is_malformed(body: bytes) -> None:
    """A typed problem, never FastAPI's own error page."""
    reply = asyncio.run(Lab.of().http("POST", "/v1/sessions", body))
    assert (reply.status, reply.json["code"]) == (400, "malformed")
    assert reply.headers["content-type"] == "application/problem+json"


def test_the_outcome_of_a_call_can_be_asked_for_again() -> None:
    """By its caller only; anybody else's is 404."""
    lab = Lab.of()

    async def again() -> tuple[object, object, int]:
        first = (await lab.rest("echo", {"text": "7"})).json
        shown = await lab.http("GET", f"/v1/calls/{first['call_id']}")
        missing = await lab.http("GET", "/v1/calls/c_unknown")
        return first, shown.json, missing.status

    first, shown, missing = asyncio.run(again())
    assert shown == first
    assert missing == 404


def test_health_needs_no_key_and_everything_else_does() -> None:
    """Liveness and readiness are for machines without keys."""
    lab = Lab.of()
    for path in ("/healthz", "/readyz"):
        assert asyncio.run(lab.http("GET", path, by=None)).status == 200
    for path in ("/v1/tools", "/v1/openapi.json", "/v1/sessions/x", "/v1/calls/x"):
        assert asyncio.run(lab.http("GET", path, by=None)).status == 401
    assert asyncio.run(lab.http("GET", "/docs")).status == 404


def test_answers_are_not_cached_and_not_sniffed() -> None:
    """Results may be anybody's text."""
    reply = post(GOOD)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert json.loads(reply.body)
