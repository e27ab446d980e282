"""The client side at one provider: how it shows its secret, what it takes for a token, what it never says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.identity.oauth import MAX_LIFETIME, Endpoints, NoToken, Token
from gateway.identity.providers import Provider
from gateway.identity.vault import SecretVault
from gateway.problems import refuse
from gateway.runners.net import Egress, Net
from tests.gateway.identity.authserver import auth_server
from tests.gateway.identity.authstate import GATEWAY, SECRET, AuthServer

JSON = "application/json"
GOOD = {"access_token": "a" * 20, "token_type": "Bearer", "expires_in": 60}


@pytest.fixture
def server() -> Iterator[AuthServer]:
    """A fresh one."""
    with auth_server() as made:
        yield made


@asynccontextmanager
async def endpoints(server: AuthServer, secret: str | None = SECRET, **more: Any) -> AsyncIterator[Endpoints]:
    """Of a provider there."""

    async def own() -> str:
        return secret or ""

    urls = {"token_url": f"{server.url}/token", "authorize_url": f"{server.url}/authorize"}
    said: dict[str, Any] = {"name": "p", "grant": "client_credentials", "client_id": GATEWAY, **urls, **more}
    net = Net(Egress(), SecretVault({}))
    try:
        yield Endpoints(Provider(**said), net, None if secret is None else own)
    finally:
        await net.close()


def got(server: AuthServer, **more: Any) -> Token:
    """A token of the gateway's own."""

    async def go() -> Token:
        async with endpoints(server, **more) as there:
            return await there.client_credentials()

    return asyncio.run(go())


@pytest.mark.parametrize("how", ["basic", "post"])
def test_the_clients_secret_is_shown_as_the_provider_wants_it(server: AuthServer, how: str) -> None:
    """In a header, or in the form; the scopes and the resource are asked for."""
    token = got(server, client_auth=how, scopes=("a", "b"), resource="https://api.example.com")
    assert server.owner(token.access) == GATEWAY
    (form,) = server.asked
    assert (form["scope"], form["resource"]) == ("a b", "https://api.example.com")
    assert ("client_secret" in form) == (how == "post")


def test_a_public_client_shows_none(server: AuthServer) -> None:
    """Where the provider gave the gateway no secret: it says its name alone."""

    async def go() -> Token:
        async with endpoints(server, secret=None) as there:
            return await there.refreshed(server.refresh_token("ann"))

    token = asyncio.run(go())
    assert server.owner(token.access) == "ann"
    assert token.refresh is not None
    (form,) = server.asked
    assert (form["client_id"], "client_secret" in form, "scope" in form) == (GATEWAY, False, False)


@pytest.mark.parametrize(
    ("media", "said"),
    [
        (JSON, b""),
        (JSON, b"[]"),
        (JSON, b"{"),
        ("text/html", json.dumps(GOOD).encode()),
        (JSON, json.dumps({**GOOD, "access_token": ""}).encode()),
        (JSON, json.dumps({**GOOD, "access_token": ["a"]}).encode()),
        (JSON, json.dumps({**GOOD, "token_type": "DPoP"}).encode()),
        (JSON, json.dumps({"token_type": "Bearer"}).encode()),
        (JSON, b'{"access_token": "a", "access_token": "b", "token_type": "Bearer"}'),
        (JSON, json.dumps({**GOOD, "more": "x" * 70_000}).encode()),
    ],
)
def test_what_is_no_token_is_none(server: AuthServer, media: str, said: bytes) -> None:
    """Strict JSON of bounded size, with a bearer token in it, or nothing."""
    server.raw = (media, said)
    with pytest.raises(NoToken):
        got(server)


@pytest.mark.parametrize(
    ("lives", "seconds"), [(60, 60), (0, 0), (-5, 0), (1e12, MAX_LIFETIME), (None, 300), ("60", 300), (True, 300)]
)
def test_how_long_a_token_lives_is_bounded(server: AuthServer, lives: object, seconds: float) -> None:
    """Whatever the provider says of it."""
    server.raw = (JSON, json.dumps({**GOOD, "expires_in": lives}).encode())
    before = time.time()
    token = got(server)
    assert before + seconds <= token.expires_at <= time.time() + seconds


def test_neither_a_token_nor_what_a_server_says_is_in_any_text(server: AuthServer) -> None:
    """Of an error only a short word of ASCII is told."""
    assert "a" * 20 not in repr(Token("a" * 20, 1.0, "r" * 20))
    for said in ("évil\n", "x" * 65, 7, None):
        server.status, server.raw = (400, (JSON, json.dumps({"error": said}).encode()))
        with pytest.raises(NoToken) as error:
            got(server)
        assert "x" * 65 not in error.value.reason
        assert error.value.reason.isascii()


def test_a_secret_that_cannot_be_had_is_told_as_such(server: AuthServer) -> None:
    """Nobody is asked; it is not said that the provider is away."""

    async def missing() -> str:
        raise refuse("upstream_unreachable", "The credential p.client_secret cannot be used: it is not set.")

    async def go() -> None:
        async with endpoints(server) as there:
            there._secret = missing
            with pytest.raises(Exception, match="upstream_unreachable"):
                await there.client_credentials()
            assert await there.revoke("t", "access_token") is False

    asyncio.run(go())
    assert server.asked == []


def test_the_authorization_url_has_the_challenge_and_not_the_verifier(server: AuthServer) -> None:
    """S256, `state`, and exactly our redirect URI."""

    async def go() -> str:
        async with endpoints(server, secret=None, scopes=("a", "b")) as there:
            return there.authorize_url("the-state", "v" * 64, "https://gw.example.com/connect/callback")

    url = asyncio.run(go())
    said = {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}
    assert "v" * 64 not in url
    challenge = said.pop("code_challenge")
    assert len(challenge) == 43
    assert said == {
        "response_type": "code",
        "client_id": GATEWAY,
        "redirect_uri": "https://gw.example.com/connect/callback",
        "scope": "a b",
        "state": "the-state",
        "code_challenge_method": "S256",
    }
