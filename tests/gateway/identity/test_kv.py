"""Secrets of a HashiCorp Vault, over the real client against a server that speaks its KV version 2 API."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvloop

from gateway.identity.kv import KvServer, KvVault
from gateway.identity.vault import Environment, SecretVault
from gateway.model import Refusal
from gateway.runners.net import Egress, Net
from gateway.tool import SecretUse
from tests.gateway.runners.servers import Upstream, http

TOKEN, VALUE = "hvs.token-of-the-gateway", "value-of-the-secret-001"


def _use(place: str = "secret/team/github#token") -> SecretUse:
    return SecretUse("github", f"vault:{place}", ("api.test",), "Authorization", "Bearer {}")


def _answer(**fields: object) -> bytes:
    body = json.dumps({"data": {"data": fields, "metadata": {"version": 3}}}).encode()
    return http(body, kind="application/json")


class Hand:
    """A clock that is moved by hand, from the real time on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


def _vault(port: int, clock: Hand) -> SecretVault:
    vault = SecretVault({"env": Environment({"VAULT_TOKEN": TOKEN})})
    server = KvServer(f"http://127.0.0.1:{port}", "env:VAULT_TOKEN", "team-a")
    vault.add("vault", KvVault(server, Net(Egress(), vault, monotonic=clock), clock))
    return vault


async def _refused(vault: SecretVault, use: SecretUse) -> str:
    with pytest.raises(Refusal) as refused:
        await vault.reveal(use, None)
    assert refused.value.problem.code == "upstream_unreachable"
    assert TOKEN not in refused.value.problem.detail
    return refused.value.problem.detail


def test_a_field_is_read_with_the_token_and_kept_for_a_minute() -> None:
    """One request for many calls at once and after; the token and the namespace go in headers; then it is read anew."""

    async def calls() -> None:
        async with Upstream(_answer(token=VALUE), _answer(token=VALUE[::-1])) as server:
            clock = Hand()
            vault = _vault(server.port, clock)
            assert set(await asyncio.gather(*(vault.reveal(_use(), None) for _ in range(50)))) == {VALUE}
            head = server.requests[0].lower()
            assert server.requests[0].startswith(b"GET /v1/secret/data/team/github HTTP/1.1\r\n")
            assert f"x-vault-token: {TOKEN}".encode() in head
            assert b"x-vault-namespace: team-a" in head
            clock.ahead += 59
            assert await vault.reveal(_use(), None) == VALUE
            assert len(server.requests) == 1
            clock.ahead += 2
            assert await vault.reveal(_use(), None) == VALUE[::-1]
            assert len(server.requests) == 2

    uvloop.run(calls())


def test_a_server_that_is_away_is_borne_for_ten_minutes() -> None:
    """What was read is used meanwhile, sealed or failing alike; then the call is refused, with nothing sent."""

    async def calls() -> None:
        replies = [_answer(token=VALUE), http(b"{}", "503 Service Unavailable", "application/json")]
        async with Upstream(*replies) as server:
            clock = Hand()
            vault = _vault(server.port, clock)
            await vault.reveal(_use(), None)
            clock.ahead += 599
            assert await vault.reveal(_use(), None) == VALUE
            clock.ahead += 2
            assert "cannot be reached" in await _refused(vault, _use())
        assert "cannot be reached" in await _refused(vault, _use())

    uvloop.run(calls())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (http(b"{}", "404 Not Found", "application/json"), "no such secret"),
        (http(b"{}", "403 Forbidden", "application/json"), "does not give it"),
        (_answer(other=VALUE), "no such field"),
        (_answer(token=7), "no such field"),
        (http(b"not json", kind="application/json"), "not understood"),
        (http(b'{"data": {"data": {"a": 1, "a": 2}}}', kind="application/json"), "not understood"),
        (http(b"[]", kind="application/json"), "no such field"),
        (_answer(token="short"), "shorter than"),
        (_answer(token="two\nlines-of-a-secret-value"), "not printable"),
    ],
)
def test_an_answer_without_the_secret_is_a_refusal(reply: bytes, said: str) -> None:
    """What is wrong is said, without the place or any value."""

    async def calls() -> None:
        async with Upstream(reply) as server:
            detail = await _refused(_vault(server.port, Hand()), _use())
            assert said in detail
            assert "team/github" not in detail

    uvloop.run(calls())


def test_a_secret_taken_away_is_not_used_from_memory() -> None:
    """404 and 403 are answers: what was read before is forgotten at once."""

    async def calls() -> None:
        gone = http(b"{}", "404 Not Found", "application/json")
        async with Upstream(_answer(token=VALUE), gone, http(b"", "500 Oh")) as server:
            clock = Hand()
            vault = _vault(server.port, clock)
            await vault.reveal(_use(), None)
            clock.ahead += 61
            for _ in range(2):
                await _refused(vault, _use())

    uvloop.run(calls())


@pytest.mark.parametrize(
    "place",
    ["secret#token", "secret/a", "secret/../sys/policy#x", "secret//a#x", "/a#x", "secret/a/./b#x", "secret/a#", "#"],
)
def test_what_is_no_place_asks_nobody(place: str) -> None:
    """A place with dots, empty parts or no field is refused before anything is sent."""

    async def calls() -> None:
        async with Upstream() as server:
            vault = _vault(server.port, Hand())
            assert "vault:MOUNT/PATH#FIELD" in await _refused(vault, _use(place))
            assert "vault:MOUNT/PATH#FIELD" in (vault.look(_use(place)) or "")
            assert server.requests == []

    uvloop.run(calls())
