"""Tokens for calls, by every grant, at a real authorization server: how many, for whom, on record, how they end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.granted import Site, checking_backend, make_site
from tests.gateway.identity.authserver import auth_server
from tests.gateway.identity.authstate import EXCHANGE
from tests.served import toolgate


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One for each test, not started."""
    with auth_server() as server, checking_backend(server) as backend:
        yield make_site(tmp_path, server, backend)


def within(done: Callable[[], bool]) -> bool:
    """Does it come true? Waits long enough for a slow machine."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.05)
    return False


def sub(reply: Any) -> Any:
    """Who the backend says it was."""
    assert reply.status == 200, reply.body
    return reply.json["result"]["structured_content"]["sub"]


def test_one_token_for_a_session_and_a_tool(site: Site) -> None:
    """However many calls there are at once; and the record of it stands before the first of them was sent."""
    with site.up():
        key = site.key("bot")
        site.server.delay = 0.3
        with ThreadPoolExecutor(20) as pool:
            replies = list(pool.map(lambda _: site.call("act_own", "toolgate", key), range(100)))
        assert {sub(reply) for reply in replies} == {"toolgate"}
        site.server.delay = 0.0
        assert len(site.server.grants("client_credentials")) == 1
        for _ in range(3):
            sub(site.call("leak1", "toolgate", key))
        sub(site.call("act_own", "toolgate", key, session="other"))
        assert len(site.server.grants("client_credentials")) == 3
        assert len({seen.token for seen in site.backend.seen}) == 3
        said = site.records("credential.minted")
        minted = [(each["tool"]["name"], each["session_id"], each["provider"], each["grant"]) for each in said]
        grant = ("own", "client_credentials")
        assert minted == [
            ("act_own", "default", *grant),
            ("leak1", "default", *grant),
            ("act_own", "other", *grant),
        ]
        assert said[0]["principal"] == {"agent": "bot", "user": None}
        first = next(each for each in site.records("call.outcome"))
        assert said[0]["seq"] < first["seq"]


def test_a_token_that_runs_out_is_had_again(site: Site) -> None:
    """Before its end: one of four seconds serves for two. Each is on record."""
    site.server.lifetime = 4
    with site.up():
        key = site.key("bot")
        tokens = {seen.token for seen in site.backend.seen}
        while len(tokens) < 3:
            assert sub(site.call("act_own", "toolgate", key)) == "toolgate"
            tokens = {seen.token for seen in site.backend.seen}
            time.sleep(0.1)
    assert len(site.server.grants("client_credentials")) == 3 < len(site.backend.seen)
    assert len(site.records("credential.minted")) == 3


@pytest.mark.parametrize("by", ["rest", "cli", "stop"])
def test_the_end_of_a_session_ends_its_tokens(site: Site, by: str) -> None:
    """They are taken back at the provider, and that is on record."""
    with site.up():
        key = site.key("bot")
        sub(site.call("act_own", "toolgate", key, session="one"))
        sub(site.call("act_own", "toolgate", key, session="two"))
        first, second = (seen.token for seen in site.backend.seen)
        if by == "rest":
            assert site.ask("DELETE", "/v1/sessions/one", key).status == 200
        elif by == "cli":
            done = toolgate(site.folder / "home", "sessions", "close", "one")
            assert done.returncode == 0, done.stderr
        if by != "stop":
            assert within(lambda: len(site.records("credential.revoked")) == 1)
            assert site.server.taken_back() == [first]
            assert sub(site.call("act_own", "toolgate", key, session="two")) == "toolgate"
    assert sorted(site.server.taken_back()) == sorted([first, second])
    said = {each["session_id"]: each for each in site.records("credential.revoked")}
    assert said["two"]["why"] == "stop"
    assert said["one"]["why"] == ("stop" if by == "stop" else "session ended")
    minted = {each["session_id"]: each["credential_id"] for each in site.records("credential.minted")}
    assert {name: each["credential_id"] for name, each in said.items()} == minted
    assert all(each["taken_back"] for each in said.values())


def test_a_token_is_nowhere_to_be_seen(site: Site) -> None:
    """Not in a result, though the backend says it back in two ways; nor in any file of the home."""
    with site.up():
        key = site.key("bot")
        replies = [site.call("leak1", "toolgate", key), site.call("leak2", "toolgate", key)]
        listed = site.ask("GET", f"/v1/calls/{replies[0].json['call_id']}", key)
        tail = toolgate(site.folder / "home", "audit", "tail", "-n", "100", "--json")
    tokens = [seen.token for seen in site.backend.seen]
    assert len(set(tokens)) == 2
    secrets = [text for token in tokens for text in (token, token[::-1])]
    for text in [reply.body.decode() for reply in [*replies, listed]] + [tail.stdout]:
        assert not any(secret in text for secret in secrets), text
    assert "credential.minted" in tail.stdout
    assert site.stored(*secrets, site.refresh) == []


@pytest.mark.parametrize(("status", "says"), [(503, "refused"), (400, "temporarily_unavailable")])
def test_without_a_token_nothing_is_sent(site: Site, status: int, says: str) -> None:
    """The call is refused, with the reason, and can be made again later."""
    with site.up():
        key = site.key("bot")
        site.server.status = status
        reply = site.call("act_own", "toolgate", key)
        assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
        assert says in reply.json["detail"]
        assert site.backend.seen == []
        site.server.status = 200
        assert sub(site.call("act_own", "toolgate", key)) == "toolgate"


def test_a_provider_of_another_tenant_gives_nothing(tmp_path: Path) -> None:
    """Its own tenant gets a token; another one a refusal, and nobody is asked."""
    with auth_server() as server, checking_backend(server) as backend:
        site = make_site(tmp_path, server, backend, own={"tenant": "acme"})
        with site.up():
            assert sub(site.call("act_own", "toolgate", site.key("bot", tenant="acme"))) == "toolgate"
            asked = len(server.asked)
            reply = site.call("act_own", "toolgate", site.key("bot", tenant="umbrella"))
            assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
            assert "another tenant" in reply.json["detail"]
            assert (len(server.asked), len(backend.seen)) == (asked, 1)


def test_a_refresh_token_that_was_replaced_survives_a_restart(site: Site) -> None:
    """The one in the settings works once only; the next ones are kept, sealed."""
    for _ in range(2):
        with site.up():
            key = site.key("bot")
            for session in ("one", "two"):
                assert sub(site.call("act_fixed", "operator", key, session=session)) == "operator"
    asked = [form["refresh_token"] for form in site.server.grants("refresh_token")]
    assert len(asked) == len(set(asked)) == 4
    assert asked[0] == site.refresh
    assert site.stored(*asked) == []


def test_a_refresh_token_is_used_once_by_many_sessions_at_once(site: Site) -> None:
    """A provider that takes each once only is content."""
    with site.up():
        key = site.key("bot")
        with ThreadPoolExecutor(10) as pool:
            names = [f"s{number}" for number in range(10)]
            replies = list(pool.map(lambda name: site.call("act_fixed", "operator", key, session=name), names))
    assert {sub(reply) for reply in replies} == {"operator"}
    asked = [form["refresh_token"] for form in site.server.grants("refresh_token")]
    assert len(asked) == len(set(asked)) == 10


def test_a_callers_token_is_exchanged_and_never_passed_on(site: Site) -> None:
    """The backend gets one for itself, with the person as its subject; the caller's goes to the provider alone."""
    with site.up():
        callers = {user: site.server.sign(user, "gateway", client_id="bot") for user in ("ann", "bob")}
        for user in ("ann", "bob", "ann"):
            caller = callers[user]
            assert sub(site.call("act_swapped", user, caller)) == user
            assert all(seen.token != caller for seen in site.backend.seen)
        asked = site.server.grants(EXCHANGE)
        assert [form["audience"] for form in asked] == ["backend"] * len(asked)
        assert len(asked) == 2  # ann's second call came with the same token, in the same session
        said = site.records("credential.minted")
        assert [each["principal"] for each in said] == [{"agent": "bot", "user": user} for user in ("ann", "bob")]
    assert [(seen.who, seen.owner) for seen in site.backend.seen] == [("ann", "ann"), ("bob", "bob"), ("ann", "ann")]
    assert site.stored(*(form["subject_token"] for form in asked)) == []


def test_a_caller_with_a_key_has_no_token_to_exchange(site: Site) -> None:
    """And a token for somebody else is not taken by the gateway in the first place."""
    with site.up():
        reply = site.call("act_swapped", "ann", site.key("bot", "ann"))
        assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
        assert "API key" in reply.json["detail"]
        assert site.call("act_swapped", "ann", site.server.sign("ann", "elsewhere", client_id="bot")).status == 401
    assert (site.server.asked, site.backend.seen) == ([], [])


def test_what_one_token_was_exchanged_for_serves_no_other_credential(site: Site) -> None:
    """Not another token of the same caller, which may allow less, and not the same agent's API key."""
    with site.up():
        for number in range(2):
            assert sub(site.call("act_swapped", "ann", site.server.sign("ann", "gateway", client_id="bot", n=number)))
        subjects = [form["subject_token"] for form in site.server.grants(EXCHANGE)]
        assert len(set(subjects)) == len(site.records("credential.minted")) == 2
        assert len({seen.token for seen in site.backend.seen}) == 2
        reply = site.call("act_swapped", "ann", site.key("bot", "ann"))
        assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
        assert len(site.backend.seen) == 2


def test_a_subject_token_that_the_provider_refuses_sends_nothing(site: Site) -> None:
    """The refusal says which error the provider named."""
    site.server.resource = "another"
    with site.up():
        reply = site.call("act_swapped", "ann", site.server.sign("ann", "gateway", client_id="bot"))
    assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
    assert "invalid_grant" in reply.json["detail"]
    assert site.backend.seen == []


def test_the_log_verifies_and_shows_them(site: Site) -> None:
    """Minted and revoked stand in it like anything else."""
    with site.up():
        sub(site.call("act_own", "toolgate", site.key("bot")))
    verified = toolgate(site.folder / "home", "audit", "verify")
    assert verified.returncode == 0, verified.stdout
    lines = toolgate(site.folder / "home", "audit", "tail", "-n", "100", "--json").stdout.splitlines()
    types = [json.loads(line)["type"] for line in lines]
    wanted = ["call.intent", "credential.minted", "call.outcome", "credential.revoked"]
    assert [each for each in types if each in wanted] == wanted
