"""Tokens at the doors of a real gateway, with a real issuer's key server beside it, and a server nobody may ask."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.gateway.identity.forgery import Forger, chain
from tests.gateway.identity.idp import AUDIENCE, GOOD, Idp
from tests.gateway.identity.keyserver import KeyServer, key_server
from tests.served import Served, served, toolgate

PLACE = "https://gateway.example.com/.well-known/oauth-protected-resource/mcp"
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: look
version: 1.0.0
description: Looks.
input_schema: {{type: object, properties: {{}}}}
effects: [read]
runner:
  http: {{method: GET, url: "http://127.0.0.1:{port}/look"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: tokens
rules:
- {id: look-ok, effect: permit, match: {tools: [look], agents: [bot, worker]}}
"""


@dataclass
class Site:
    """A gateway that takes tokens, the issuer with its server, the forger with theirs."""

    gateway: Served
    idp: Idp
    forger: Forger
    keys: KeyServer
    canary: KeyServer

    def ask(self, method: str, path: str, token: str | None, body: Any = None, **more: str) -> Reply:
        """One request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **more}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, told, json.loads(answer.read()))
        finally:
            connection.close()

    def call(self, token: str | None, **more: str) -> Reply:
        """One tool call over REST."""
        return self.ask("POST", "/v1/tools/look/call", token, {"arguments": {}}, **more)

    def rpc(self, token: str | None, method: str, **params: Any) -> Reply:
        """One message over MCP."""
        return self.ask("POST", "/mcp", token, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Records of one type, oldest first."""
        lines = (line for file in sorted((self.gateway.home / "audit").rglob("*.jsonl")) for line in file.open("rb"))
        found = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [each for each in found if each["type"] == kind]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    json: Any


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One gateway for all tests here."""
    folder = tmp_path_factory.mktemp("site")
    idp = Idp()
    with ExitStack() as stack:
        canary, keys = stack.enter_context(key_server()), stack.enter_context(key_server())
        upstream = stack.enter_context(key_server(b'{"seen": true}'))
        upstream.headers["content-type"] = "application/json"
        forger = Forger(idp, canary.url)
        keys.body = idp.jwks(*forger.entries())
        for name, text in (("specs/look.yaml", SPEC.format(port=upstream.port)), ("policies/tokens.yaml", POLICY)):
            (folder / name).parent.mkdir()
            (folder / name).write_text(text)
        issuer = {"iss": idp.iss, "jwks": keys.url, "algorithms": list(GOOD), "scope": "tools"}
        issuer |= {"roles": {"operator": ["ops"]}}
        said = {"specs": str(folder / "specs"), "policies": str(folder / "policies")}
        said |= {"identity": {"resource": AUDIENCE, "issuers": [issuer]}}
        (folder / "toolgate.yaml").write_text(json.dumps(said))
        gateway = served(folder / "home", "--config", str(folder / "toolgate.yaml"))
        yield Site(stack.enter_context(gateway), idp, forger, keys, canary)


def test_good_tokens_of_every_algorithm_call_a_tool(site: Site) -> None:
    """Over both doors; and the record says who it was."""
    for algorithm in GOOD:
        token = site.idp.token(algorithm, jti=f"t-{algorithm}")
        reply = site.call(token)
        assert (reply.status, reply.json["result"]["structured_content"]) == (200, {"seen": True})
        assert [tool["name"] for tool in site.rpc(token, "tools/list").json["result"]["tools"]] == ["look"]
        said = site.rpc(token, "tools/call", name="look", arguments={}).json["result"]
        assert said["structuredContent"] == {"seen": True}
        who = site.records("call.intent")[-1]["principal"]
        assert who == {"agent": "bot", "user": "ann", "groups": [], "authn": "jwt", "token_id": f"t-{algorithm}"}


def test_who_acts_for_whom_is_on_record(site: Site) -> None:
    """The agent that acts is the caller; those behind it stand beside it."""
    assert site.call(site.idp.token(act=chain("worker", "planner"))).status == 200
    who = site.records("call.intent")[-1]["principal"]
    assert (who["agent"], who["user"], who["actors"]) == ("worker", "ann", ["worker", "planner"])


def test_hostile_tokens_get_in_at_no_door(site: Site) -> None:
    """Each is 401, or 403 where only the scope is missing; nobody was asked anything on their behalf."""
    sendable = [
        (name, token)
        for name, token in site.forger.all()
        if token.isascii() and token.isprintable() and token == token.strip() and len(token) < 8000
    ]
    assert len(sendable) > 300
    for name, token in sendable:
        for reply in (site.call(token), site.rpc(token, "tools/list"), site.ask("GET", "/v1/tools", token)):
            expected = {401: "unauthenticated", 403: "insufficient_scope"}
            assert reply.json["code"] == expected.get(reply.status), (name, reply)
            assert f'resource_metadata="{PLACE}"' in reply.headers["www-authenticate"], name
    assert site.canary.asked == []
    assert set(site.keys.asked) <= {"/keys"}
    assert site.records("call.refused") == []  # nobody is known to have called


def test_what_is_too_large_or_no_text_never_reaches_the_check(site: Site) -> None:
    """The edge refuses it, as it refuses any such header."""
    assert site.call("a" * 9000).status == 431


def test_without_a_token_clients_learn_where_to_get_one(site: Site) -> None:
    """401 with the place of the metadata and the scope to ask for; an error only when a token was sent."""
    for reply in (site.call(None), site.rpc(None, "initialize"), site.ask("GET", "/v1/tools", None)):
        assert reply.status == 401
        told = reply.headers["www-authenticate"]
        assert told == f'Bearer realm="toolgate", scope="tools", resource_metadata="{PLACE}"'
    told = site.call("tg_agent_wrong").headers["www-authenticate"]
    assert told == f'Bearer realm="toolgate", error="invalid_token", scope="tools", resource_metadata="{PLACE}"'


def test_a_missing_scope_is_named(site: Site) -> None:
    """403 over both doors: a client can ask for it and come again."""
    token = site.idp.token(scope="profile")
    for reply in (site.call(token), site.rpc(token, "tools/list"), site.rpc(token, "tools/call", name="look")):
        assert (reply.status, reply.json["code"]) == (403, "insufficient_scope")
        told = reply.headers["www-authenticate"]
        assert told == f'Bearer error="insufficient_scope", scope="tools", resource_metadata="{PLACE}"'


@pytest.mark.parametrize("path", ["", "/mcp"])
def test_the_metadata_says_who_issues_tokens(site: Site, path: str) -> None:
    """RFC 9728, for everybody."""
    reply = site.ask("GET", f"/.well-known/oauth-protected-resource{path}", None)
    assert (reply.status, reply.json) == (
        200,
        {
            "resource": AUDIENCE,
            "resource_name": "Toolgate",
            "authorization_servers": [site.idp.iss],
            "scopes_supported": ["tools"],
            "bearer_methods_supported": ["header"],
        },
    )


def test_groups_make_operators(site: Site) -> None:
    """Of people, not of those who act for them."""
    body = {"principal": {"agent": "bot"}, "tool": "look", "arguments": {}}
    operator = site.idp.token(groups=["ops"], scope=None)
    assert site.call(operator).json["code"] == "insufficient_scope"
    explained = {token: site.ask("POST", "/v1/policy:explain", token, body) for token in (operator, site.idp.token())}
    assert [reply.json.get("code") for reply in explained.values()][1] == "insufficient_scope"
    assert explained[operator].json.get("code") != "insufficient_scope"


def test_an_api_key_is_taken_beside_tokens(site: Site) -> None:
    """It is known, and policy says no to its agent."""
    assert site.call(site.gateway.key).json["code"] in ("no_permit", "unknown_tool")


def within(done: Callable[[], bool]) -> bool:
    """Does it come true? Waits long enough for a slow machine."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.05)
    return False


def revoke(site: Site, *flags: str) -> Any:
    """`toolgate revoke` in a process of its own."""
    done = toolgate(site.gateway.home, "revoke", *flags, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_whoever_is_revoked_is_refused_and_let_in_again_when_that_is_lifted(site: Site) -> None:
    """Also with a token that was verified a moment ago; both are on record, with the reason."""
    token = site.idp.token(jti="t-stolen")
    for flag, value in (("--agent", "bot"), ("--user", "ann"), ("--token", "t-stolen"), ("--issuer", site.idp.iss)):
        assert site.call(token).status == 200
        made = revoke(site, flag, value, "--why", f"test of {flag}")
        assert within(lambda: site.call(token).status == 401)
        assert site.rpc(token, "tools/list").status == 401
        assert revoke(site, "--lift", made["id"])["lifted"]
        assert within(lambda: site.call(token).status == 200)
        (said,) = [each for each in site.records("admin.revoked") if each["revocation"] == made["id"]]
        assert (said["whose"], said["why"]) == ({flag[2:]: value}, f"test of {flag}")
        assert [each for each in site.records("admin.lifted") if each["revocation"] == made["id"]]


def test_revoking_an_agent_stops_its_api_keys_too(site: Site) -> None:
    """Whatever it holds."""
    assert site.call(site.gateway.key).status != 401
    made = revoke(site, "--agent", "dev", "--tenant", "default", "--why", "test")
    assert within(lambda: site.call(site.gateway.key).status == 401)
    revoke(site, "--lift", made["id"])
    assert within(lambda: site.call(site.gateway.key).status != 401)


def test_a_key_server_that_is_down_stops_nobody(site: Site) -> None:
    """Tokens that were never seen are checked with the keys that are known; and 100 strangers cause no flood."""
    site.keys.status = 503
    assert site.call(site.idp.token(nonce="fresh")).status == 200
    asked = len(site.keys.asked)
    for n in range(100):
        assert site.call(site.idp.token(header={"kid": f"stranger {n}"})).status == 401
    assert len(site.keys.asked) <= asked + 2  # half a minute apart
    site.keys.status = 200


def test_the_log_verifies(site: Site) -> None:
    """With all of this in it."""
    checked = toolgate(site.gateway.home, "audit", "verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
