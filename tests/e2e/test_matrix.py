"""Every route and every method of a whole gateway with every kind of credential: who gets in is written down here.

A route or method that the gateway has and these tables do not fails the test, until it is listed with who may use it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from tests.e2e.guarded import KEYS, Site, Things, guarded
from tests.kit import ROOT, Reply

AGENT, OPERATOR, AUDITOR, APPROVER, REQUEST = "agent", "operator", "auditor", "approver", "session:request"
KNOWN = frozenset({AGENT, OPERATOR, AUDITOR, APPROVER, REQUEST})
WRITERS = KNOWN - {AUDITOR}
READERS = frozenset({OPERATOR, AUDITOR})
ANSWERERS = frozenset({OPERATOR, APPROVER})
NOWHERE = "c_00000000000000000000000000000000"
EVALUATION = {"subject": {"id": "dev"}, "action": {"name": "call"}, "resource": {"id": "look"}}
SEGMENTS = {"shard": "none", "first": 0, "last": 1, "sha256": {"a.jsonl": "0" * 64}, "to": "s3://there"}


@dataclass(frozen=True)
class Route:
    """Who may use a route, and what the one it belongs to gets.

    `scopes`: those that may; none means that nobody is asked who they are. `whole`: of tenant `default` only. `owner`:
    what the path names belongs to this caller, and is not there for anybody else. `right`: status for the first caller
    of the tenant `default` who may.
    """

    method: str
    path: str
    scopes: frozenset[str] = frozenset()
    right: int = 200
    body: Mapping[str, Any] | None = None
    whole: bool = False
    owner: str | None = None


ROUTES = (
    Route("GET", "/healthz"),
    Route("GET", "/readyz"),
    Route("GET", "/.well-known/oauth-protected-resource"),
    Route("GET", "/.well-known/oauth-protected-resource/mcp"),
    Route("GET", "/v1/tools", KNOWN),
    Route("POST", "/v1/tools/{tool}/call", frozenset({AGENT}), body={"arguments": {}}),
    Route("GET", "/v1/openapi.json", KNOWN),
    Route("GET", "/v1/calls/{call_id}", KNOWN, owner="dev"),
    Route("GET", "/v1/sessions", KNOWN),
    Route("POST", "/v1/sessions", WRITERS, 201, {}),
    Route("POST", "/v1/sessions/{session_id}/request", frozenset({REQUEST}), 404, {"request": "x"}, owner="nobody"),
    Route("POST", "/v1/sessions/{session_id}/usage", WRITERS, body={"tokens": 1}, owner="dev"),
    Route("GET", "/v1/budgets", frozenset({OPERATOR})),
    Route("GET", "/v1/sessions/{session_id}", KNOWN, owner="dev"),
    Route("DELETE", "/v1/sessions/{session_id}", WRITERS, owner="dev"),
    Route("GET", "/v1/artifacts/{handle:path}", frozenset({AGENT}), owner="dev"),
    Route("GET", "/v1/approvals", ANSWERERS),
    Route("GET", "/v1/approvals/{approval_id}", ANSWERERS, 404),
    Route("POST", "/v1/approvals/{approval_id}/approve", ANSWERERS, 404, {}),
    Route("POST", "/v1/approvals/{approval_id}/deny", ANSWERERS, 404, {}),
    Route("GET", "/v1/backends", frozenset({OPERATOR})),
    Route("POST", "/v1/policy:explain", frozenset({OPERATOR}), body=EVALUATION),
    Route("GET", "/v1/audit", READERS),
    Route("POST", "/v1/audit:resolve", frozenset({OPERATOR}), 404, {"call_id": NOWHERE, "as": "done", "why": "x"}),
    Route("POST", "/v1/audit:erase", frozenset({OPERATOR}), 404, {"session": "s_none", "why": "x"}),
    Route("POST", "/v1/audit:rotate-key", frozenset({OPERATOR}), body={"why": "x"}, whole=True),
    Route("POST", "/v1/audit:expire", frozenset({OPERATOR}), body={}, whole=True),
    Route("POST", "/v1/audit:archived", frozenset({OPERATOR}), 400, SEGMENTS, whole=True),
    Route("GET", "/v1/connections", KNOWN),
    Route("POST", "/v1/connections/{provider}", WRITERS, 201, {}),
    Route("DELETE", "/v1/connections/{provider}", WRITERS, 404),
    # The browser's side of connecting an account: the link is what it goes by.
    Route("GET", "/connect/callback", right=400),
    Route("GET", "/connect/{ticket}", right=404),
    Route("POST", "/connect/{ticket}", right=400, body={}),
    # MCP: who gets as far as a message; what each method needs is below.
    Route("POST", "/mcp", KNOWN, body={"jsonrpc": "2.0", "id": 1, "method": "ping"}),
)


@dataclass(frozen=True)
class Rpc:
    """Who may use a JSON-RPC method, in which generations of the protocol it is there."""

    method: str
    scopes: frozenset[str]
    params: Mapping[str, Any] = field(default_factory=dict)
    modern: bool = True
    legacy: bool = True


METHODS = (
    Rpc("initialize", KNOWN, {"protocolVersion": "2025-11-25"}, modern=False),
    Rpc("ping", KNOWN, modern=False),
    Rpc("server/discover", KNOWN, legacy=False),
    Rpc("tools/list", KNOWN),
    Rpc("tools/call", frozenset({AGENT}), {"name": "look", "arguments": {}}),
)
# What MCP has besides, and this server has not, for nobody.
ABSENT = (
    *("resources/list", "resources/read", "resources/templates/list", "resources/subscribe", "prompts/list"),
    *("prompts/get", "completion/complete", "logging/setLevel", "sampling/createMessage", "elicitation/create"),
    *("roots/list", "tasks/list", "tasks/get", "tasks/result", "tasks/cancel", "subscriptions/listen", "no/such"),
)


def scopes_of(caller: str) -> frozenset[str]:
    """The scopes of one of the site's callers."""
    return frozenset({KEYS[caller][2] if caller in KEYS else AGENT})


def tenant_of(caller: str) -> str:
    """Its tenant."""
    return KEYS[caller][1] if caller in KEYS else "default"


def may(route: Route, caller: str) -> bool:
    """Whether the table lets a known caller use a route."""
    return bool(route.scopes & scopes_of(caller)) and (tenant_of(caller) == "default" or not route.whole)


def filled(path: str, things: Things) -> str:
    """The path with what belongs to `dev` in the places of its parameters."""
    values = {
        "{tool}": "look",
        "{provider}": "accounts",
        "{ticket}": "t",
        "{call_id}": things.call,
        "{session_id}": things.session,
    }
    for name, value in {**values, "{handle:path}": things.artifact}.items():
        path = path.replace(name, value)
    return path


def code_of(reply: Reply) -> str:
    """The problem's code, when the answer is one."""
    said = json.loads(reply.body) if reply.body[:1] == b"{" else {}
    return str(said.get("code"))


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """The method and path of everything the application answers."""
    for route in app.routes:
        assert isinstance(route, APIRoute), f"{route} is no plain route: list it here by hand"
        yield from ((method, route.path) for method in route.methods)


def test_every_route_is_listed(tmp_path: Path) -> None:
    """What the routers know is what the table knows; and there is no door beside the three that are looked at."""

    async def test(site: Site) -> None:
        doors = {name: door for name, door in vars(site.service.app).items() if callable(door)}
        assert doors.keys() == {"_call", "_mcp", "_admin"}
        raw = {("POST", "/v1/tools/{tool}/call"), ("POST", "/mcp")}
        assert {(route.method, route.path) for route in ROUTES} == {*routes_of(doors["_admin"]), *raw}

    guarded(tmp_path, test)


def test_every_method_is_listed() -> None:
    """What the doors compare a message's method with is what the table knows."""
    found = set()
    for file in (ROOT / "gateway" / "doors").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "method":
                constants = (each for side in node.comparators for each in ast.walk(side))
                found |= {each.value for each in constants if isinstance(each, ast.Constant)}
    assert found == {rpc.method for rpc in METHODS}


def test_nobody_gets_in_who_may_not(tmp_path: Path) -> None:
    """Each route with each credential: refused as it must be, and nothing but what the table says is let through."""

    async def test(site: Site) -> None:
        wrong, tried = list[Any](), 0
        for route in ROUTES:
            things = await site.things()
            for name, credential in {**site.unknown, **site.known}.items():
                reply = await site.http(route.method, filled(route.path, things), credential, route.body)
                tried += 1
                if not _as_written(route, name if name in site.known else None, reply):
                    wrong.append((route.method, route.path, name, reply.status, reply.body[:200]))
        assert wrong == []
        assert tried == len(ROUTES) * (len(site.unknown) + len(site.known))

    guarded(tmp_path, test)


def _as_written(route: Route, caller: str | None, reply: Reply) -> bool:
    """Whether an answer is the one that the table asks for."""
    if not route.scopes:
        return reply.status == route.right
    if caller is None:
        return (reply.status, code_of(reply)) == (401, "unauthenticated")
    if not may(route, caller):
        return (reply.status, code_of(reply)) == (403, "insufficient_scope")
    if route.owner is not None and caller != route.owner:
        return (reply.status, code_of(reply)) == (404, "not_found")
    return reply.status == route.right


def test_a_path_has_no_other_method(tmp_path: Path) -> None:
    """Whoever asks, with the best credentials: nothing is at a path by a method that the table does not have."""
    there = {(route.method, route.path) for route in ROUTES}
    others = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY")

    async def test(site: Site) -> None:
        things = await site.things()
        for path in sorted({route.path for route in ROUTES}):
            for method in others:
                if (method, path) in there or (method, path) == ("POST", "/connect/callback"):  # a ticket of that name
                    continue
                for name in ("dev", "ops"):
                    reply = await site.http(method, filled(path, things), site.known[name], {})
                    assert (reply.status, code_of(reply)) == (405, "method_not_allowed"), (method, path, reply)

    guarded(tmp_path, test)


@pytest.mark.parametrize("modern", [False, True])
def test_nobody_uses_a_method_who_may_not(tmp_path: Path, modern: bool) -> None:
    """Each method with each credential, in both generations; and what is not there is there for nobody."""

    async def test(site: Site) -> None:
        for rpc in METHODS:
            there = rpc.modern if modern else rpc.legacy
            for name, credential in site.unknown.items():
                reply = await site.rpc(rpc.method, rpc.params, credential, modern=modern)
                assert (reply.status, code_of(reply)) == (401, "unauthenticated"), (rpc, name, reply)
            for name, credential in site.known.items():
                reply = await site.rpc(rpc.method, rpc.params, credential, modern=modern)
                said = reply.json.get("result")
                done = said is not None and not said.get("isError")
                assert done == (there and bool(rpc.scopes & scopes_of(name))), (rpc, name, reply)
        for method in ABSENT:
            for name, credential in site.known.items():
                reply = await site.rpc(method, {}, credential, modern=modern)
                # Or what its headers must say first, where the protocol knows the method.
                assert reply.json["error"]["code"] in (-32601, -32020), (method, name, reply)

    guarded(tmp_path, test)


def test_what_is_somebody_elses_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    """The same status and words for a thing of another caller or tenant as for none, at every place that names it."""

    async def test(site: Site) -> None:
        mine, strangers = await site.things(), ("twin", "their dev")
        missing = Things("s_" + "0" * 32, NOWHERE, "sha256:" + "0" * 64)
        for path in ("/v1/calls/{call_id}", "/v1/sessions/{session_id}", "/v1/artifacts/{handle:path}"):
            for method in ("GET", "DELETE") if "sessions" in path else ("GET",):
                for name in strangers:
                    theirs, none = [
                        await site.http(method, filled(path, things), site.known[name]) for things in (mine, missing)
                    ]
                    assert (theirs.status, theirs.json) == (404, none.json), (method, path, name)
        for name in strangers:
            for modern in (False, True):
                theirs, none = [
                    await site.rpc(
                        "tools/call",
                        {"name": "look", "arguments": {}},
                        site.known[name],
                        modern=modern,
                        **{"Toolgate-Session": things.session},
                    )
                    for things in (mine, missing)
                ]
                assert _without_ids(theirs.json) == _without_ids(none.json), (name, modern)
                assert theirs.json["result"]["isError"]
            theirs, none = [await site.call(name, **{"Toolgate-Session": things.session}) for things in (mine, missing)]
            assert _without_ids(theirs.json) == _without_ids(none.json)
            assert code_of(theirs) == "session_closed"
        assert (await site.http("GET", f"/v1/sessions/{mine.session}", site.known["dev"])).json["state"] == "open"

    guarded(tmp_path, test)


def test_a_tenants_records_and_tools_are_not_there_for_another(tmp_path: Path) -> None:
    """Records, with and without content, what operators do about them, explaining, tools and their listing."""

    async def test(site: Site) -> None:
        mine = await site.things()
        for asked in (f"call={mine.call}", f"session={mine.session}", "agent=dev&tool=look"):
            for more in ("", "&content=true"):
                for name, count in (("ops", True), ("eyes", True), ("their ops", False), ("their eyes", False)):
                    reply = await site.http("GET", f"/v1/audit?{asked}{more}", site.known[name])
                    assert bool(reply.json["records"]) == count, (asked, name)
        for route, body in (
            ("/v1/audit:resolve", {"call_id": mine.call, "as": "done", "why": "x"}),
            ("/v1/audit:erase", {"session": mine.session, "why": "x"}),
        ):
            none = json.loads(json.dumps(body).replace(mine.call, NOWHERE).replace(mine.session, "s_none"))
            theirs, missing = [await site.http("POST", route, site.known["their ops"], each) for each in (body, none)]
            assert theirs.status == missing.status == 404
            assert _without_ids(theirs.json, mine) == _without_ids(missing.json, Things("s_none", NOWHERE, "-"))
        for name, tool, other in (("dev", "theirs", "nothing"), ("their ops", "theirs", "nothing")):
            hidden, none = [await site.call(name, each) for each in (tool, other)]
            assert _without_ids(hidden.json) == _without_ids(none.json)
        listed = {
            name: [tool["name"] for tool in (await site.http("GET", "/v1/tools", site.known[name])).json["tools"]]
            for name in ("dev", "their dev")
        }
        assert listed == {"dev": ["look"], "their dev": ["look", "theirs"]}
        described = (await site.http("GET", "/v1/openapi.json", site.known["dev"])).body
        assert b"theirs" not in described
        other = {**EVALUATION, "subject": {"id": "dev", "properties": {"tenant": "other"}}}
        assert code_of(await site.http("POST", "/v1/policy:explain", site.known["ops"], other)) == "insufficient_scope"
        hidden, none = [
            await site.http("POST", "/v1/policy:explain", site.known["ops"], {**EVALUATION, "resource": {"id": tool}})
            for tool in ("theirs", "nothing")
        ]
        assert hidden.body.replace(b"theirs", b"nothing") == none.body

    guarded(tmp_path, test)


def _without_ids(said: Any, things: Things | None = None) -> str:
    """An answer without what tells one request from the next."""
    text = json.dumps(said, sort_keys=True)
    for value in (things.call, things.session) if things else ():
        text = text.replace(value, "*")
    kept = [word for word in text.replace('"', " ").split() if not word.startswith("c_")]
    return " ".join(kept)
