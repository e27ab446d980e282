"""Leases: what happens when records cannot be written, callers go away, or an account ends meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.identity.vault import BadSecret
from gateway.model import Refusal
from tests.gateway.identity.authserver import auth_server
from tests.gateway.identity.authstate import AuthServer
from tests.gateway.identity.granting import ANN, gathered, granting


@pytest.fixture
def server() -> Iterator[AuthServer]:
    """A fresh one."""
    with auth_server() as made:
        yield made


def test_a_token_that_is_not_on_record_is_used_by_nobody(tmp_path: Path, server: AuthServer) -> None:
    """The ledger refuses: so does every call that waits, the token is taken back, and the next call tries again."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            all_.book.refuses = "credential.minted"
            holder = all_.holder("ann")
            got = await gathered(*(all_.leases.fetch("own", holder) for _ in range(20)))
            assert {type(each) for each in got} == {Refusal}
            assert {each.problem.code for each in got} == {"audit_unavailable"}
            assert [each.access for each in server.given] == server.taken_back()
            all_.book.refuses = None
            assert server.owner(await all_.leases.fetch("own", holder)) == "toolgate"

    asyncio.run(go())


def test_whoever_goes_away_ends_it_for_nobody_else(tmp_path: Path, server: AuthServer) -> None:
    """A hundred wait, half of them are cancelled: one request, and the others have the token."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            server.delay = 0.2
            holder = all_.holder("ann")
            waiting = [asyncio.create_task(all_.leases.fetch("own", holder)) for _ in range(100)]
            await asyncio.sleep(0)
            for task in waiting[:50]:
                task.cancel()
            got = await gathered(*waiting[50:])
            assert len(set(got)) == 1
            assert len(server.grants("client_credentials")) == len(all_.book.of("credential.minted")) == 1

    asyncio.run(go())


def test_nobody_gets_one_without_a_call_or_a_provider(tmp_path: Path, server: AuthServer) -> None:
    """Nothing is asked for."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            for place, holder in (("own", None), ("none", all_.holder("ann"))):
                with pytest.raises(BadSecret):
                    await all_.leases.fetch(place, holder)
        assert server.asked == []

    asyncio.run(go())


def test_an_account_that_ends_while_its_token_is_put_on_record_is_not_used(tmp_path: Path, server: AuthServer) -> None:
    """It is disconnected while the record is written: no caller has the token, and its end is on record too."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))

            async def disconnected() -> None:
                all_.book.first = None
                assert await all_.connector.disconnect(ANN, "mine", "test")

            all_.book.first = disconnected
            with pytest.raises(BadSecret):
                await all_.leases.fetch("mine", all_.holder("ann"))
            kinds = [line.type for line in all_.book.lines]
            assert kinds[-2:] == ["credential.minted", "credential.revoked"]

    asyncio.run(go())


def test_a_stop_waits_for_what_is_under_way(tmp_path: Path, server: AuthServer) -> None:
    """A renewal that was cut off would lose the account: its refresh token is used up, and the next one is not kept."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            server.lifetime = 1
            account = await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            server.delay = 0.3
            waiting = asyncio.create_task(all_.leases.fetch("mine", all_.holder("ann")))
            await asyncio.sleep(0.1)
            waiting.cancel()
            await all_.leases.close()
            kinds = [line.type for line in all_.book.lines]
            assert kinds == ["account.connected", "credential.minted", "credential.revoked"]
            assert await all_.connections.token(account) is not None
            used = [form["refresh_token"] for form in server.grants("refresh_token")]
            assert len(used) == len(set(used)) == 3

    asyncio.run(go())


def test_an_expired_session_loses_its_token(tmp_path: Path, server: AuthServer) -> None:
    """As one that was closed; one that is open keeps it."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            one, two = all_.holder("ann", "one"), all_.holder("ann", "two")
            tokens = [await all_.leases.fetch("own", each) for each in (one, two)]
            session = one.caller.session
            await all_.sessions.close(session.owner, session.id)
            await all_.leases.sweep()
            assert server.taken_back() == tokens[:1]
            assert await all_.leases.fetch("own", two) == tokens[1]

    asyncio.run(go())
