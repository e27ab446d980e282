"""What several gateways count in one Redis holds for all of them together, and is counted once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from gateway.admission import Account, Claim, Claimed
from gateway.aggregates import OF_VALUE, Cell, Entry, Reservation
from gateway.reliability.cells import MOST_VALUES, Cells
from gateway.reliability.windows import MOST
from gateway.stores.redis_counters import RedisCounters
from gateway.stores.redis_words import happened
from tests.gateway.stores.redis_life import ask, asking, key_of, opened
from tests.redisserver import RedisServer

PATIENCE = 10.0
CALLS = Cell("state.calls", "calls\x1fann", "count", 3600.0)
SPENT = Cell("state.spent", "spent\x1fann", "sum", 3600.0)
CLAIM = Claim("key", "print", "forwarded", 3600.0)
NOW = 1000.0


async def reading(counters: RedisCounters, call: str, *cells: Cell) -> Reservation:
    """What a call reserves that has just read these cells, and adds one to the first."""
    levels = await counters.look(cells, NOW)
    return Reservation(call, NOW, tuple((cell, levels[cell.key]) for cell in cells), (Entry(cells[0]),))


def test_limits_hold_over_gateways_together(redis_server: RedisServer) -> None:
    """Of 40 calls at once by two gateways exactly as many get a place, a rate and a budget as one limit allows."""

    async def go() -> None:
        async with opened(redis_server) as a, opened(redis_server, "two") as b:
            for limit in ({"rates": {"r": (7, 3600.0)}}, {"slots": {"s": 7}}, {"accounts": {"b": {"calls": 7}}}):
                asks = [ask(f"{next(iter(limit))}{n}", wants={"calls": 1}, **limit) for n in range(40)]  # type: ignore[arg-type]  # one of three shapes
                got = await asyncio.gather(*((a, b)[n % 2].take(each) for n, each in enumerate(asks)))
                assert sum(taken.kind is None for taken in got) == 7

    asyncio.run(go())


def test_one_of_many_gets_a_key(redis_server: RedisServer) -> None:
    """The others are told who has it; the outcome is what the first one kept, for every gateway."""

    async def go() -> None:
        async with opened(redis_server) as a, opened(redis_server, "two") as b:
            got = await asyncio.gather(*((a, b)[n % 2].take(ask(f"c{n}", claim="key")) for n in range(20)))
            (first,) = (n for n, taken in enumerate(got) if taken.kind is None)
            others = [taken.claimed for taken in got if taken.kind == "claimed"]
            assert [each.call_id for each in others if each] == [f"c{first}"] * 19
            await a.close(CLAIM, f"c{first}", b"said \xff", "uid", "tenant")
            there = await b.find("key")
            assert there == Claimed(f"c{first}", "print", "done", there.until if there else 0, b"said \xff")
            b.erased(["uid"])
            await b.told()
            kept = await a.find("key")
            assert kept is not None
            assert (kept.state, kept.kept) == ("done", None)
            assert not await a.release("key", "another")
            assert await b.release("key", f"c{first}")
            assert await a.find("key") is None

    asyncio.run(go())


def test_what_was_read_has_to_stand(redis_server: RedisServer) -> None:
    """Of calls that read one state at the same moment, one is admitted, the others are to be decided again."""

    async def go() -> None:
        async with opened(redis_server) as a, opened(redis_server, "two") as b:
            asks = [ask(f"c{n}", reservation=await reading((a, b)[n % 2], f"c{n}", CALLS)) for n in range(20)]
            got = await asyncio.gather(*((a, b)[n % 2].take(each) for n, each in enumerate(asks)))
            assert [taken.kind for taken in got].count(None) == 1
            assert {taken.kind for taken in got} == {None, "changed"}

    asyncio.run(go())


def test_what_only_adds_never_conflicts(redis_server: RedisServer) -> None:
    """Calls that add to a state and read none of it are all admitted, and all of them count, for every gateway."""

    async def go() -> None:
        async with opened(redis_server) as a, opened(redis_server, "two") as b:
            adds = [Reservation(f"c{n}", NOW, (), (Entry(SPENT, Decimal("0.1")),)) for n in range(50)]
            asks = [ask(each.call_id, reservation=each) for each in adds]
            got = await asyncio.gather(*((a, b)[n % 2].take(each) for n, each in enumerate(asks)))
            assert {taken.kind for taken in got} == {None}
            assert (await a.look([SPENT], NOW))[SPENT.key].value == 5.0
            for n, (each, taken) in enumerate(zip(asks, got, strict=True)):
                (a, b)[n % 2].settle(each, taken, "refused" if n < 20 else "done", {})
            await asyncio.gather(a.told(), b.told())
            assert (await b.look([SPENT], NOW))[SPENT.key].value == 3.0

    asyncio.run(go())


def test_a_session_that_changed_is_looked_at_again(redis_server: RedisServer) -> None:
    """A call goes on under the version of its session that it was decided on; one that is not shared has none."""

    async def go() -> None:
        async with opened(redis_server) as counters, asking(redis_server) as redis:
            assert (await counters.take(ask("c1", seen=("u", 4)))).kind is None
            await redis.ask("HSET", "tg:session:u", "v", 5)
            assert (await counters.take(ask("c2", seen=("u", 4)))).kind == "session"
            assert (await counters.take(ask("c3", seen=("u", 5)))).kind is None

    asyncio.run(go())


def test_the_places_of_a_gateway_that_died_come_back(redis_server: RedisServer) -> None:
    """Nobody gives them back: they are free when the time of their calls is over."""

    async def go() -> None:
        async with opened(redis_server) as died:
            for n in range(3):
                assert (await died.take(ask(f"c{n}", slots={"s": 3}, lasts=0.3))).kind is None
        async with opened(redis_server, "two") as counters:
            assert (await counters.take(ask("d", slots={"s": 3}))).kind == "concurrency"
            await asyncio.sleep(0.35)
            assert (await counters.take(ask("e", slots={"s": 3}))).kind is None

    asyncio.run(go())


def test_an_account_warns_once(redis_server: RedisServer) -> None:
    """At four fifths, whether calls use it up or the client reports it."""

    async def go() -> None:
        async with opened(redis_server) as counters:
            most = {"a": {"calls": 5, "tokens": 100}}
            got = [await counters.take(ask(f"c{n}", accounts=most, wants={"calls": 1})) for n in range(6)]  # type: ignore[arg-type]  # mypy widens the names
            assert [[(each.dimension, each.used) for each in taken.warned] for taken in got[:5]] == [
                [],
                [],
                [],
                [("calls", 4)],
                [],
            ]
            assert got[5].kind == "budget"
            assert got[5].said.startswith("The budget of this session is used up")
            account = Account(key_of("a"), "session", {"tokens": 100}, 60.0)
            assert await counters.report([account], {"tokens": 79}) == []
            (warned,) = await counters.report([account], {"tokens": 11})
            assert warned.used == 90
            assert await counters.used([key_of("a"), "b"]) == {key_of("a"): {"calls": 5, "tokens": 90}, "b": {}}

    asyncio.run(go())


def test_an_owner_has_so_many_values(redis_server: RedisServer) -> None:
    """One more than are kept apart is `full`; a value that is there already goes on."""

    async def go() -> None:
        one = Cell("state.by", f"owner{OF_VALUE}one", "count", 60.0)
        other = Cell("state.by", f"owner{OF_VALUE}other", "count", 60.0)
        async with opened(redis_server) as counters, asking(redis_server) as redis:
            adds = [Reservation(f"c{n}", NOW, (), (Entry(cell),)) for n, cell in enumerate((one, other, one))]
            assert (await counters.take(ask("c0", reservation=adds[0]))).kind is None
            values = [word for n in range(MOST_VALUES) for word in (10**15, f"v{n}")]
            await redis.ask("ZADD", "tg:values:owner", *values)
            assert (await counters.take(ask("c1", reservation=adds[1]))).kind == "full"
            assert (await counters.take(ask("c2", reservation=adds[2]))).kind is None

    asyncio.run(go())


def test_scripts_that_redis_forgot_are_told_again(redis_server: RedisServer) -> None:
    """After SCRIPT FLUSH a call is taken and settled as before."""

    async def go() -> None:
        async with opened(redis_server) as counters, asking(redis_server) as redis:
            await redis.ask("SCRIPT", "FLUSH")
            taken = await counters.take(ask("c1", slots={"s": 1}))
            assert taken.kind is None
            await redis.ask("SCRIPT", "FLUSH")
            counters.settle(ask("c1", slots={"s": 1}), taken, "done", {})
            await counters.told()
            assert (await counters.take(ask("c2", slots={"s": 1}))).kind is None

    asyncio.run(go())


def test_the_past_is_added_once(redis_server: RedisServer) -> None:
    """What the ledger tells of calls is in Redis once, however often it is told, and with what is there already."""

    async def go() -> None:
        past = Cells()
        for n in range(MOST + 100):
            past.reserve(Reservation(f"p{n}", NOW - 600 + n / 100, (), (Entry(SPENT, Decimal("0.01")),)))
            past.settle(Reservation(f"p{n}", NOW), "done")
        async with opened(redis_server) as counters:
            latest = Reservation(f"p{MOST + 99}", NOW - 600 + (MOST + 99) / 100, (), (Entry(SPENT, Decimal("0.01")),))
            assert (await counters.take(ask(latest.call_id, reservation=latest))).kind is None
            for _ in "12":
                counters.adopt(past)
                await counters.told()
            assert (await counters.look([SPENT], NOW))[SPENT.key].value == (MOST + 100) / 100
            counters.restate(latest, "refused", Cells())
            await counters.told()
            assert (await counters.look([SPENT], NOW))[SPENT.key].value == (MOST + 99) / 100

    asyncio.run(go())


@pytest.mark.parametrize("cell", [CALLS, SPENT])
def test_a_full_cell_is_folded(redis_server: RedisServer, cell: Cell) -> None:
    """Beyond some thousand entries the oldest are kept in lumps: few entries, and the level as before."""

    async def go() -> None:
        key = f"tg:cell:{cell.key}"
        amount = Decimal("0.5") if cell.kind == "sum" else None
        members = {happened(f"p{n}", amount): NOW - 3000 + n / 10 for n in range(4 * MOST)}
        async with opened(redis_server) as counters, asking(redis_server) as redis:
            await redis.ask("ZADD", key, *(word for member, at in members.items() for word in (repr(at), member)))
            add = Reservation("c1", NOW, (), (Entry(cell, amount),))
            assert (await counters.take(ask("c1", reservation=add))).kind is None
            async with asyncio.timeout(PATIENCE):
                while await redis.ask("ZCARD", key) > MOST + 100:  # noqa: ASYNC110  # another program's state
                    await asyncio.sleep(0.01)
            level = (await counters.look([cell], NOW))[cell.key]
            assert level.value == (4 * MOST + 1) * (0.5 if amount else 1)

    asyncio.run(go())
