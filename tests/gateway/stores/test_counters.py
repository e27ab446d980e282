"""One contract for every store of counters: what a call asks for is taken together or not at all, and counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.admission import Account, Ask, Bucket, Dimension, Slot, Taken
from gateway.aggregates import Cell, Ended, Entry, Level, Reservation
from gateway.stores.counters import MemoryCounters
from gateway.stores.counters import MemoryCounters as Counters
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.tool import Rate
from tests.gateway.stores.redis_life import ask as asking
from tests.gateway.stores.redis_life import key_of
from tests.gateway.stores.stores import KINDS, Life, Store, made, sealing

CALLS = Cell("state.calls", "p\x1fcalls\x1f1\x1fann", "count", 60.0)
SPENT = Cell("state.spent", "p\x1fspent\x1f1\x1fann", "sum", 60.0)
DONE = Cell("state.done", "p\x1fdone\x1f1\x1fann", "formerly", 60.0)
ENTRIES = (Entry(CALLS), Entry(SPENT, Decimal("2.5")), Entry(DONE))


@pytest.fixture(params=["memory", "sqlite"])
def counters(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counters]:
    """Fresh counters of each kind that one process has for itself; `test_redis_counters.py` compares the third."""
    if request.param == "memory":
        yield MemoryCounters()
        return
    with sealing(tmp_path) as contents:
        kept = SqliteCounters(tmp_path / "limits.db", contents)
        yield kept
        kept.shut()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of every kind."""
    return made(request, tmp_path)


def asked(counters: Counters, call: str, at: float = 100.0) -> Reservation:
    """What a call reserves that has just read all three."""
    levels = counters.levels([CALLS, SPENT, DONE], at)
    return Reservation(call, at, tuple((cell, levels[cell.key]) for cell in (CALLS, SPENT, DONE)), ENTRIES)


def ask(one: Reservation, buckets: Sequence[Bucket] = (), slots: Sequence[Slot] = ()) -> Ask:
    """What a call asks for that reserves this."""
    return Ask(one.call_id, 0.0, 30.0, tuple(buckets), tuple(slots), reservation=one)


def took(counters: Counters, one: Reservation, buckets: Sequence[Bucket] = (), slots: Sequence[Slot] = ()) -> Taken:
    """The answer to it."""
    return asyncio.run(counters.take(ask(one, buckets, slots)))


def end(counters: Counters, one: Reservation, ended: Ended, slots: Sequence[Slot] = ()) -> None:
    """Settles it."""
    counters.settle(ask(one, slots=slots), Taken(), ended, {})


def values(counters: Counters, now: float = 101.0) -> list[object]:
    """The three levels."""
    levels = counters.levels([CALLS, SPENT, DONE], now)
    return [levels[cell.key].value for cell in (CALLS, SPENT, DONE)]


def test_what_was_never_reserved_is_nothing(counters: Counters) -> None:
    """Each kind has its zero; for a time since, that is infinity."""
    since, words = Cell("state.a", "a", "since", 60.0), Cell("state.b", "b", "count_distinct", 60.0)
    assert values(counters) == [0, 0.0, False]
    levels = counters.levels([since, words], 0.0)
    assert levels == {"a": Level(float("inf"), 0), "b": Level(0, 0)}


@pytest.mark.parametrize(
    ("ended", "left"),
    [("refused", [0, 0.0, False]), ("failed", [1, 2.5, False]), ("done", [1, 2.5, True])],
)
def test_how_a_call_ends_says_what_stays(counters: Counters, ended: Ended, left: list[object]) -> None:
    """Reserved at once; given back where nothing ran; only what was done was formerly done."""
    one = asked(counters, "c1")
    assert took(counters, one).kind is None
    assert values(counters) == [1, 2.5, False]
    assert counters.levels([DONE], 101.0)[DONE.key].pending
    end(counters, one, ended)
    assert values(counters) == left
    assert not counters.levels([DONE], 101.0)[DONE.key].pending
    assert values(counters, 160.0) == [0, 0.0, False]


def test_what_was_read_must_still_stand(counters: Counters) -> None:
    """Of two calls that read the same, the second is sent back to be decided again; then it may."""
    first, second = asked(counters, "c1"), asked(counters, "c2")
    assert took(counters, first).kind is None
    assert took(counters, second).kind == "changed"
    assert values(counters) == [1, 2.5, False]
    assert took(counters, asked(counters, "c2")).kind is None
    assert values(counters) == [2, 5.0, False]


def test_a_refund_changes_what_was_read_as_well(counters: Counters) -> None:
    """A call that was decided on what is not there any more is decided again, too."""
    one = asked(counters, "c1")
    took(counters, one)
    read = asked(counters, "c2")
    end(counters, one, "refused")
    assert took(counters, read).kind == "changed"


@pytest.mark.parametrize("short", ["concurrency", "rate", "changed"])
def test_nothing_is_taken_when_anything_refuses(counters: Counters, short: str) -> None:
    """Neither a slot nor a rate nor state; concurrency is looked at first, then rates, then what was read."""
    slot, bucket = [Slot("slot", 1)], [Bucket("bucket", Rate(1, 60.0), "tool")]
    stale = asked(counters, "c_stale")
    busy = slot if short == "concurrency" else []
    spent = bucket if short in ("concurrency", "rate") else []
    first = asked(counters, "c_before")
    took(counters, first, spent, busy)
    before = values(counters)
    assert took(counters, stale, bucket, slot).kind == short
    assert values(counters) == before
    end(counters, first, "failed", busy)
    assert took(counters, asked(counters, "c_after"), [] if spent else bucket, slot).kind is None
    assert values(counters) == [2, 5.0, False]


def test_a_call_that_only_reads_reserves_nothing(counters: Counters) -> None:
    """It neither changes a cell nor leaves anything to settle."""
    reads = ((CALLS, counters.levels([CALLS], 0.0)[CALLS.key]),)
    for number in range(2):
        one = Reservation(f"c{number}", 0.0, reads)
        assert took(counters, one).kind is None
        end(counters, one, "done")
    assert values(counters) == [0, 0.0, False]


def plain(call: str, now: float, buckets: Sequence[Bucket] = (), slots: Sequence[Slot] = ()) -> Ask:
    """What a call asks for that reserves no state."""
    return Ask(call, now, 30.0, tuple(buckets), tuple(slots))


def test_a_rate_lets_through_exactly_its_calls_then_says_when_to_come_again(counters: Counters) -> None:
    """Thirty in a minute from rest, the thirty-first after two seconds; how many are left is told each time."""
    bucket = [Bucket("k", Rate(30, 60.0), "tool")]
    taken = [asyncio.run(counters.take(plain(f"c{n}", 1000.0, bucket))) for n in range(31)]
    assert [t.refused for t in taken] == [None] * 30 + ["k"]
    assert [t.standings[0].left for t in taken] == [*range(29, -1, -1), 0]
    assert round(taken[-1].retry_after, 6) == 2.0
    assert asyncio.run(counters.take(plain("c32", 1002.0, bucket))).refused is None
    assert asyncio.run(counters.take(plain("c33", 1002.0, bucket))).refused == "k"


def test_all_buckets_are_taken_or_none(counters: Counters) -> None:
    """A call refused by its second bucket has not spent its first."""
    wide, narrow = Bucket("wide", Rate(2, 60.0), "tool"), Bucket("narrow", Rate(1, 60.0), "session")
    assert asyncio.run(counters.take(plain("c1", 0.0, [wide, narrow]))).refused is None
    assert asyncio.run(counters.take(plain("c2", 0.0, [wide, narrow]))).refused == "narrow"
    assert asyncio.run(counters.take(plain("c3", 0.0, [wide]))).refused is None


def test_a_slot_is_free_again_when_its_call_ends(counters: Counters) -> None:
    """Slots count running calls only, a refused call holds nothing, and the same call asks twice for one slot."""
    slot = [Slot("k", 1)]
    assert asyncio.run(counters.take(plain("c1", 0.0, (), slot))).refused is None
    assert asyncio.run(counters.take(plain("c1", 0.0, (), slot))).refused is None
    assert asyncio.run(counters.take(plain("c2", 0.0, (), slot))).kind == "concurrency"
    for _ in range(2):
        counters.settle(plain("c1", 0.0, (), slot), Taken(), "done", {})
    assert asyncio.run(counters.take(plain("c2", 0.0, (), slot))).refused is None


# ── every store, many at once ────────────────────────────────────────────────────────────────────────────────────────

N = 12


async def raced(life: Life, asks: Sequence[Ask]) -> list[Taken]:
    """All of them at once."""
    return list(await asyncio.gather(*(life.counters.take(each) for each in asks)))


def test_a_rate_is_exact_under_a_race(store: Store) -> None:
    """Of ten times as many calls at once as there is room for, just as many get through."""

    async def go(life: Life) -> list[Taken]:
        return await raced(life, [asking(f"c{n}", rates={"r": (N, 3600.0)}) for n in range(10 * N)])

    taken = store.run(go)
    assert sum(each.kind is None for each in taken) == N
    assert {each.kind for each in taken} == {None, "rate"}


def test_a_rate_that_was_declared_otherwise_holds_nobody_longer_than_the_new_one(store: Store) -> None:
    """Ten a day are spent, then it is sixty a minute: one call fits at once, and the next after a second. Nor does a
    clock that is set back by hours keep anybody out for them."""

    async def go(life: Life) -> list[str | None]:
        for n in range(10):
            assert (await life.counters.take(asking(f"c{n}", store.now, rates={"r": (10, 86400.0)}))).kind is None
        found = []
        for n, ahead in enumerate([0.0, 0.0, 1.0, 0.0, -7200.0, 0.0, 1.0, 0.0]):
            store.now += ahead
            found.append((await life.counters.take(asking(f"d{n}", store.now, rates={"r": (60, 60.0)}))).kind)
        return found

    store.now = 100_000.0
    assert store.run(go) == [None, "rate"] * 4


def test_slots_are_exact_under_a_race_and_come_back(store: Store) -> None:
    """As many run as there are places; when they end, so many more may."""

    async def go(life: Life) -> None:
        for round_ in range(2):
            asks = [asking(f"c{round_}-{n}", slots={"s": N}) for n in range(10 * N)]
            taken = await raced(life, asks)
            let = [(one, got) for one, got in zip(asks, taken, strict=True) if got.kind is None]
            assert len(let) == N
            assert {got.kind for got in taken} == {None, "concurrency"}
            for one, got in let:
                life.counters.settle(one, got, "done", {})
            await life.told()

    store.run(go)


@pytest.mark.parametrize("dimension", ["calls", "cost"])
def test_a_budget_of_whole_amounts_is_exact_under_a_race(store: Store, dimension: Dimension) -> None:
    """What is asked for is given whole or not at all; parent and child are drawn on together."""
    each = 1 if dimension == "calls" else 7

    async def go(life: Life) -> None:
        accounts = {"child": {dimension: 2 * N * each}, "parent": {dimension: N * each}}
        asks = [asking(f"c{n}", accounts=accounts, wants={dimension: each}) for n in range(10 * N)]
        taken = await raced(life, asks)
        assert sum(got.kind is None for got in taken) == N
        assert {got.kind for got in taken} == {None, "budget"}
        used = await life.counters.used([key_of("child"), key_of("parent")])
        assert [amounts[dimension] for amounts in used.values()] == [N * each, N * each]

    store.run(go)


@pytest.mark.parametrize("dimension", ["wall", "sandbox", "bytes"])
def test_a_budget_of_which_less_is_of_use_is_given_to_the_last_bit(store: Store, dimension: Dimension) -> None:
    """The last call gets what is left; nobody after it gets anything, and what they got adds up to all of it."""

    async def go(life: Life) -> None:
        accounts = {"a": {dimension: N * 100 + 33}}
        asks = [asking(f"c{n}", accounts=accounts, wants={dimension: 100}) for n in range(10 * N)]
        taken = await raced(life, asks)
        granted = sorted(got.granted[dimension] for got in taken if got.kind is None)
        assert granted == [33, *[100] * N]
        assert (await life.counters.used([key_of("a")]))[key_of("a")][dimension] == N * 100 + 33

    store.run(go)


def test_what_only_the_client_knows_of_is_added(store: Store) -> None:
    """Tokens are reported; the call after they are used up is refused, and passing four fifths is told once."""

    async def go(life: Life) -> None:
        account = Account(key_of("a"), "session", {"tokens": 100}, 3600.0)
        one = asking("c1", accounts={"a": {"tokens": 100}}, wants={"calls": 1})
        assert (await life.counters.take(one)).kind is None
        told = [await life.counters.report([account], {"tokens": amount}) for amount in (79, 1, 20)]
        assert [[(each.dimension, each.used) for each in some] for some in told] == [[], [("tokens", 80)], []]
        two = asking("c2", accounts={"a": {"tokens": 100}}, wants={"calls": 1})
        assert (await life.counters.take(two)).kind == "budget"

    store.run(go)


def test_nothing_is_taken_when_the_budget_has_not_enough(store: Store) -> None:
    """Neither rate nor slot nor claim: a call that asks for less gets all of them."""

    async def go(life: Life) -> None:
        rest = {"rates": {"r": (1, 3600.0)}, "slots": {"s": 1}, "claim": "k"}
        accounts = {"a": {"cost": 5}}
        much = asking("c1", accounts=accounts, wants={"cost": 6}, **rest)
        assert (await life.counters.take(much)).kind == "budget"
        assert await life.counters.find("k") is None
        little = asking("c2", accounts=accounts, wants={"cost": 5}, **rest)
        assert (await life.counters.take(little)).kind is None

    store.run(go)


def test_a_call_counts_once_however_often_it_asks_and_settles(store: Store) -> None:
    """Its id is the token: asking again gives the same answer, settling again changes nothing."""

    async def go(life: Life) -> None:
        one = asking("c1", rates={"r": (5, 3600.0)}, accounts={"a": {"wall": 100}}, wants={"calls": 1, "wall": 60})
        first, *again = await raced(life, [one] * 5)
        assert all((got.kind, got.granted) == (None, first.granted) for got in again)
        for _ in range(3):
            life.counters.settle(one, first, "done", {"calls": 1, "wall": 10})
        await life.told()
        assert (await life.counters.used([key_of("a")]))[key_of("a")] == {"calls": 1, "wall": 10}
        left = await life.counters.take(asking("c2", rates={"r": (5, 3600.0)}))
        assert left.standings[0].left == 3

    store.run(go)


def test_a_refused_call_gives_back_all_but_its_rates(store: Store) -> None:
    """Nothing was dispatched: budget, slot and claim are free again; the rate is spent."""

    async def go(life: Life) -> None:
        asked_for = {"rates": {"r": (2, 3600.0)}, "slots": {"s": 1}, "accounts": {"a": {"calls": 1}}, "claim": "k"}
        for call in ("c1", "c2"):
            one = asking(call, wants={"calls": 1}, **asked_for)
            got = await life.counters.take(one)
            assert got.kind is None
            life.counters.settle(one, got, "refused", {})
            await life.told()
            assert await life.counters.find("k") is None
        assert (await life.counters.take(asking("c3", wants={"calls": 1}, **asked_for))).kind == "rate"

    store.run(go)


def test_accounts_of_one_owner_are_not_those_of_another(store: Store) -> None:
    """What one tenant has used up is not missing to the next."""

    async def go(life: Life) -> None:
        for owner in ("t1", "t2"):
            one = asking(owner, accounts={owner: {"calls": 1}}, wants={"calls": 1})
            assert (await life.counters.take(one)).kind is None
        assert (await life.counters.used([key_of("t1"), key_of("t3")])).get(key_of("t3"), {}) == {}

    store.run(go)


def test_what_was_counted_is_counted_in_the_next_life(store: Store) -> None:
    """After a restart a rate that was spent is spent, and a budget that was used up is; a slot is free."""
    if not store.lasting:
        return
    given = {"rates": {"r": (2, 3600.0)}, "accounts": {"a": {"calls": 5}}, "slots": {"s": 1}}

    async def first(life: Life) -> None:
        one = asking("c1", wants={"calls": 3}, **given)
        life.counters.settle(one, await life.counters.take(one), "done", {"calls": 3})
        await life.told()

    async def second(life: Life) -> None:
        assert (await life.counters.used([key_of("a")]))[key_of("a")] == {"calls": 3}
        assert (await life.counters.take(asking("c2", wants={"calls": 3}, **given))).kind == "budget"
        got = await life.counters.take(asking("c3", wants={"calls": 2}, **given))
        assert (got.kind, got.standings[0].left) == (None, 0)

    store.run(first)
    store.run(second)
