"""Redis stopped, hung, emptied, started anew under load: nothing over a limit, nothing twice, and it goes on again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.admission import Claim, Claimed
from gateway.model import Refusal
from gateway.reliability.counted import Counted, KeptClaim, Used
from gateway.stores.redis_counters import Past, RedisCounters
from gateway.stores.redis_outbox import Outbox
from gateway.stores.redis_scripts import link
from gateway.stores.redis_seeding import seeded
from gateway.stores.redis_words import claimed
from gateway.stores.resp import Address
from tests.gateway.stores.redis_life import ask, asking, key_of, opened
from tests.gateway.stores.redis_load import FAULTS, PLACES, suffer
from tests.redisserver import RedisServer

PATIENCE = 20.0
CLAIM = Claim("key", "print", "forwarded", 3600.0)


async def until(true: Callable[[], bool]) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  # another program's state
            await asyncio.sleep(0.005)


async def empty(counters: RedisCounters) -> None:
    """Nothing is taken any more: all four places are free, and nothing is used up."""
    got = [await counters.take(ask(f"free{n}", slots={"s": 4})) for n in range(5)]
    assert [taken.kind for taken in got] == [None] * 4 + ["concurrency"]
    assert not any(((await counters.used([key_of("a")]))[key_of("a")]).values())


@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_without_redis_nothing_with_effects_runs(redis_server: RedisServer, fault: str) -> None:
    """It is refused, at once but for the first; reads that no budget, key or state bounds go on under the limits as
    this gateway counts them; afterwards all is as if the refused had never asked."""

    async def go() -> None:
        async with opened(redis_server, deadline=0.2) as counters:
            getattr(redis_server, fault)()
            most = {"a": {"calls": 9}}
            got = await asyncio.gather(
                *(
                    counters.take(ask(f"w{n}", slots={"s": 4}, accounts=most, wants={"calls": 1}, claim=f"k{n}"))  # type: ignore[arg-type]  # mypy widens the names
                    for n in range(50)
                )
            )
            assert {taken.kind for taken in got} == {"unavailable"}
            assert not counters.whole
            reads = [ask(f"r{n}", effects=False, rates={"r": (3, 60.0)}) for n in range(5)]
            assert [(await counters.take(each)).kind for each in reads] == [None, None, None, "rate", "rate"]
            bounded = ask("b", effects=False, accounts=most, wants={"calls": 1})  # type: ignore[arg-type]  # the same
            assert (await counters.take(bounded)).kind == "unavailable"
            assert (await counters.take(ask("k", effects=False, claim="k"))).kind == "unavailable"
            with pytest.raises(Refusal, match="overloaded"):
                await counters.find("k")
            redis_server.recover() if fault == "hang" else redis_server.start()
            await until(lambda: counters.whole)
            await counters.told()
            assert await counters.find("k1") is None
            await empty(counters)

    asyncio.run(go())


def test_how_a_call_ended_is_told_later(redis_server: RedisServer) -> None:
    """A call that ends while Redis hangs gives back its place, and counts what it spent, once Redis answers."""

    async def go() -> None:
        async with opened(redis_server, deadline=0.1) as counters:
            one = ask("c1", slots={"s": 4}, accounts={"a": {"wall": 9000}}, wants={"wall": 700}, claim="key")
            taken = await counters.take(one)
            redis_server.hang()
            assert (await counters.take(ask("c2"))).kind == "unavailable"
            for _ in "12":
                counters.settle(one, taken, "done", {"wall": 200})
            with pytest.raises(Refusal):
                await counters.close(CLAIM, "c1", b"kept", "uid", "tenant")
            redis_server.recover()
            await until(lambda: counters.whole)
            await counters.told()
            assert await counters.used([key_of("a")]) == {key_of("a"): {"wall": 200}}
            there = await counters.find("key")
            assert there is not None
            assert (there.state, there.kept) == ("done", b"kept")
            got = [await counters.take(ask(f"free{n}", slots={"s": 4})) for n in range(5)]
            assert [each.kind for each in got] == [None] * 4 + ["concurrency"]

    asyncio.run(go())


def test_a_call_that_was_cancelled_while_it_asked_has_nothing(redis_server: RedisServer) -> None:
    """Whatever Redis gave it, or gives it later, is given back."""

    async def go() -> None:
        async with opened(redis_server, deadline=5) as counters:
            redis_server.hang()
            asking = [asyncio.create_task(counters.take(ask(f"c{n}", slots={"s": 4}, claim=f"k{n}"))) for n in range(4)]
            await asyncio.sleep(0.02)
            for each in asking:
                each.cancel()
            assert all(isinstance(each, asyncio.CancelledError) for each in await _ends(asking))
            redis_server.recover()
            await counters.told()
            assert await counters.find("k1") is None
            await empty(counters)

    asyncio.run(go())


async def _ends(tasks: list[asyncio.Task[object]]) -> list[object]:
    return list(await asyncio.gather(*tasks, return_exceptions=True))


@pytest.mark.parametrize("fault", ["flush", "restart"])
def test_an_emptied_redis_gets_back_what_the_ledger_says(redis_server: RedisServer, fault: str) -> None:
    """Rates, budgets and keys of the past are in it again, and calls under way, before anything with effects runs."""
    asked: list[frozenset[str]] = []
    now = time.time()

    async def past(flying: frozenset[str]) -> Counted:
        asked.append(flying)
        if len(asked) == 1:
            return Counted()
        claims = [
            KeptClaim("old", Claimed("c0", "print", "done", now, b"said"), now + 60, "uid"),
            KeptClaim("open", Claimed("c9", "print", "unknown", now), now + 60),
        ]
        return Counted(claims, [Used(key_of("a"), {"calls": 5}, now + 60)], {"r": now + 50})

    async def go() -> None:
        async with opened(redis_server, past=past) as counters:
            slow = ask("slow", slots={"s": 1}, accounts={"a": {"calls": 9}}, wants={"calls": 2}, claim="mine")
            taken = await counters.take(slow)
            if fault == "flush":
                redis_server.flush()
            else:
                redis_server.stop()
                redis_server.start()
            assert (await counters.take(ask("c1"))).kind == "unavailable"
            await until(lambda: counters.whole)
            assert asked == [frozenset(), frozenset({"slow"})]
            assert (await counters.take(ask("c2", claim="old"))).kind == "claimed"
            there = [await counters.find(key) for key in ("old", "open", "mine")]
            assert [(each.call_id, each.state, each.kept) for each in there if each] == [
                ("c0", "done", b"said"),
                ("c9", "unknown", None),
                ("slow", "in_progress", None),
            ]
            assert (await counters.take(ask("c3", rates={"r": (1, 60.0)}))).kind == "rate"
            assert (await counters.take(ask("c4", slots={"s": 1}))).kind == "concurrency"
            assert await counters.used([key_of("a")]) == {key_of("a"): {"calls": 7}}
            counters.settle(slow, taken, "refused", {})
            await counters.told()
            assert await counters.used([key_of("a")]) == {key_of("a"): {"calls": 5}}
            assert (await counters.take(ask("c5", slots={"s": 1}, claim="mine"))).kind is None

    asyncio.run(go())


def test_a_rate_of_several_gateways_is_put_back_as_the_last_to_spend_it_knew_it(redis_server: RedisServer) -> None:
    """What others spent is in it: after FLUSHALL neither who spent more nor who spent last makes it any larger."""

    async def go() -> None:
        def past(seconds: float) -> Past:
            async def told(_: frozenset[str]) -> Counted:
                return Counted(rates={"r": time.time() + seconds})

            return told

        async with opened(redis_server, "one", past=past(20)) as one, opened(redis_server, "two", past=past(50)) as two:
            await until(lambda: one.whole and two.whole)
            flying = [await one.take(ask(f"f{n}", time.time(), rates={"q": (2, 3600.0)})) for n in range(2)]
            assert [each.kind for each in flying] == [None, None]
            redis_server.flush()
            assert (await one.take(ask("c1"))).kind == (await two.take(ask("c2"))).kind == "unavailable"
            await until(lambda: one.whole and two.whole)
            assert (await two.take(ask("c3", rates={"q": (2, 3600.0)}))).kind == "rate"
            taken = await two.take(ask("c4", rates={"r": (1, 60.0)}))
            assert (taken.kind, round(taken.retry_after)) == ("rate", 50)

    asyncio.run(go())


def test_times_in_redis_are_by_its_own_clock() -> None:
    """Two hours off, either way: what is put back lasts as long there, what is read ends here as it does there."""
    for later in (7200.0, -7200.0):
        kept = KeptClaim("k", Claimed("c", "print", "unknown", 1005.0), 1060.0)
        past = Counted([kept], [Used("a", {"calls": 1}, 1030.0)], {"r": 1020.0})
        told = {keys[1]: words for _, keys, words in seeded(past, "done", lambda _, octets: octets, later)}
        assert told["tg:rate:r"][2] == (1020 + later) * 1e6
        assert told["tg:used:a"][1] == (1030 + later) * 1e3
        assert told["tg:claim:k"][1] == (1060 + later) * 1e3
        fields = [str(each).encode() for each in ("c", "print", "in_progress", (1005 + later) * 1e6)]
        assert claimed(fields, None, later).until == 1005.0


def test_a_redis_that_drops_keys_is_not_gone_by(redis_server: RedisServer) -> None:
    """With a memory that is bounded, nothing with effects runs unless Redis refuses what does not fit; then it does."""

    async def go() -> None:
        async with opened(redis_server) as counters, asking(redis_server) as redis:
            assert (await counters.take(ask("c1"))).kind is None
            try:
                await redis.ask("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "volatile-lru")
                await until(lambda: not counters.whole)
                assert (await counters.take(ask("c2"))).kind == "unavailable"
                await redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
                await until(lambda: counters.whole)
                assert (await counters.take(ask("c3"))).kind is None
            finally:
                await redis.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")

    asyncio.run(go())


def test_an_emptied_redis_waits_for_everybody(redis_server: RedisServer, tmp_path: Path) -> None:
    """Nothing with effects runs until each gateway that lived has put back its part, or was silent for long enough."""
    may = asyncio.Event()
    may.set()

    async def slowly(_: frozenset[str]) -> Counted:
        await may.wait()
        return Counted()

    async def go() -> None:
        noted = tmp_path / "gateways.json"
        async with opened(redis_server, remembered=noted) as a, opened(redis_server, "two", past=slowly) as b:
            await until(lambda: noted.exists() and "two" in noted.read_text())
            may.clear()
            redis_server.flush()
            assert (await a.take(ask("c1"))).kind == "unavailable"
            await asyncio.sleep(0.3)
            assert (await a.take(ask("c2"))).kind == "unavailable"
            async with opened(redis_server, remembered=noted) as again:
                assert (await again.take(ask("c3"))).kind == "unavailable"
            may.set()
            await until(lambda: a.whole and b.whole)
            assert (await a.take(ask("c4"))).kind is None
        async with opened(redis_server, remembered=noted, silent=0.5) as a:
            redis_server.flush()
            assert (await a.take(ask("c5"))).kind == "unavailable"
            await until(lambda: a.whole)

    asyncio.run(go())


def test_a_restart_puts_nothing_back_twice(redis_server: RedisServer) -> None:
    """A gateway that finds its part in Redis leaves it as it is."""
    now = time.time()

    async def past(_: frozenset[str]) -> Counted:
        return Counted(used=[Used(key_of("a"), {"calls": 5}, now + 60)])

    async def go() -> None:
        for _ in "123":
            async with opened(redis_server, past=past) as counters:
                assert await counters.used([key_of("a")]) == {key_of("a"): {"calls": 5}}
        async with opened(redis_server, "two", past=past) as counters:
            assert await counters.used([key_of("a")]) == {key_of("a"): {"calls": 10}}

    asyncio.run(go())


@pytest.mark.parametrize("fault", FAULTS)
def test_under_load_nothing_happens_twice(redis_server: RedisServer, fault: str) -> None:
    """Every key is done once, no more run at once than may, the budget is what was done; all keys are done in the end,
    without a restart of the gateway."""

    async def go() -> None:
        async with asyncio.timeout(PATIENCE):
            backend, used = await suffer(redis_server, fault, keys=80, times=3)
        assert sorted(key for key, _ in backend.did) == sorted(f"k{n}" for n in range(80))
        assert backend.most <= PLACES
        assert used == 80

    asyncio.run(go())


def test_what_cannot_be_told_is_bounded(tmp_path: Path) -> None:
    """While Redis is away so much is kept and no more: the oldest goes first."""

    async def go() -> None:
        outbox = Outbox(link(Address(path=str(tmp_path / "none"))), most=3)
        for n in range(5):
            outbox.put(f"c{n}", "settle", [], ())
        assert len(outbox) == 3

    asyncio.run(go())


def test_what_a_killed_gateway_left_open_is_settled_by_its_ledger(redis_server: RedisServer) -> None:
    """What never ran is given back with its key; what may have run stays spent, its key ends as the ledger says, and
    its place is free."""
    now = time.time()

    async def past(_: frozenset[str]) -> Counted:
        done = KeptClaim("k1", Claimed("c1", "print", "done", now, b"said"), now + 60, "uid")
        return Counted([done], ran=frozenset({"c1", "c2"}))

    async def go() -> None:
        async with opened(redis_server) as killed:
            for n in range(4):
                one = ask(f"c{n}", slots={"s": 4}, accounts={"a": {"calls": 9}}, wants={"calls": 1}, claim=f"k{n}")
                assert (await killed.take(one)).kind is None
        async with opened(redis_server, past=past) as counters:
            there = [await counters.find(f"k{n}") for n in range(4)]
            assert [(each.state, each.kept) if each else None for each in there] == [
                None,
                ("done", b"said"),
                ("unknown", None),
                None,
            ]
            assert await counters.used([key_of("a")]) == {key_of("a"): {"calls": 2}}
            got = [await counters.take(ask(f"free{n}", slots={"s": 4})) for n in range(5)]
            assert [taken.kind for taken in got] == [None] * 4 + ["concurrency"]

    asyncio.run(go())
