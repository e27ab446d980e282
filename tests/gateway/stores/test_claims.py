"""One contract for every store of idempotency keys: one call has a key, and what came of it is told until its time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.admission import Ask, Claim
from tests.gateway.stores.redis_life import ask
from tests.gateway.stores.stores import KINDS, Life, Store, made, sealing

KEPT = b'{"v":1,"text":"paid 5 to the canary account"}'
SESSION, TENANT = "u_1", "t"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of every kind."""
    return made(request, tmp_path)


def claim_of(one: Ask) -> Claim:
    """The claim that it asks for."""
    assert one.claim is not None
    return one.claim


async def took(life: Life, call: str = "c1", now: float = 1000.0) -> Ask:
    """A call that has the key."""
    one = ask(call, now, claim="k")
    assert (await life.counters.take(one)).kind is None
    return one


def test_of_many_calls_with_one_key_one_gets_it(store: Store) -> None:
    """The others are told that another has it, and take nothing."""

    async def go(life: Life) -> None:
        asks = [ask(f"c{n}", claim="k", slots={"s": 100}) for n in range(60)]
        taken = await asyncio.gather(*(life.counters.take(each) for each in asks))
        assert sorted(got.kind or "" for got in taken) == ["", *["claimed"] * 59]
        there = await life.counters.find("k")
        assert there is not None
        assert (there.call_id, there.state) == (asks[[got.kind for got in taken].index(None)].call_id, "in_progress")
        assert all(got.claimed is None or got.claimed.call_id == there.call_id for got in taken)

    store.run(go)


def test_keys_are_apart(store: Store) -> None:
    """Whose key it is, is in its digest: another digest is another key."""

    async def go(life: Life) -> None:
        await took(life)
        assert (await life.counters.take(ask("c2", claim="another"))).kind is None
        assert await life.counters.find("a third") is None

    store.run(go)


def test_an_ended_call_is_told_to_its_repeats(store: Store) -> None:
    """As bytes, just as they were kept; and the key is not given to another call."""

    async def go(life: Life) -> None:
        one = await took(life)
        life.counters.settle(one, await life.counters.take(one), "done", {})
        await life.told()
        there = await life.counters.find("k")
        assert there is not None
        assert there.state == "in_progress"
        await life.counters.close(claim_of(one), "c1", KEPT, SESSION, TENANT)
        there = await life.counters.find("k")
        assert there is not None
        assert (there.state, there.kept, there.fingerprint) == ("done", KEPT, "print")
        assert (await life.counters.take(ask("c2", claim="k"))).kind == "claimed"

    store.run(go)


def test_only_the_call_that_has_a_key_can_end_it(store: Store) -> None:
    """Another one's end, doubt or release changes nothing."""

    async def go(life: Life) -> None:
        one = await took(life)
        await life.counters.close(claim_of(one), "c2", KEPT, SESSION, TENANT)
        await life.counters.doubt(claim_of(one), "c2")
        assert not await life.counters.release("k", "c2")
        assert not await life.counters.release("unknown", "c1")
        there = await life.counters.find("k")
        assert there is not None
        assert (there.call_id, there.state) == ("c1", "in_progress")

    store.run(go)


def test_a_key_in_doubt_can_be_settled_either_way(store: Store) -> None:
    """Known by now that it did not happen, it is free; known how it ended, that is told."""

    async def go(life: Life) -> None:
        one = await took(life)
        await life.counters.doubt(claim_of(one), "c1")
        there = await life.counters.find("k")
        assert there is not None
        assert there.state == "unknown"
        assert await life.counters.release("k", "c1")
        assert await life.counters.find("k") is None
        two = await took(life, "c2")
        await life.counters.doubt(claim_of(two), "c2")
        await life.counters.close(claim_of(two), "c2", KEPT, SESSION, TENANT)
        there = await life.counters.find("k")
        assert there is not None
        assert (there.call_id, there.state, there.kept) == ("c2", "done", KEPT)

    store.run(go)


def test_a_key_is_free_again_when_its_time_is_over(store: Store) -> None:
    """Until then nobody gets it; one in progress is given up on before, and is in doubt."""

    async def go(life: Life) -> None:
        one = await took(life)
        there = await life.counters.find("k")
        assert there is not None
        store.now = there.until + 1.0
        there = await life.counters.find("k")
        assert there is not None
        assert there.state in ("unknown", "in_progress")
        assert there.until < store.now
        assert (await life.counters.take(ask("c2", store.now, claim="k"))).kind == "claimed"
        store.now = one.now + claim_of(one).ttl + 1.0
        assert await life.counters.find("k") is None
        await took(life, "c3", store.now)

    store.run(go)


def test_what_was_erased_is_not_told_but_that_it_was_done_is(store: Store) -> None:
    """With the content of its session the outcome is gone; the key is still that of a call that was made."""

    async def go(life: Life) -> None:
        one = await took(life)
        await life.counters.close(claim_of(one), "c1", KEPT, SESSION, TENANT)
        life.counters.erased(["u_other"])
        await life.told()
        there = await life.counters.find("k")
        assert there is not None
        assert there.kept == KEPT
        life.counters.erased([SESSION])
        await life.told()
        there = await life.counters.find("k")
        assert there is not None
        assert (there.state, there.kept) == ("done", None)

    store.run(go)


def test_keys_outlive_the_process(store: Store) -> None:
    """One that ended is told in the next life; one that was in progress is not given to another call."""
    if not store.lasting:
        return

    async def first(life: Life) -> None:
        one = await took(life)
        await life.counters.close(claim_of(one), "c1", KEPT, SESSION, TENANT)
        assert (await life.counters.take(ask("c2", claim="running"))).kind is None

    async def second(life: Life) -> None:
        there = await life.counters.find("k")
        assert there is not None
        assert (there.call_id, there.kept) == ("c1", KEPT)
        assert (await life.counters.take(ask("c3", claim="running"))).kind == "claimed"

    store.run(first)
    store.run(second)


def test_an_outcome_is_in_no_file_in_plain_and_goes_with_the_key_of_its_session(tmp_path: Path) -> None:
    """Sealed like the rest of the session's content: once its key is gone, nobody can read it, told so or not."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        one = await took(life)
        await life.counters.close(claim_of(one), "c1", KEPT, SESSION, TENANT)

    async def after(life: Life) -> None:
        there = await life.counters.find("k")
        assert there is not None
        assert (there.state, there.kept) == ("done", None)

    store.run(go)
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    with sealing(tmp_path) as contents:
        asyncio.run(contents.erase([SESSION]))
    store.run(after)


def test_any_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    """Text or not."""
    store, odd = Store("sqlite", tmp_path, None), bytes(range(256)) + "ü\ud800".encode(errors="surrogatepass")

    async def go(life: Life) -> None:
        one = await took(life)
        await life.counters.close(claim_of(one), "c1", odd, SESSION, TENANT)
        there = await life.counters.find("k")
        assert there is not None
        assert there.kept == odd

    store.run(go)
