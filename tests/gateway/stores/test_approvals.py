"""One contract for every store of calls that wait for a person: kept until answered, used once, of one tenant."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.model import Refusal
from gateway.obligations import Approval
from gateway.parked import Answer, Parked, Preview
from gateway.stores.sqlite import State
from gateway.stores.sqlite_approvals import SqliteApprovals
from tests.gateway.stores.stores import KINDS, Life, Store, made, sealing

BEGUN = 4_000_000_000.0  # ahead of every clock, so that no server drops what waits
MOST = 3


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of every kind."""
    return made(request, tmp_path)


def parked(number: int = 1, tenant: str = "t", at: float = BEGUN) -> Parked:
    """One that waits for two people, for a minute."""
    return Parked(
        id=f"ap_{tenant}_{number}",
        binding=f"{tenant} b{number}",
        call_id=f"c_{number}",
        tool="pay",
        tool_digest="sha256:1",
        tenant=tenant,
        owner=f"{tenant}\x1fa\x1f",
        agent="a",
        user=None,
        token_id="k_1",
        session="u_1",
        needs=(Approval("amount", ("lead", "user:eve"), 60.0), Approval("four-eyes", ("ops",), 60.0)),
        asked_at=at,
        expires_at=at + 60.0,
        arguments={"to": "the canary account", "amount": 5},
        preview=Preview("5 to the canary account", '"etag"'),
        actors=("desk", "bot"),
    )


def said(*rules: str, yes: bool = True, at: float = BEGUN + 1.0, by: str = "eve") -> Answer:
    """What a person says of these rules."""
    return Answer(yes, rules, by, "k_2", at, "rest", "because")


async def granted(life: Life, number: int = 1) -> Parked:
    """One that everybody said yes to."""
    one = await life.approvals.ask(parked(number), MOST)
    done = await life.approvals.answer("t", one.id, said("amount", "four-eyes"))
    assert done is not None
    assert done.state == "granted"
    return done


def test_what_is_asked_for_is_found_as_it_was(store: Store) -> None:
    """By id and by binding, with all its parts."""

    async def go(life: Life) -> None:
        one = parked()
        assert await life.approvals.ask(one, MOST) == one
        assert await life.approvals.get("t", one.id) == one
        assert await life.approvals.bound(one.binding, BEGUN) == one
        assert list(await life.approvals.all("t")) == [one]

    store.run(go)


def test_another_tenants_does_not_exist(store: Store) -> None:
    """It is neither seen nor answered nor used; only who asks for all tenants sees all."""

    async def go(life: Life) -> None:
        mine, theirs = parked(), parked(tenant="other")
        for one in (mine, theirs):
            await life.approvals.ask(one, MOST)
        assert await life.approvals.get("t", theirs.id) is None
        assert await life.approvals.answer("t", theirs.id, said("amount", "four-eyes")) is None
        await life.approvals.answer("other", theirs.id, said("amount", "four-eyes"))
        assert not await life.approvals.use("t", theirs.id, "c_9", BEGUN)
        assert [each.id for each in await life.approvals.all("t")] == [mine.id]
        assert {each.id for each in await life.approvals.all(None)} == {mine.id, theirs.id}

    store.run(go)


def test_one_binding_is_asked_about_once(store: Store) -> None:
    """Whoever calls again gets the one that is pending, however many do at once; it counts as one."""

    async def go(life: Life) -> None:
        asked = [replace(parked(), id=f"ap_{n}", call_id=f"c_{n}") for n in range(20)]
        got = await asyncio.gather(*(life.approvals.ask(one, 1) for one in asked))
        assert len({each.id for each in got}) == 1
        assert len(await life.approvals.all("t")) == 1

    store.run(go)


def test_a_caller_has_only_so_many_that_wait(store: Store) -> None:
    """One more is refused with the time after which there is room, another caller's is not, nor one that is answered's
    place kept."""

    async def go(life: Life) -> None:
        asks = [life.approvals.ask(parked(n), MOST) for n in range(3 * MOST)]
        got = await asyncio.gather(*asks, return_exceptions=True)
        refused = [each.problem for each in got if isinstance(each, Refusal)]
        assert len(refused) == 2 * MOST
        assert {each.code for each in refused} == {"rate_limited"}
        assert refused[0].retry_after_ms == 60_001
        await life.approvals.ask(parked(tenant="other"), MOST)
        first = next(each for each in got if isinstance(each, Parked))
        await life.approvals.answer("t", first.id, said(yes=False))
        assert (await life.approvals.ask(parked(99), MOST)).id == parked(99).id

    store.run(go)


def test_each_rule_needs_its_yes_and_one_no_is_enough(store: Store) -> None:
    """A yes to the last open rule grants; a no denies; what is granted or denied is not answered again."""

    async def go(life: Life) -> None:
        one, two = [await life.approvals.ask(parked(n), MOST) for n in (1, 2)]
        half = await life.approvals.answer("t", one.id, said("amount"))
        assert half is not None
        assert (half.state, [each.rule for each in half.open_rules()]) == ("pending", ["four-eyes"])
        whole = await life.approvals.answer("t", one.id, said("four-eyes", by="ann"))
        assert whole is not None
        assert (whole.state, [each.person for each in whole.answers]) == ("granted", ["eve", "ann"])
        assert await life.approvals.get("t", one.id) == whole
        no = await life.approvals.answer("t", two.id, said(yes=False))
        assert no is not None
        assert no.state == "denied"
        for each in (one, two):
            assert await life.approvals.answer("t", each.id, said("amount", "four-eyes")) is None
        assert not await life.approvals.use("t", two.id, "c_9", BEGUN)

    store.run(go)


def test_answers_that_come_at_once_both_count(store: Store) -> None:
    """Neither is lost: together they grant it."""

    async def go(life: Life) -> None:
        one = await life.approvals.ask(parked(), MOST)
        await asyncio.gather(*(life.approvals.answer("t", one.id, said(rule)) for rule in ("amount", "four-eyes")))
        there = await life.approvals.get("t", one.id)
        assert there is not None
        assert (there.state, len(there.answers)) == ("granted", 2)

    store.run(go)


def test_it_is_used_by_one_call_and_given_back_by_that_one_only(store: Store) -> None:
    """Of many at once one gets through; not dispatched, it may be used again; pending, by nobody."""

    async def go(life: Life) -> None:
        waiting = await life.approvals.ask(parked(2), MOST)
        assert not await life.approvals.use("t", waiting.id, "c_9", BEGUN)
        one = await granted(life)
        used = await asyncio.gather(*(life.approvals.use("t", one.id, f"c_{n}", BEGUN + 2.0) for n in range(40)))
        assert used.count(True) == 1
        winner = f"c_{used.index(True)}"
        there = await life.approvals.get("t", one.id)
        assert there is not None
        assert (there.state, there.used_by) == ("used", winner)
        assert await life.approvals.bound(one.binding, BEGUN + 2.0) is None
        await life.approvals.restore("t", one.id, "c_another")
        assert not await life.approvals.use("t", one.id, "c_98", BEGUN + 2.0)
        await life.approvals.restore("t", one.id, winner)
        assert await life.approvals.use("t", one.id, "c_99", BEGUN + 2.0)

    store.run(go)


def test_after_its_time_it_is_neither_answered_nor_used(store: Store) -> None:
    """The same call is then asked about anew."""

    async def go(life: Life) -> None:
        one = await granted(life)
        two = await life.approvals.ask(parked(2), MOST)
        late = BEGUN + 60.0
        assert not await life.approvals.use("t", one.id, "c_9", late)
        assert await life.approvals.answer("t", two.id, said("amount", "four-eyes", at=late)) is None
        assert await life.approvals.bound(one.binding, late) is None
        anew = replace(parked(2, at=late), id="ap_anew")
        assert (await life.approvals.ask(anew, 1)).id == "ap_anew"

    store.run(go)


def test_what_waits_outlives_the_process(store: Store) -> None:
    """Granted before a restart, it is used after it, once."""
    if not store.lasting:
        return

    async def first(life: Life) -> Parked:
        return await granted(life)

    one = store.run(first)

    async def second(life: Life) -> None:
        assert await life.approvals.get("t", one.id) == one
        assert await life.approvals.use("t", one.id, "c_2", BEGUN + 2.0)
        assert not await life.approvals.use("t", one.id, "c_3", BEGUN + 2.0)

    store.run(second)


def test_another_process_may_answer(tmp_path: Path) -> None:
    """What the command line writes into the file, the gateway goes by with its next look."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        one = await life.approvals.ask(parked(), MOST)
        with sealing(tmp_path) as contents, closing(State(tmp_path / "state.db")) as theirs:
            other = SqliteApprovals(theirs, contents)
            seen = await other.get("t", one.id)
            assert seen == one
            await other.answer("t", one.id, said("amount", "four-eyes"))
        assert await life.approvals.use("t", one.id, "c_2", BEGUN + 2.0)

    store.run(go)


def test_arguments_are_sealed_and_gone_with_the_content_of_their_session(tmp_path: Path) -> None:
    """In no file in plain; once the key is gone, what waits is known without what it would do."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        await life.approvals.ask(parked(), MOST)

    async def after(life: Life) -> None:
        there = await life.approvals.get("t", parked().id)
        assert there == replace(parked(), arguments=None, preview=None)

    store.run(go)
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    with sealing(tmp_path) as contents:
        asyncio.run(contents.erase(["u_1"]))
    store.run(after)

    async def erased(life: Life) -> None:
        life.approvals.erased(["u_1"])
        await after(life)

    store.run(erased)


def test_a_file_that_cannot_be_used_is_a_refusal(tmp_path: Path) -> None:
    """A database that is closed is no traceback."""
    with sealing(tmp_path) as contents:
        state = State(tmp_path / "state.db")
        approvals = SqliteApprovals(state, contents)
        state.close()
        for asking in (approvals.get("t", "ap_1"), approvals.use("t", "ap_1", "c", 1.0), approvals.all(None)):
            with pytest.raises(Refusal) as refused:
                asyncio.run(asking)
            assert refused.value.problem.code == "overloaded"
        with pytest.raises(Refusal) as refused:
            asyncio.run(approvals.ask(parked(), MOST))
        assert refused.value.problem.code == "overloaded"
