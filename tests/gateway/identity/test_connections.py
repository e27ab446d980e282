"""Connected accounts: renewed once, sealed to their person, ended for good; links that run out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.accounts import NotConnected, Person
from gateway.identity.oauth import NoToken
from gateway.model import Principal, Refusal
from tests.gateway.identity.authserver import auth_server
from tests.gateway.identity.authstate import AuthServer
from tests.gateway.identity.granting import ANN, gathered, granting


@pytest.fixture
def server() -> Iterator[AuthServer]:
    """A fresh one."""
    with auth_server() as made:
        yield made


def test_many_who_need_a_new_token_cause_one_renewal(tmp_path: Path, server: AuthServer) -> None:
    """A provider that takes a refresh token once only is content, and so is the next renewal."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            server.lifetime = 1
            account = await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            server.asked.clear()
            server.lifetime, server.delay = 600, 0.2
            got = await gathered(*(all_.connections.token(account) for _ in range(50)))
            assert len({each.access for each in got}) == 1
            assert len(server.asked) == 1
            again = await all_.connections.token(account)
            assert again is not None
            assert (again.access, len(server.asked)) == (got[0].access, 1)

    asyncio.run(go())


def test_disconnecting_while_it_is_renewed_leaves_nothing(tmp_path: Path, server: AuthServer) -> None:
    """What the provider gave meanwhile is taken back, and the caller gets none of it."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            server.lifetime = 1
            account = await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            server.delay = 0.3
            renewing = asyncio.create_task(all_.connections.token(account))
            await asyncio.sleep(0.1)
            assert await all_.connections.disconnect(ANN, "mine", "test")
            assert await renewing is None
            assert all(given.revoked for given in server.given if given.access)
            assert all_.rows.sealed(account.id) is None

    asyncio.run(go())


def test_a_row_that_is_moved_to_another_person_does_not_open(tmp_path: Path, server: AuthServer) -> None:
    """Whoever can write `state.db` cannot give Ann's account to Bob."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            of_ann = await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            bob = await all_.connections.keep(Person("default", "user", "bob"), "mine", "bot", await all_.given("bob"))
            sealed = all_.rows.sealed(of_ann.id)
            assert sealed is not None
            all_.rows.renew(bob.id, sealed)
            with pytest.raises(NoToken):
                await all_.connections.token(bob)

    asyncio.run(go())


def test_an_account_that_is_not_on_record_is_not_kept(tmp_path: Path, server: AuthServer) -> None:
    """And one whose end cannot be put on record is used no more all the same; it is written later."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            all_.book.refuses = "account.connected"
            with pytest.raises(Refusal):
                await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            assert (all_.rows.all(), all_.connections.find(ANN, "mine")) == ([], None)
            all_.book.refuses = "account.disconnected"
            account = await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            assert await all_.connections.disconnect(ANN, "mine", "test")
            assert not all_.connections.stands(account.id)
            all_.book.refuses = None
            await all_.connections.sweep()
            await all_.connections.sweep()
            (line,) = all_.book.of("account.disconnected")
            assert (line.fields["by"], all_.rows.dropped()) == ("test", [])

    asyncio.run(go())


def test_connecting_again_replaces_without_ending_the_new_one(tmp_path: Path, server: AuthServer) -> None:
    """The old account is gone, and nothing is taken back at the provider."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            both = [await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann")) for _ in range(2)]
            assert [all_.connections.stands(each.id) for each in both] == [False, True]
            assert [each.id for each in all_.rows.all()] == [both[1].id]
            assert server.taken_back() == []
            (line,) = all_.book.of("account.disconnected")
            assert (line.fields["account_id"], line.fields["by"]) == (both[0].id, "replaced")

    asyncio.run(go())


def test_a_provider_that_is_down_ends_no_account(tmp_path: Path, server: AuthServer) -> None:
    """Nor does one that does not know the gateway: only a refused refresh token does."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            server.lifetime = 1
            account = await all_.connections.keep(ANN, "mine", "bot", await all_.given("ann"))
            for status in (503, 401, 400):
                server.status = status
                with pytest.raises(NoToken):
                    await all_.connections.token(account)
            server.status = 200
            assert await all_.connections.token(account) is not None

    asyncio.run(go())


def test_links_and_journeys_run_out(tmp_path: Path, server: AuthServer) -> None:
    """After ten minutes; and a link is given again only while half its time is left."""

    async def go() -> None:
        async with granting(tmp_path, server) as all_:
            ann = Principal("bot", "default", "ann")
            link = all_.connector.start(ann, "mine")
            ticket = link.rpartition("/")[2]
            all_.late[0] = 290
            assert all_.connector.start(ann, "mine") == link
            assert all_.connector.start(Principal("bot", "default", "bob"), "mine") != link
            all_.late[0] = 310
            newer = all_.connector.start(ann, "mine")
            assert newer != link
            assert all_.connector.offer(ticket).person == ANN
            all_.late[0] = 601
            with pytest.raises(NotConnected):
                all_.connector.go(ticket, "b" * 43)
            url = all_.connector.go(newer.rpartition("/")[2], "b" * 43)
            state = re.search("state=([^&]+)", url)
            assert state is not None
            assert "code_challenge_method=S256" in url
            all_.late[0] = 1202
            with pytest.raises(NotConnected):
                await all_.connector.finish({"state": state.group(1), "code": "c"}, "b" * 43)
            for name in ("own", "none"):
                with pytest.raises(Refusal):
                    all_.connector.start(ann, name)

    asyncio.run(go())
