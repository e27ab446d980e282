"""Rates, slots, budgets, claims and declared state of one process, in memory. What says nothing any more is forgotten.

Everything that one call asks for is taken in one go between two waits, so calls that run side by side see all or
nothing of each other. It decides nothing about a call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.admission import Account, Amounts, Ask, Bucket, Claim, Claimed, Dimension, Standing, Taken, Warned
from gateway.aggregates import Cell, Ended, Level, Reservation
from gateway.reliability.budgets import granted, warns
from gateway.reliability.cells import Cells
from gateway.reliability.limits import earliest, spend, standing

FULL_SECONDS = 60.0  # after which a caller whose values are too many may ask again
BUSY_SECONDS = 1.0  # after which a caller may ask again for a slot, or how a call ended


@dataclass(frozen=True, slots=True)
class Kept:
    """A claim as it is remembered from `at` until `ends` (unix seconds). `session`: the `uid` of the session of whose
    content its outcome is; `box`: where that is, if it is elsewhere."""

    claimed: Claimed
    at: float
    ends: float
    session: str = ""
    box: int | None = None


class MemoryCounters:
    """The ports `Counters` and `Claims`."""

    _SWEEP_AT = 10_000  # entries, or twice what the last sweep left: a bucket that is full again says nothing

    def __init__(self, cells: Cells | None = None, steady: Callable[[], float] | None = None) -> None:
        """`steady` is `Clock.steady`, by which claims end; without it the time of the latest ask."""
        self._arrival: dict[str, float] = {}
        self._running: dict[str, int] = {}
        self._used: dict[str, dict[Dimension, int]] = {}
        self._ends: dict[str, float] = {}  # until when an account is remembered, in unix seconds
        self._claims: dict[str, Kept] = {}
        self._taken: dict[str, Taken] = {}  # by call, until it is settled
        self._latest = 0.0
        self._steady = steady or (lambda: self._latest)
        self._sweep_at = self._SWEEP_AT
        self.cells = Cells() if cells is None else cells

    # ── declared state ───────────────────────────────────────────────────────────────────────────────────────────────

    async def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        return self.cells.look(cells, now)

    def levels(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        """As `look`, at once."""
        return self.cells.look(cells, now)

    def adopt(self, past: Cells) -> None:
        """Takes over what is on record of calls that ended. What is here already of a call is not added again."""
        self.cells.adopt(past)

    def restate(self, reservation: Reservation, ended: Ended, past: Cells) -> None:
        """Ends a call anew of which nobody knew how it had ended (`Cells.restate`)."""
        self.cells.restate(reservation, ended, past)

    # ── taking and settling ──────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, ask: Ask) -> Taken:
        return self.take_now(ask)

    def take_now(self, ask: Ask) -> Taken:
        """As `take`, at once."""
        if ask.call_id in self._taken:
            return self._taken[ask.call_id]
        self._latest = ask.now
        lacking = self._claimed(ask) or self._busy(ask) or self._too_soon(ask)
        if lacking is not None:
            return lacking
        gives = granted(ask.accounts, self._used, ask.wants)
        if isinstance(gives, str):
            return Taken("budget", said=gives)
        refused = None if ask.reservation is None else self.cells.take(ask.reservation)
        if refused is not None:
            return Taken(refused, "state", retry_after=FULL_SECONDS if refused == "full" else 0.0)
        taken = Taken(granted=gives, standings=self._spend(ask), warned=self._draw(ask, gives))
        self._taken[ask.call_id] = taken
        return taken

    def _claimed(self, ask: Ask) -> Taken | None:
        if ask.claim is None:
            return None
        there = self._claim(ask.claim.key, ask.now)
        if there is not None:
            return Taken("claimed", ask.claim.key, retry_after=BUSY_SECONDS, claimed=replace(there, kept=None))
        return None

    def _busy(self, ask: Ask) -> Taken | None:
        for slot in ask.slots:
            if self._running.get(slot.key, 0) >= slot.most:
                return Taken("concurrency", slot.key, retry_after=BUSY_SECONDS)
        return None

    def _too_soon(self, ask: Ask) -> Taken | None:
        now, arrival = ask.now, self._arrival
        waits = [(earliest(arrival.get(each.key, 0.0), each.rate, now) - now, each.key) for each in ask.buckets]
        wait, key = max(waits, default=(0.0, ""))
        if wait <= 0:
            return None
        return Taken("rate", key, retry_after=wait, standings=tuple(self._standing(b, ask.now) for b in ask.buckets))

    def _spend(self, ask: Ask) -> tuple[Standing, ...]:
        for each in ask.buckets:
            self._arrival[each.key] = spend(self._arrival.get(each.key, 0.0), each.rate, ask.now)
        for slot in ask.slots:
            self._running[slot.key] = self._running.get(slot.key, 0) + 1
        if ask.claim is not None:
            running = Claimed(ask.call_id, ask.claim.fingerprint, "in_progress", ask.now + ask.lasts)
            self._claims[ask.claim.key] = Kept(running, ask.now, ask.now + ask.claim.ttl)
        if len(self._arrival) + len(self._ends) + len(self._claims) > self._sweep_at:
            self._sweep(ask.now)
        return tuple(self._standing(each, ask.now) for each in ask.buckets)

    def _standing(self, bucket: Bucket, now: float) -> Standing:
        return standing(bucket, self._arrival.get(bucket.key, 0.0), now)

    def _draw(self, ask: Ask, gives: Amounts) -> tuple[Warned, ...]:
        warned = []
        for account in ask.accounts:
            self._ends[account.key] = ask.now + account.lasts
            warned += self._add(account, gives)
        return tuple(warned)

    def _add(self, account: Account, amounts: Amounts) -> list[Warned]:
        used, warned = self._used.setdefault(account.key, {}), []
        for dimension, amount in amounts.items():
            before = used.get(dimension, 0)
            used[dimension] = before + amount
            if dimension in account.most and warns(account, dimension, before, before + amount):
                warned.append(Warned(account, dimension, before + amount))
        return warned

    def settle(self, ask: Ask, taken: Taken, ended: Ended, spent: Amounts) -> None:
        if self._taken.pop(ask.call_id, None) is None:
            return
        for slot in ask.slots:
            left = self._running[slot.key] - 1
            if left:
                self._running[slot.key] = left
            else:
                del self._running[slot.key]
        counts: Amounts = {} if ended == "refused" else spent
        for account in ask.accounts:
            used = self._used.get(account.key)
            if used is None:  # its time was over meanwhile
                continue
            for dimension in {*taken.granted, *counts}:
                used[dimension] = used.get(dimension, 0) - taken.granted.get(dimension, 0) + counts.get(dimension, 0)
        if ended == "refused" and ask.claim is not None:
            self._release(ask.claim.key, ask.call_id)
        if ask.reservation is not None:
            self.cells.settle(ask.reservation, ended)

    async def used(self, keys: Sequence[str]) -> Mapping[str, Amounts]:
        return {key: dict(self._used.get(key, {})) for key in keys}

    async def report(self, accounts: Sequence[Account], amounts: Amounts) -> Sequence[Warned]:
        self._ends |= {account.key: self._steady() + account.lasts for account in accounts}
        return [warned for account in accounts for warned in self._add(account, amounts)]

    def _sweep(self, now: float) -> None:
        self._forget(now)
        self._sweep_at = max(self._SWEEP_AT, 2 * (len(self._arrival) + len(self._ends) + len(self._claims)))

    def _forget(self, now: float) -> None:
        """Drops what says nothing any more: buckets that are full, accounts and claims whose time is over."""
        self._arrival = {key: at for key, at in self._arrival.items() if at > now}
        for key in [key for key, end in self._ends.items() if end <= now]:
            del self._ends[key]
            self._used.pop(key, None)
        self._claims = {key: kept for key, kept in self._claims.items() if kept.ends > now}

    # ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _claim(self, key: str, now: float) -> Claimed | None:
        there = self._claims.get(key)
        if there is None or there.ends <= now:
            return None
        claimed = there.claimed
        if claimed.state == "in_progress" and claimed.until <= now:
            return replace(claimed, state="unknown")  # nobody ended it in all its time
        return claimed

    async def find(self, key: str) -> Claimed | None:
        return self._claim(key, self._steady())

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        self._end(claim, call_id, "done", kept, session)

    async def doubt(self, claim: Claim, call_id: str) -> None:
        self._end(claim, call_id, "unknown")

    def _end(
        self,
        claim: Claim,
        call_id: str,
        state: Literal["done", "unknown"],
        kept: bytes | None = None,
        session: str = "",
    ) -> Kept | None:
        """The claim as it is by now, if that call has it."""
        there = self._claims.get(claim.key)
        if there is None or there.claimed.call_id != call_id:
            return None
        ended = Claimed(call_id, claim.fingerprint, state, there.claimed.until, kept)
        self._claims[claim.key] = now = Kept(ended, there.at, there.ends, session)
        return now

    async def release(self, key: str, call_id: str) -> bool:
        return self._release(key, call_id)

    def _release(self, key: str, call_id: str) -> bool:
        there = self._claims.get(key)
        if there is None or there.claimed.call_id != call_id:
            return False
        del self._claims[key]
        return True

    def erased(self, uids: Collection[str]) -> None:
        """Drops the outcomes that were content of these sessions: it was erased. That there was one stays known."""
        for key, kept in self._of(uids):
            self._claims[key] = replace(kept, claimed=replace(kept.claimed, kept=None))

    def _of(self, uids: Collection[str]) -> Iterator[tuple[str, Kept]]:
        """The claims whose outcome is content of these sessions."""
        wanted = frozenset(uids)
        yield from [(key, kept) for key, kept in self._claims.items() if kept.session in wanted]
