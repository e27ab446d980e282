"""Accounts that people connect, at a real authorization server: the way there, whose token a call carries, attacks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browsing import Browser
from tests.e2e.granted import Site, checking_backend, make_site
from tests.gateway.identity.authserver import auth_server
from tests.served import toolgate


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One for each test, with the gateway up."""
    with auth_server() as server, checking_backend(server) as backend:
        made = make_site(tmp_path, server, backend)
        with made.up():
            yield made


def within(done: Callable[[], bool]) -> bool:
    """Does it come true? Waits long enough for a slow machine."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.05)
    return False


def link(site: Site, key: str) -> str:
    """A fresh link of a caller."""
    reply = site.ask("POST", "/v1/connections/mine", key)
    assert reply.status == 201, reply.body
    url: str = reply.json["url"]
    return url


def sub(reply: Any) -> Any:
    """Who the backend says it was."""
    assert reply.status == 200, reply.json
    return reply.json["result"]["structured_content"]["sub"]


def rpc(site: Site, key: str, *, modern: bool) -> Any:
    """A call over MCP."""
    params: dict[str, Any] = {"name": "act_mine", "arguments": {"who": "ann"}}
    headers: dict[str, str] = {}
    if modern:
        about = {"protocolVersion": "2026-07-28", "clientInfo": {"name": "t", "version": "0"}, "clientCapabilities": {}}
        params["_meta"] = {f"io.modelcontextprotocol/{name}": value for name, value in about.items()}
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "act_mine"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return site.ask("POST", "/mcp", key, body, **headers).json["result"]


def test_a_user_connects_an_account_and_disconnects_it(site: Site) -> None:
    """The refusal has the link; behind it the account is the person's, for every agent of theirs, until it is not."""
    key, other = site.key("bot", "ann"), site.key("helper-bot", "ann")
    refused = site.call("act_mine", "ann", key)
    assert (refused.status, refused.json["code"]) == (403, "account_required")
    assert "none is connected for user ann" in refused.json["detail"]
    (url,) = re.findall(r"http://[^ ]*/connect/[\w-]{43}", refused.json["advice"])
    for modern in (True, False):
        said = rpc(site, key, modern=modern)
        assert said["isError"] is True
        assert url in said["content"][0]["text"]
    page = Browser("ann-at-provider").connect(url)
    assert (page.status, b"user ann of tenant default" in page.body) == (200, True)
    assert sub(site.call("act_mine", "ann", key)) == sub(site.call("act_mine", "ann", other)) == "ann-at-provider"
    (mine,) = site.ask("GET", "/v1/connections", other).json["connections"]
    assert (mine["provider"], mine["user"], mine["tenant"], mine["scope"]) == ("mine", "ann", "default", "act")
    assert site.ask("DELETE", "/v1/connections/mine", other).status == 200
    assert site.ask("DELETE", "/v1/connections/mine", other).status == 404
    assert [site.call("act_mine", "ann", each).json["code"] for each in (key, other)] == ["account_required"] * 2
    given = site.server.given[-1]
    assert {given.access, given.refresh} <= set(site.server.taken_back())
    assert within(lambda: len(site.records("credential.revoked")) == 2)
    connected, gone = site.records("account.connected", "account.disconnected")
    assert connected["account_id"] == gone["account_id"]
    assert connected["principal"] == gone["principal"] == {"agent": "bot", "user": "ann"}
    assert gone["taken_back"] is True
    assert site.stored(given.access, given.refresh or "", url.rpartition("/")[2]) == []


def test_the_page_says_who_gives_what_to_whom_and_runs_nothing(site: Site) -> None:
    """In plain words; no script, no frame around it, nothing unescaped, no cookie that a script could read."""
    url = link(site, site.key("bot", "ann&<i>co<b>"))
    page = Browser("ann").open(url)
    text = page.body.decode()
    assert "user ann&amp;&lt;i&gt;co&lt;b&gt; of tenant default" in text
    assert [tag for tag in ("<i>", "<b>", "<script") if tag in text] == []
    assert "stop here and close the page" in text
    agents = Browser("ann").open(link(site, site.key("loner"))).body.decode()
    assert "agent loner of tenant default" in agents
    assert "Are you the person who runs agent loner?" in agents
    assert site.server.url in text
    policy = page.headers["content-security-policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    assert "script" not in policy
    assert page.headers["referrer-policy"] == "same-origin"
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(page.headers["set-cookie"].split("; "))
    assert page.headers["cache-control"] == "no-store"


def test_looking_at_a_link_uses_nothing_up_and_agreeing_does(site: Site) -> None:
    """It is the same link while it is young; then it is gone, as is what came back."""
    key = site.key("bot", "ann")
    url = link(site, key)
    assert link(site, key) == url
    ann = Browser("ann")
    assert [ann.open(url).status for _ in range(3)] == [200] * 3
    begun = ann.agree(url, ann.open(url))
    assert (begun.status, begun.body) == (303, b"")
    for again in (ann.open(url), ann.agree(url, ann.open(url))):
        assert again.status in (403, 404)
    back = ann.consent(begun.headers["location"])
    assert ann.open(back).status == 200
    replayed = ann.open(back)
    assert (replayed.status, b"answered before" in replayed.body) == (400, True)
    assert link(site, key) != url
    assert len(site.server.grants("authorization_code")) == 1


def test_another_browser_cannot_finish(site: Site) -> None:
    """Neither with the way back of the first one, nor by a page of the first one; and then nobody can."""
    key = site.key("mallory-bot", "mallory")
    url = link(site, key)
    mallory, ann = Browser("mallory"), Browser("ann")
    page = mallory.open(url)
    path = "/" + url.split("/", 3)[3]
    assert site.ask("GET", path, Host="evil.example").status == 403
    assert ann.agree(url, page).status == 403  # no cookie
    ann.open(url)
    assert ann.agree(url, page).status == 403  # another cookie
    assert ann.agree(url, ann.open(url), Origin="https://evil.example").status == 403
    assert ann.agree(url, ann.open(url), **{"Sec-Fetch-Site": "cross-site"}).status == 403
    back = mallory.consent(mallory.agree(url, mallory.open(url)).headers["location"])
    for browser in (ann, Browser("ann"), mallory):
        assert browser.open(back).status == 400
    assert site.ask("GET", "/v1/connections", key).json["connections"] == []
    assert site.server.grants("authorization_code") == []


def test_a_code_that_was_slipped_in_is_worth_nothing(site: Site) -> None:
    """A code of Mallory's own in Ann's way back: the provider finds that it is not for Ann's verifier (PKCE)."""
    ann, mallory = Browser("ann"), Browser("mallory")
    one, two = link(site, site.key("bot", "ann")), link(site, site.key("bot", "mallory"))
    of_ann = ann.consent(ann.agree(one, ann.open(one)).headers["location"])
    of_mallory = mallory.consent(mallory.agree(two, mallory.open(two)).headers["location"])
    code = re.search(r"code=([^&]+)", of_mallory)
    assert code is not None
    slipped = ann.open(re.sub(r"code=[^&]+", code.group(0), of_ann))
    assert (slipped.status, b"invalid_grant" in slipped.body) == (400, True)
    assert site.records("account.connected") == []


def test_an_answer_of_another_server_is_not_taken(site: Site) -> None:
    """`iss` (RFC 9207) has to be the one in the settings; the code goes nowhere."""
    for wrong in ("https://evil.example", ""):
        url, ann = link(site, site.key(f"bot{len(wrong)}", "ann")), Browser("ann")
        back = ann.consent(ann.agree(url, ann.open(url)).headers["location"])
        page = ann.open(re.sub(r"iss=[^&]+", f"iss={wrong}", back) if wrong else re.sub(r"&iss=[^&]+", "", back))
        assert (page.status, b"Another authorization server" in page.body) == (400, True)
    assert site.server.grants("authorization_code") == []


def test_what_a_provider_says_is_shown_escaped(site: Site) -> None:
    """And what is said twice is not taken."""
    url, ann = link(site, site.key("bot", "ann")), Browser("ann")
    begun = ann.agree(url, ann.open(url)).headers["location"]
    state = re.search(r"state=([^&]+)", begun)
    assert state is not None
    there = url.rpartition("/")[0] + "/callback?iss=" + site.server.url
    assert ann.open(f"{there}&{state.group(0)}&state=x&code=y").status == 400
    page = ann.open(f"{there}&{state.group(0)}&error=%3Cscript%3Ealert(1)%3C/script%3E%E2%80%AE")
    assert (page.status, b"&lt;script&gt;" in page.body, b"<script" in page.body) == (400, True, False)
    assert b"\\u202e" in page.body


def test_tenants_do_not_see_each_other(site: Site) -> None:
    """The same name in another tenant is somebody else; an operator is one of its own tenant."""
    acme, umbrella = site.key("bot", "ann", "acme"), site.key("bot", "ann", "umbrella")
    assert Browser("ann").connect(link(site, acme)).status == 200
    assert len(site.ask("GET", "/v1/connections", acme).json["connections"]) == 1
    assert site.ask("GET", "/v1/connections", umbrella).json["connections"] == []
    assert site.call("act_mine", "ann", umbrella).json["code"] == "account_required"
    assert site.ask("DELETE", "/v1/connections/mine", umbrella).status == 404
    assert site.ask("DELETE", "/v1/connections/mine?user=ann", site.key("bob-bot", "bob", "acme")).status == 403
    assert (
        site.ask("DELETE", "/v1/connections/mine?user=ann", site.key("o", None, "umbrella", "operator")).status == 404
    )
    assert sub(site.call("act_mine", "ann", acme)) == "ann"
    assert site.ask("DELETE", "/v1/connections/mine?user=ann", site.key("o", None, "acme", "operator")).status == 200
    assert site.ask("POST", "/v1/connections/own", acme).status == 404
    assert site.ask("GET", "/v1/connections").status == 401
    assert site.ask("POST", "/v1/connections/mine", site.key("aud", None, "acme", "auditor")).status == 403


def test_the_command_line_lists_and_removes(site: Site) -> None:
    """A running gateway uses the account no more within a second, takes the tokens back, and puts that on record."""
    key = site.key("bot")
    assert Browser("ann").connect(link(site, key)).status == 200
    assert sub(site.call("act_mine", "ann", key)) == "ann"
    (row,) = json.loads(toolgate(site.folder / "home", "connections", "list", "--json").stdout)
    assert (row["agent"], row["provider"], row["tenant"]) == ("bot", "mine", "default")
    removed = [toolgate(site.folder / "home", "connections", "remove", row["id"]).returncode for _ in range(2)]
    assert removed == [0, 1]
    assert within(lambda: site.call("act_mine", "ann", key).status == 403)
    assert within(lambda: len(site.records("account.disconnected")) == 1)
    assert site.server.given[-1].access in site.server.taken_back()
    assert "no accounts" in toolgate(site.folder / "home", "connections", "list").stdout


def test_tokens_are_renewed_once_and_survive_a_restart(tmp_path: Path) -> None:
    """A refresh token works once only; an account that the provider ended is to be connected again."""
    with auth_server() as server, checking_backend(server) as backend:
        site = make_site(tmp_path, server, backend)
        server.lifetime = 20  # too short to be begun with again
        with site.up():
            key = site.key("bot", "ann")
            assert Browser("ann").connect(link(site, key)).status == 200
            for session in ("one", "two"):
                assert sub(site.call("act_mine", "ann", key, session)) == "ann"
        with site.up():
            assert sub(site.call("act_mine", "ann", key)) == "ann"
            asked = [form["refresh_token"] for form in server.grants("refresh_token")]
            assert len(asked) == len(set(asked)) == 3
            for given in server.given:
                given.refresh = None
            assert site.call("act_mine", "ann", key, "three").json["code"] == "account_required"
            assert site.call("act_mine", "ann", key).json["code"] == "account_required"  # with a token of its own
            assert within(lambda: len(site.records("account.disconnected")) == 1)
            assert site.records("account.disconnected")[0]["by"] == "refused by the provider"
        assert site.stored(*asked, *(given.access for given in server.given if given.access)) == []
