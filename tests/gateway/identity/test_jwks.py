"""Key sets: which keys are taken, when they are fetched, and what holds while their place does not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.jwks import FRESH, PAUSE, STALE, Jwk, KeySet, NoKeys, loader, read_keys
from gateway.identity.vault import local_vault
from gateway.runners.net import Egress, Net
from tests.gateway.identity.forgery import Forger
from tests.gateway.identity.idp import GOOD, Idp, public
from tests.gateway.identity.keyserver import KeyServer, key_server

IDP = Idp()
ALL = frozenset(GOOD)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    """The issuer's server."""
    with key_server(IDP.jwks()) as started:
        yield started


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def over(server: KeyServer, work: Callable[[KeySet, Hand], Awaitable[None]]) -> None:
    """Runs `work` with a set that is fetched from the server by the outbound client."""

    async def run() -> None:
        net, clock = Net(Egress(), local_vault({})), Hand()
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(work(KeySet(loader(server.url, net, loop.time), ALL, clock), clock), 60)
        finally:
            await net.close()

    asyncio.run(run())


def test_a_key_is_found_by_its_id_and_algorithm(server: KeyServer) -> None:
    """One fetch serves all of them, for ten minutes; a key is not there for another algorithm."""

    async def work(keys: KeySet, clock: Hand) -> None:
        for name in GOOD:
            assert isinstance(await keys.find(f"key-{name}", name), Jwk)
        assert await keys.find("key-RS256", "PS256") is None
        clock.at += FRESH - 1
        assert await keys.find("key-RS256", "RS256")
        assert server.asked == ["/keys"]
        clock.at += 1
        assert await keys.find("key-RS256", "RS256")
        assert server.asked == ["/keys", "/keys"]

    over(server, work)


def test_a_hundred_who_ask_at_once_cause_one_fetch(server: KeyServer) -> None:
    """Also when what they ask for is not there; whoever gives up does not end it for the others."""
    server.delay = 0.2

    async def work(keys: KeySet, clock: Hand) -> None:
        asking = [asyncio.create_task(keys.find("key-ES256", "ES256")) for _ in range(100)]
        await asyncio.sleep(0.05)
        asking[0].cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(each, Jwk) for each in found[1:])
        assert len(server.asked) == 1
        clock.at += PAUSE
        assert await asyncio.gather(*(keys.find(f"unknown {n}", "ES256") for n in range(100))) == [None] * 100
        assert len(server.asked) == 2

    over(server, work)


def test_a_flood_of_unknown_ids_causes_a_fetch_in_half_a_minute(server: KeyServer) -> None:
    """However many ids; ten minutes of it are one fetch for each pause and no more."""

    async def work(keys: KeySet, clock: Hand) -> None:
        for n in range(600):
            clock.at += 1
            assert await keys.find(f"unknown {n}", "RS256") is None
        assert len(server.asked) <= 600 / PAUSE + 1

    over(server, work)


def test_one_unknown_id_is_not_asked_for_again_and_again(server: KeyServer) -> None:
    """It was not in the set a moment ago, so for a while it is taken to be unknown."""

    async def work(keys: KeySet, clock: Hand) -> None:
        await keys.find("key-RS256", "RS256")
        for _ in range(6):
            clock.at += PAUSE - 10
            assert await keys.find("unknown", "RS256") is None
        assert len(server.asked) == 2

    over(server, work)


def test_keys_that_are_new_are_found_and_those_that_are_gone_are_gone(server: KeyServer) -> None:
    """A rotation: the next fetch brings the new key and takes the old one."""

    async def work(keys: KeySet, clock: Hand) -> None:
        assert await keys.find("key-ES256", "ES256")
        server.body = json.dumps({"keys": [public(IDP.keys["ES256"], "next")]}).encode()
        assert await keys.find("next", "ES256") is None  # too early to ask again
        clock.at += PAUSE
        assert await keys.find("next", "ES256")
        assert await keys.find("key-ES256", "ES256") is None
        assert await keys.find("key-RS256", "RS256") is None

    over(server, work)


def test_the_last_set_serves_for_an_hour_while_its_place_does_not_answer(server: KeyServer) -> None:
    """Then nobody is let in; and it is asked about rarely meanwhile, and taken again once it is back."""

    async def work(keys: KeySet, clock: Hand) -> None:
        assert await keys.find("key-RS256", "RS256")
        server.status = 503
        clock.at += FRESH
        asked = len(server.asked)
        for _ in range(10):
            clock.at += 1
            assert await keys.find("key-RS256", "RS256")
        assert len(server.asked) == asked + 1
        clock.at += STALE - FRESH - 11
        assert await keys.find("key-RS256", "RS256")
        clock.at += 1
        with pytest.raises(NoKeys):
            await keys.find("key-RS256", "RS256")
        server.status = 200
        clock.at += PAUSE
        assert await keys.find("key-RS256", "RS256")

    over(server, work)


def test_a_place_that_gives_nothing_at_first_is_asked_again_soon(server: KeyServer) -> None:
    """A gateway that starts before its issuer does not stay closed for long, nor does it press."""
    server.status = 500

    async def work(keys: KeySet, clock: Hand) -> None:
        for _ in range(5):
            with pytest.raises(NoKeys):
                await keys.find("key-RS256", "RS256")
        assert len(server.asked) == 1
        server.status = 200
        clock.at += 5
        assert await keys.find("key-RS256", "RS256")

    over(server, work)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (302, {"location": "/elsewhere"}, b""),
        (404, {}, b"{}"),
        (200, {}, b'{"keys": []}' + b" " * 70_000),
        (200, {}, b"<html>sign in</html>"),
        (200, {}, b'{"keys": {}}'),
        (200, {}, b"[]"),
        (200, {}, b'{"keys": [], "keys": []}'),
        (200, {}, json.dumps({"keys": [{}] * 51}).encode()),
        (200, {}, b'{"keys": ' + b"[" * 500 + b"]" * 500 + b"}"),
        (200, {}, b"\xff\xfe"),
    ],
    ids=range(10),
)
def test_what_is_no_key_set_is_not_taken(server: KeyServer, status: int, headers: dict[str, str], body: bytes) -> None:
    """A redirect, an error, a page, too much: no set, and nothing else is asked for."""
    server.status, server.body = status, body
    server.headers |= headers

    async def work(keys: KeySet, clock: Hand) -> None:
        with pytest.raises(NoKeys):
            await keys.find("key-RS256", "RS256")

    over(server, work)
    assert server.asked == ["/keys"]


def test_a_file_is_read_again_like_a_url(tmp_path: Path) -> None:
    """A trust bundle that an agent on the host keeps fresh; a file that is not there is no set."""
    path, clock = tmp_path / "keys.json", Hand()

    async def run() -> None:
        keys = KeySet(loader(f"file:{path}", Net(Egress(), local_vault({})), clock), ALL, clock)
        with pytest.raises(NoKeys):
            await keys.find("key-RS256", "RS256")
        path.write_bytes(IDP.jwks())
        clock.at += PAUSE
        assert await keys.find("key-RS256", "RS256")

    asyncio.run(run())


def test_a_private_network_is_not_asked() -> None:
    """A name that leads to a private address is refused by the outbound client, as for any other request."""

    async def run() -> None:
        net = Net(Egress(), local_vault({}))
        keys = KeySet(loader("https://localhost/keys", net, asyncio.get_running_loop().time), ALL, Hand())
        with pytest.raises(NoKeys):
            await keys.find("key-RS256", "RS256")

    asyncio.run(run())


def kids(*entries: dict[str, Any], algorithms: frozenset[str] = ALL, use: str = "sig") -> set[tuple[str, str]]:
    """Ids and algorithms of what is taken of a set."""
    return {place for place, _ in read_keys(json.dumps({"keys": entries}).encode(), algorithms, use)}


def test_only_public_keys_for_signatures_are_taken() -> None:
    """Of a set full of others: symmetric, private, weak, for encryption, for other algorithms, malformed."""
    careless = Forger(IDP, "http://127.0.0.1:9/").entries()
    assert {kid for kid, _ in kids(*careless)} <= {"no point", "curve"}  # no points of their curves: shown when used
    assert kids(*careless, *IDP.entries()) >= {(f"key-{name}", name) for name in GOOD}


def test_a_key_without_a_stated_algorithm_fits_those_of_its_type() -> None:
    """As far as the issuer's are configured."""
    rsa = public(IDP.keys["RS256"], "r")
    assert kids(rsa) == {("r", "RS256"), ("r", "PS256")}
    assert kids(rsa, algorithms=frozenset({"RS256", "ES256"})) == {("r", "RS256")}


def test_of_two_keys_under_one_id_the_first_counts() -> None:
    """For an algorithm; the same id may stand for keys of different types."""
    first, second = public(IDP.keys["RS256"], "k"), public(IDP.keys["PS256"], "k")
    raw = json.dumps({"keys": [first, second, public(IDP.keys["ES256"], "k")]}).encode()
    found = dict(read_keys(raw, ALL))
    assert set(found) == {("k", "RS256"), ("k", "PS256"), ("k", "ES256")}
    assert dict(found["k", "PS256"].members)["n"] == first["n"]


def test_a_trust_bundle_says_another_use() -> None:
    """SPIFFE marks keys for JWT-SVIDs so, and those for certificates otherwise."""
    ec = IDP.keys["ES256"]
    entries = [public(ec, "jwt", use="jwt-svid"), public(ec, "x509", use="x509-svid")]
    assert kids(*entries, use="jwt-svid") == {("jwt", "ES256")}
    assert kids(*entries) == set()
