"""Rates, slots, budgets, claims and declared state that several gateways share: in Redis, one script for each call.

While Redis is away, hangs, or was emptied and is not whole again, what may change something is refused at once. What
only reads goes on under the limits as this gateway alone counts them, unless a budget, a key or declared state bounds
it. It never counts a call twice: a script asked again gives the same answer, and what was given up takes nothing later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

from gateway.admission import Account, Amounts, Ask, Claim, Claimed, Dimension, Taken, Warned
from gateway.aggregates import Cell, Ended, Level, Reservation
from gateway.model import Refusal
from gateway.problems import refuse
from gateway.reliability.budgets import warns
from gateway.reliability.cells import Cells
from gateway.reliability.counted import Counted
from gateway.reliability.windows import MOST
from gateway.stores.counters import MemoryCounters
from gateway.stores.redis_cells import Copies, adopting, crowded, folding
from gateway.stores.redis_epoch import BEAT, SILENT, Epoch
from gateway.stores.redis_link import Redis
from gateway.stores.redis_outbox import Outbox
from gateway.stores.redis_scripts import link, run
from gateway.stores.redis_seeding import leaving, restored, seeded
from gateway.stores.redis_words import claimed, happened, lasting, micro, settling, taken, taking
from gateway.stores.resp import Address, Refused, Reply, Unanswered, Words

_RETRY_SECONDS = 1.0
_AT_ONCE = 256  # steps of putting back
_FIELDS = ("call", "fp", "state", "until", "ends", "kept")
Past = Callable[[frozenset[str]], Awaitable[Counted]]


class Box(Protocol):
    """What seals under the secret that all gateways share."""

    def close(self, text: str, place: bytes) -> bytes: ...
    def open(self, sealed: bytes, place: bytes) -> str | None: ...


class RedisCounters:
    """The ports `Counters` and `Claims`."""

    def __init__(
        self,
        address: Address,
        me: str,
        box: Box | None = None,
        past: Past | None = None,
        remembered: Path | None = None,
        *,
        steady: Callable[[], float] | None = None,
        beat: float = BEAT,
        silent: float = SILENT,
    ) -> None:
        """`me` names the home. `past` reads its ledger, without the calls of these ids, which are under way;
        without one nothing is put back, and what a life before left open stays so. `steady`
        (unix seconds) is the time instead of Redis's own; `beat` and `silent` as in `redis_epoch`."""
        self._link = link(address)
        self._box, self._past, self._steady = box, past, steady
        self._epoch = Epoch(self._link, me, self._seed, self._left, self._whole, remembered, beat, silent)
        self._me = me
        self._outbox = Outbox(self._link)
        self._copies = Copies()
        self._alone = MemoryCounters()
        self._here: set[str] = set()  # calls that are counted by this gateway alone
        self._flying: dict[str, tuple[Ask, Taken]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> RedisCounters:
        """Connects. When this returns all is whole, or Redis is away or waits for others; both end by themselves."""
        self._link.on_open = self._stands
        self._link.open()
        try:
            await self._epoch.beat()
        except (Unanswered, Refused):
            self._epoch.lost()
        self._begin(self._epoch.live())
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """Tells what is still to be told, if Redis is there."""
        await self.told()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()

    @property
    def whole(self) -> bool:
        """Whether everything is counted for all gateways together."""
        return self._epoch.whole and self._link.stands and not self._outbox.held

    async def told(self) -> None:
        """Waits a second at most until Redis was told all that it is to be told."""
        await self._outbox.told()

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stands(self) -> None:
        """A new connection: it may be to an empty Redis, so nothing is told before the epoch was looked at."""
        self._outbox.hold()
        self._epoch.look()

    def _whole(self) -> None:
        self._outbox.go_on()

    async def _seed(self, epoch: bytes) -> None:
        self._outbox.hold()
        self._copies.forget()
        flying = dict(self._flying)
        past = Counted() if self._past is None else await self._past(frozenset(flying))
        done = f"tg:seeded:{epoch.decode()}:{self._me}"
        later = await self._later()
        steps = seeded(past, done, self._closed, later)
        while some := list(islice(steps, _AT_ONCE)):
            await asyncio.gather(*(run(self._link, *step) for step in some))
        for ask, got in flying.values():
            for each in got.standings:
                await run(self._link, *restored(done, each.bucket.key, ask.now + each.reset, later))
            keys, words = taking(_as_granted(ask, got), self._me, epoch, self._time(), forced=True)
            await run(self._link, "take", keys, words)

    async def _left(self) -> None:
        """Settles what a life before left open, by the ledger."""
        calls = [call.decode() for call in await self._link.ask("SMEMBERS", f"tg:open:{self._me}", again=True)]
        if calls and self._past is not None:
            past = await self._past(frozenset())
            for keys, words in leaving(calls, past, self._me, self._closed):
                await run(self._link, "leave", keys, words)

    async def _later(self) -> float:
        """Seconds by which the clock of Redis is later than this one."""
        seconds, micros = await self._link.ask("TIME", again=True)
        return 0.0 if self._steady else int(seconds) + int(micros) / 1_000_000 - time.time()

    def _time(self) -> float | None:
        return None if self._steady is None else self._steady()

    # ── taking and settling ──────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, ask: Ask) -> Taken:
        if not self._epoch.whole:
            return self._without(ask)
        keys, words = taking(ask, self._me, self._epoch.name, self._time())
        try:
            reply = await run(self._link, "take", keys, words)
        except Unanswered as error:
            if error.sent:
                self._give_up(ask)
            return self._without(ask)
        except Refused:
            self._give_up(ask)
            return self._without(ask)
        except asyncio.CancelledError:
            self._give_up(ask)
            raise
        return self._told(ask, reply)

    def _told(self, ask: Ask, reply: Reply) -> Taken:
        if reply[0] == b"epoch":
            self._epoch.lost()
            return self._without(ask)
        got = taken(ask, reply)
        if got.kind is None:
            self._flying[ask.call_id] = (ask, got)
            if ask.reservation and max(reply[4], default=0) > 4 * MOST:
                self._begin(self._fold([entry.cell for entry in ask.reservation.entries]))
        return got

    def _without(self, ask: Ask) -> Taken:
        """The answer without Redis."""
        bounded = ask.claim or ask.reservation or any(account.most for account in ask.accounts)
        if ask.effects or bounded:
            return Taken("unavailable", retry_after=_RETRY_SECONDS)
        got = self._alone.take_now(ask)
        if got.kind is None:
            self._here.add(ask.call_id)
        return got

    def _give_up(self, ask: Ask) -> None:
        """Whatever Redis took for it, or takes when it gets to it, is given back."""
        keys, words = settling(ask, self._me, "refused", {}, given_up=True)
        self._outbox.put(ask.call_id, "settle", keys, words)

    def settle(self, ask: Ask, taken: Taken, ended: Ended, spent: Amounts) -> None:
        if ask.call_id in self._here:
            self._here.remove(ask.call_id)
            self._alone.settle(ask, taken, ended, spent)
        elif self._flying.pop(ask.call_id, None) is not None:
            self._outbox.put(ask.call_id, "settle", *settling(ask, self._me, ended, spent))

    async def used(self, keys: Sequence[str]) -> Mapping[str, Amounts]:
        asked = [self._ask("HGETALL", f"tg:used:{key}") for key in keys]
        return {key: _amounts(flat) for key, flat in zip(keys, await asyncio.gather(*asked), strict=True)}

    async def report(self, accounts: Sequence[Account], amounts: Amounts) -> Sequence[Warned]:
        words = [len(amounts), *(word for pair in amounts.items() for word in pair), *map(lasting, accounts)]
        before = await self._run("report", [f"tg:used:{each.key}" for each in accounts], tuple(words), again=False)
        places = [(account, name) for account in accounts for name in amounts]
        return [
            Warned(account, name, had + amounts[name])
            for (account, name), had in zip(places, before, strict=True)
            if name in account.most and warns(account, name, had, had + amounts[name])
        ]

    async def _run(self, script: str, keys: list[str], words: Words, again: bool = True) -> Reply:
        try:
            if not self._epoch.whole:
                raise Unanswered("what is counted is not whole yet")
            return await run(self._link, script, keys, words, again)
        except (Unanswered, Refused) as error:
            raise _away(error) from None

    async def _ask(self, *words: str | bytes | int) -> Reply:
        try:
            if not self._epoch.whole:
                raise Unanswered("what is counted is not whole yet")
            return await self._link.ask(*words, again=True)
        except (Unanswered, Refused) as error:
            raise _away(error) from None

    # ── declared state ───────────────────────────────────────────────────────────────────────────────────────────────

    async def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        if not cells:
            return {}
        return self._copies.levels(cells, await self._run("look", *self._copies.asking(cells)), now)

    async def _fold(self, cells: Sequence[Cell]) -> None:
        keys = [key for cell in cells for key in (f"tg:cell:{cell.key}", f"tg:v:{cell.key}")]
        try:
            found = await self._run("look", keys, ("",) * len(cells))
            for cell, said in zip(cells, found, strict=True):
                if crowded(cell, said):
                    await self._run("fold", *folding(cell, said))
        except Refusal:
            return  # the next call that finds it crowded does it

    def adopt(self, past: Cells) -> None:
        """Adds what is on record of calls that ended, as soon as Redis can be told; what is there already is not."""
        for keys, words in adopting(past):
            self._outbox.put(f"adopt {keys[0]}", "adopt", keys, words)

    def restate(self, reservation: Reservation, ended: Ended, past: Cells) -> None:
        """Ends a call anew of which nobody knew how it had ended (`Cells.restate`)."""
        if ended == "refused":
            gone = [(e.cell, happened(reservation.call_id, e.amount)) for e in reservation.entries]
            for cell, member in gone:
                keys = ["tg:version", f"tg:cell:{cell.key}", f"tg:v:{cell.key}"]
                self._outbox.put(f"restate {keys[1]} {member}", "forget", keys, (member,))
        told = frozenset(e.cell.key for e in reservation.entries if e.cell.kind in ("formerly", "since"))
        for keys, words in adopting(past, told):
            self._outbox.put(f"restate {keys[0]}", "adopt", keys, words)

    # ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, key: str) -> Claimed | None:
        found, clock = await asyncio.gather(self._ask("HMGET", f"tg:claim:{key}", *_FIELDS), self._ask("TIME"))
        call_id, fingerprint, state, until, ends, kept = found
        steady = self._time()
        now = int(clock[0]) * 1_000_000 + int(clock[1]) if steady is None else micro(steady)
        if call_id is None or float(ends) <= now:
            return None
        if state == b"in_progress" and float(until) <= now:
            state = b"unknown"  # nobody ended it in all its time
        later = 0.0 if self._steady else now / 1_000_000 - time.time()
        return claimed((call_id, fingerprint, state, until), self._opened(key, kept), later)

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        await self._end(claim.key, call_id, "done", self._closed(claim.key, kept), session)

    async def doubt(self, claim: Claim, call_id: str) -> None:
        await self._end(claim.key, call_id, "unknown", b"", "")

    async def release(self, key: str, call_id: str) -> bool:
        words = (call_id, "free", b"", "")
        return bool(await self._run("end", [f"tg:claim:{key}", "tg:kept:"], words))

    async def _end(self, key: str, call_id: str, state: str, kept: bytes, session: str) -> None:
        keys, words = [f"tg:claim:{key}", f"tg:kept:{session}"], (call_id, state, kept, session)
        try:
            await self._run("end", keys, words)
        except Refusal:
            self._outbox.put(f"end {call_id}", "end", keys, words)  # it is true, so Redis is told when it is back
            raise

    def erased(self, uids: Collection[str]) -> None:
        """Drops the outcomes that were content of these sessions: it was erased. That there was one stays known."""
        for uid in uids:
            self._outbox.put(f"erase {uid}", "erase", [f"tg:kept:{uid}"], (uid,))

    def _closed(self, key: str, kept: bytes) -> bytes:
        """Sealed for this place in Redis."""
        return kept if self._box is None else self._box.close(kept.decode("latin-1"), key.encode())

    def _opened(self, key: str, kept: bytes | None) -> bytes | None:
        if kept is None or self._box is None:
            return kept
        text = self._box.open(kept, key.encode())
        return None if text is None else text.encode("latin-1")


def _as_granted(ask: Ask, got: Taken) -> Ask:
    """What a call asks for that has this already."""
    return Ask(
        call_id=ask.call_id,
        now=time.time(),
        lasts=ask.lasts,
        slots=ask.slots,
        accounts=ask.accounts,
        wants=got.granted,
        claim=ask.claim,
        reservation=ask.reservation,
    )


async def look_used(redis: Redis, keys: Sequence[str]) -> Mapping[str, Amounts]:
    """What is used up by these accounts, for one that counts nothing itself. Raises `Refusal(overloaded)`."""
    found = await redis.many([("HGETALL", f"tg:used:{key}") for key in keys])
    return {key: _amounts(flat) for key, flat in zip(keys, found, strict=True)}


def _amounts(flat: Sequence[bytes]) -> Amounts:
    return {cast(Dimension, flat[at].decode()): int(flat[at + 1]) for at in range(0, len(flat), 2)}


def _away(error: Exception) -> Refusal:
    return refuse("overloaded", f"What limits calls cannot be asked: {error}.", retry_after_ms=1000)
