"""Rates, accounts and claims that survive the end of the process: counted in memory, written through to `limits.db`.

What a call takes of them is committed before it may go on, many calls at a time; slots and cells are of this process
alone. How a call with a key ended is sealed under the key of its session's content, so that erasing that erases this.
What counts is the memory of the one process that has the file open, which is read once, when it is opened.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.admission import NOTHING, Account, Amounts, Ask, Claim, Claimed, Taken, Warned
from gateway.aggregates import Ended
from gateway.model import Refusal
from gateway.problems import refuse
from gateway.reliability.cells import Cells
from gateway.reliability.limits import unspend
from gateway.stores.counters import BUSY_SECONDS, Kept, MemoryCounters
from gateway.stores.sqlite_commits import ALWAYS, GONE, Commits, Row, look
from gateway.stores.sqlite_sessions import Seal
from gateway.tool import Json

_RETRY_MS = 500
_SOON = 1.0  # seconds: a bucket that is whole again by then is so before a gateway can have started once more


@dataclass(frozen=True, slots=True)
class LeftOpen:
    """A call for which a life before took something that it did not settle: what of which accounts, which claim. `at`
    is by the ledger's clock (unix seconds), where it is looked for: the one that limits go by does not jump with it."""

    call_id: str
    at: float
    accounts: tuple[str, ...] = ()
    granted: Amounts = field(default_factory=dict)
    claim: str | None = None


class SqliteCounters(MemoryCounters):
    """The ports `Counters` and `Claims` of one home folder."""

    def __init__(
        self,
        path: Path,
        seal: Seal,
        cells: Cells | None = None,
        steady: Callable[[], float] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` is the ledger's clock. Raises `sqlite3.Error` or `OSError` when the file at `path` cannot be used."""
        super().__init__(cells, steady)
        self._seal, self._commits, self._now = seal, Commits(path), now
        self._left: dict[str, LeftOpen] = {}
        try:
            self._load(self._steady())
        except BaseException:  # whatever it was goes on, but the file is not left open
            self._commits.close()
            raise

    def _load(self, now: float) -> None:
        self._commits.forget(now)
        for key, arrival, _ in self._commits.all("rate"):
            self._arrival[key] = arrival
        for key, amounts, ends in self._commits.all("used"):
            self._used[key], self._ends[key] = amounts, ends
        for key, said, ends in self._commits.all("claim"):
            call_id, fingerprint, state, until, session, at, box = said
            self._claims[key] = Kept(Claimed(call_id, fingerprint, state, until), at, ends, session, box)
            if state == "in_progress":
                self._left[call_id] = LeftOpen(call_id, at, claim=key)
        for call_id, (accounts, granted, at), _ in self._commits.all("open"):
            left = self._left.get(call_id, LeftOpen(call_id, at))
            self._left[call_id] = replace(left, accounts=tuple(accounts), granted=granted)

    def shut(self) -> None:
        """Writes what is left, and closes the file. Blocks."""
        self._commits.close()

    # ── taking and settling ──────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, ask: Ask) -> Taken:
        taken = self.take_now(ask)
        if taken.kind is None and (ask.accounts or ask.claim is not None or any(self._rates(ask))):
            return await self._durable(ask, taken)
        return taken

    async def _durable(self, ask: Ask, taken: Taken) -> Taken:
        try:
            await self._commits.keep(self._taking(ask, taken))
        except sqlite3.Error:
            if not ask.effects:  # what is counted here is right as long as this process lives
                return taken
            self.settle(ask, taken, "refused", NOTHING)
            self._unspend(ask)
            return Taken("unavailable", retry_after=BUSY_SECONDS)
        except BaseException:  # its caller went away, and does not know that it has anything to give back
            self.settle(ask, taken, "refused", NOTHING)
            raise
        return taken

    def _taking(self, ask: Ask, taken: Taken) -> Iterator[Row]:
        at = self._now()
        yield from self._rates(ask)
        yield from self._accounts(each.key for each in ask.accounts)
        if ask.accounts:
            granted = {str(name): amount for name, amount in taken.granted.items()}
            yield "open", ask.call_id, [[each.key for each in ask.accounts], granted, at], ALWAYS
        if ask.claim is not None:
            yield _claim_row(ask.claim.key, replace(self._claims[ask.claim.key], at=at))

    def settle(self, ask: Ask, taken: Taken, ended: Ended, spent: Amounts) -> None:
        if ask.call_id not in self._taken:
            return
        super().settle(ask, taken, ended, spent)
        freed = ask.claim is not None and ended == "refused"
        if ask.accounts or freed:
            rows = [*self._accounts(each.key for each in ask.accounts), ("open", ask.call_id, GONE, 0.0)]
            self._commits.note([*rows, *self._claim_rows(ask.claim.key)] if freed and ask.claim else rows)

    def _unspend(self, ask: Ask) -> None:
        for each in ask.buckets:
            self._arrival[each.key] = unspend(self._arrival.get(each.key, 0.0), each.rate)
        self._commits.note(self._rates(ask))

    async def used(self, keys: Sequence[str]) -> Mapping[str, Amounts]:
        return {key: dict(self._used.get(key, {})) for key in keys}

    async def report(self, accounts: Sequence[Account], amounts: Amounts) -> Sequence[Warned]:
        warned = await super().report(accounts, amounts)
        await self._commit(self._accounts(each.key for each in accounts))
        return warned

    def _forget(self, now: float) -> None:
        before = [("rate", *self._arrival), ("used", *self._ends), ("claim", *self._claims)]
        boxes = {key: kept.box for key, kept in self._claims.items() if kept.box is not None}
        super()._forget(now)
        left = {"rate": self._arrival.keys(), "used": self._ends.keys(), "claim": self._claims.keys()}
        gone = [(kind, key) for kind, *keys in before for key in keys if key not in left[kind]]
        self._commits.note((kind, key, GONE, 0.0) for kind, key in gone)
        self._commits.drop([box for key, box in boxes.items() if key not in self._claims])

    # ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, key: str) -> Claimed | None:
        there = await super().find(key)
        if there is None or there.state != "done":
            return there
        remembered = self._claims[key]
        try:
            kept = await asyncio.to_thread(self._opened, remembered)
            if kept is None and remembered.box is not None:  # it could not be written then: now, perhaps
                await self._commits.keep([])
                kept = await asyncio.to_thread(self._opened, remembered)
            return replace(there, kept=kept)
        except (sqlite3.Error, OSError):
            raise _unavailable() from None

    def _opened(self, kept: Kept) -> bytes | None:
        box = None if kept.box is None else self._commits.box(kept.box)
        words = None if box is None else self._seal.open_words(kept.session, box)
        return None if words is None else words.encode(errors="surrogateescape")

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        there = self._claims.get(claim.key)
        if there is None or there.claimed.call_id != call_id:
            return
        done = replace(there, claimed=replace(there.claimed, state="done"), session=session)
        try:
            box = await self._seal.seal_words(session, tenant, kept.decode(errors="surrogateescape"))
            done = replace(done, box=self._commits.put_box(box, there.ends))
            await self._commits.keep([_claim_row(claim.key, done)])
        except (sqlite3.Error, OSError):
            raise _unavailable() from None
        finally:  # a repeat is told how it ended from when that can be read, and in any case that it did
            if self._claims.get(claim.key) is there:
                self._claims[claim.key] = done

    async def doubt(self, claim: Claim, call_id: str) -> None:
        if self._end(claim, call_id, "unknown") is not None:
            await self._commit(self._claim_rows(claim.key))

    async def release(self, key: str, call_id: str) -> bool:
        if not self._release(key, call_id):
            return False
        await self._commit(self._claim_rows(key))
        return True

    def erased(self, uids: Collection[str]) -> None:
        found = list(self._of(uids))
        for key, kept in found:
            self._claims[key] = replace(kept, box=None)
        self._commits.drop([kept.box for _, kept in found if kept.box is not None])
        self._commits.note(row for key, _ in found for row in self._claim_rows(key))

    # ── what a life before left open ─────────────────────────────────────────────────────────────────────────────────

    def left(self) -> Sequence[LeftOpen]:
        """The calls that nobody settled; to be asked before any call is taken."""
        return list(self._left.values())

    def synced(self) -> float | None:
        """Unix time before which no claim can be missing, though the machine lost its power; None when not known.
        Blocks; raises `sqlite3.Error`."""
        return self._commits.synced()

    def whole(self) -> None:
        """What a life before left open is settled, and no claim is missing any more."""
        self._commits.whole()

    def give_back(self, left: LeftOpen) -> None:
        """Nothing of it ever ran."""
        for key in left.accounts:
            used = self._used.get(key, {})
            for dimension, amount in left.granted.items():
                used[dimension] = used.get(dimension, 0) - amount
        if left.claim is not None:
            self._release(left.claim, left.call_id)
        self._written(left)

    def keep_spent(self, left: LeftOpen) -> None:
        """It ran, or may have run: what was granted is spent, and nobody knows how it ended as far as this goes."""
        kept = None if left.claim is None else self._claims.get(left.claim)
        if left.claim is not None and kept is not None:
            self._claims[left.claim] = replace(kept, claimed=replace(kept.claimed, state="unknown"))
        self._written(left)

    def know(self, claim: Claim, call_id: str, at: float) -> bool:
        """Puts a claim back, taken at `at` (unix seconds), that the ledger knows of and this file does not, as
        `unknown`. False when the file does."""
        if claim.key in self._claims:
            return False
        self._claims[claim.key] = Kept(Claimed(call_id, claim.fingerprint, "unknown", at), at, at + claim.ttl)
        self._commits.note(self._claim_rows(claim.key))
        return True

    def _written(self, left: LeftOpen) -> None:
        self._left.pop(left.call_id, None)
        rows = [*self._accounts(left.accounts), ("open", left.call_id, GONE, 0.0)]
        self._commits.note(rows if left.claim is None else [*rows, *self._claim_rows(left.claim)])

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _commit(self, rows: Iterable[Row]) -> None:
        try:
            await self._commits.keep(rows)
        except sqlite3.Error:
            raise _unavailable() from None

    def _rates(self, ask: Ask) -> Iterator[Row]:
        for each in ask.buckets:
            arrival = self._arrival.get(each.key, 0.0)
            if arrival > ask.now + _SOON:
                yield "rate", each.key, arrival, arrival

    def _accounts(self, keys: Iterable[str]) -> Iterator[Row]:
        for key in keys:
            if key in self._ends:
                yield "used", key, {str(name): amount for name, amount in self._used[key].items()}, self._ends[key]

    def _claim_rows(self, key: str) -> Iterator[Row]:
        there = self._claims.get(key)
        if there is not None:
            yield _claim_row(key, there)
        else:
            yield "claim", key, GONE, 0.0


def look_used(path: Path, keys: Iterable[str]) -> Mapping[str, Amounts]:
    """What is used up by these accounts, as the file at `path` has it: another process may be counting."""
    return look(path, "used", keys)


def _claim_row(key: str, kept: Kept) -> Row:
    there = kept.claimed
    said: list[Json] = [there.call_id, there.fingerprint, there.state, there.until, kept.session, kept.at, kept.box]
    return "claim", key, said, kept.ends


def _unavailable() -> Refusal:
    return refuse("overloaded", "What limits calls cannot be kept just now.", retry_after_ms=_RETRY_MS)
