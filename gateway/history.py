"""The past of declared state, read back from the ledger: at the start, and for what a new bundle declares anew.

Only calls that were admitted count: those with an intent, unless their end, or an operator, says that nothing ran.
What a call reserved stands on record with it; for an aggregate that was not declared then, it is worked out from the
recorded arguments. What is neither there nor to be worked out is counted as unknown, never guessed. It decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Protocol, cast

from gateway.aggregates import Ended, Entry, Reservation
from gateway.audit import query
from gateway.audit.content import Contents, Unreadable
from gateway.audit.glance import glance
from gateway.model import Arguments, Call, Caller, Principal, Session
from gateway.policy.aggregates import stem_of
from gateway.policy.bundle import PolicyBundle
from gateway.ports import Clock
from gateway.reliability.cells import Cells
from gateway.reliability.written import read_entries
from gateway.tool import Json

log = logging.getLogger("toolgate")
_OVERLAP = 60.0  # seconds read twice, for what was being written meanwhile; no call is added twice
LATE = 5.0


@dataclass(frozen=True, slots=True)
class Backfilled:
    """How many calls of the past now count, and of how many nobody can say what they would add."""

    counted: int = 0
    unknown: int = 0


def backfill(
    home: Path,
    bundle: PolicyBundle,
    cells: Cells,
    now: float,
    known: Set[str] = frozenset(),
    since: float = 0.0,
    before: str | None = None,
) -> Backfilled:
    """Fills fresh `cells` with what the ledger knows of the bundle's aggregates, without those whose stem is `known`.

    `now` and `since` in unix seconds: nothing that was recorded before `since`, or has left its window by `now`, is
    read; nor is what stands at the hybrid logical clock `before` (as records have it) or later. Takes no lock, blocks
    on files. Raises `OSError`, `ValueError` or `sqlite3.Error` when keys cannot be read.
    """
    wanted = {stem: within for stem, within in bundle.windows.items() if stem not in known}
    if not wanted or not (home / "audit").is_dir():
        return Backfilled()
    with glance(home) as contents:
        replay = _Replay(bundle, wanted, cells, now, contents)
        records = query.since(home, max(since, now - max(wanted.values())))
        for record in takewhile(lambda each: before is None or str(each["hlc"]) < before, records):
            replay.take(record)
        return replay.end()


def recount(home: Path, bundle: PolicyBundle, cells: Cells, now: float, call_id: str) -> Reservation | None:
    """As `backfill`, of all that the bundle declares; gives what of it one call reserved and is still in its window."""
    if not bundle.windows:
        return None
    with glance(home) as contents:
        replay = _Replay(bundle, bundle.windows, cells, now, contents)
        replay.asked = call_id
        for record in query.since(home, now - max(bundle.windows.values())):
            replay.take(record)
        replay.end()
        return replay.reserved


class _Replay:
    """Records in order, one pass: an intent reserves, its end settles."""

    def __init__(
        self, bundle: PolicyBundle, wanted: Mapping[str, float], cells: Cells, now: float, contents: Contents
    ) -> None:
        self._bundle, self._wanted, self._cells, self._now, self._contents = bundle, wanted, cells, now, contents
        self._open: dict[str, Reservation] = {}
        self._counted = 0
        self._unknown: set[str] = set()
        self.asked: str | None = None  # the call of which `reserved` tells
        self.reserved: Reservation | None = None

    def take(self, record: query.Record) -> None:
        call_id = str(record.get("call_id"))
        try:
            self._take(record, call_id)
        except (KeyError, TypeError, ValueError):  # not as this version writes it
            self._unknown.add(call_id)

    def _take(self, record: query.Record, call_id: str) -> None:
        if record["type"] == "call.intent":
            reservation = self._reservation(record, call_id)
            if call_id == self.asked:
                self.reserved = reservation
            if reservation.entries:
                self._cells.reserve(reservation)
                self._open[call_id] = reservation
                self._counted += 1
        elif record["type"] in ("call.outcome", "call.refused", "call.resolved"):
            ended = _ended(record)
            if ended == "refused":
                self._unknown.discard(call_id)
            if call_id in self._open:
                self._counted -= ended == "refused"
                self._cells.settle(self._open.pop(call_id), ended)

    def end(self) -> Backfilled:
        """Calls without an end may have happened."""
        for reservation in self._open.values():
            self._cells.settle(reservation, "failed")
        return Backfilled(self._counted, len(self._unknown))

    def _reservation(self, record: query.Record, call_id: str) -> Reservation:
        at = float(cast(float, record["opened_at"]))
        entries = [e for e in self._entries(record, call_id) if e.cell.within > self._now - at]
        return Reservation(call_id, at, (), tuple(entries))

    def _entries(self, record: query.Record, call_id: str) -> list[Entry]:
        principal = _principal(record)
        named = cast(Mapping[str, str], record["tool"])["name"]
        tool = self._bundle.tools.get(named)
        fed = self._wanted.keys() & (self._bundle.feeds(tool, principal) if tool else self._wanted.keys())
        if not fed:
            return []
        content = self._content(record)
        entries = [e for e in read_entries(content.get("reserves")) if stem_of(e.cell.key) in fed]
        left = fed - {stem_of(entry.cell.key) for entry in entries}
        if not left:
            return entries
        if tool is None or "arguments" not in content:
            if not self._whole(record, content):
                self._unknown.add(call_id)
            return entries
        at, uid = float(cast(float, record["opened_at"])), str(cast(Mapping[str, Json], record["content"])["key"])
        session = Session(str(record["session_id"]), uid, principal.key, at, at)
        arguments = Arguments(cast(Mapping[str, Json], content["arguments"]))
        call = Call(call_id, Caller(principal, session), tool, arguments, at, 0)
        return entries + [e for e in self._bundle.entries(call) if stem_of(e.cell.key) in left]

    def _whole(self, record: query.Record, content: Mapping[str, Json]) -> bool:
        """Whether all that the call reserved under this very bundle can be read."""
        decision = cast(Mapping[str, Json], record["decision"])
        readable = bool(content) or record.get("content") is None
        return decision["bundle_digest"] == self._bundle.digest and readable

    def _content(self, record: query.Record) -> Mapping[str, Json]:
        try:
            content = self._contents.open(record)
        except Unreadable:
            return {}
        return content if isinstance(content, dict) else {}


def _principal(record: query.Record) -> Principal:
    said = cast(Mapping[str, str], record["principal"])
    return Principal(said["agent"], str(record["tenant"]), said["user"])


def _ended(record: query.Record) -> Ended:
    if record["type"] == "call.resolved":
        return "done" if record["as"] == "done" else "refused"
    outcome = cast(Mapping[str, Json], record["outcome"])
    if record["type"] == "call.refused" or outcome["status"] == "refused":
        return "refused"
    return "done" if outcome["status"] == "done" else "failed"


class Adopting(Protocol):
    """Counters that can be brought the past: `adopt` what is on record of calls that ended, `restate` how one ended."""

    def adopt(self, past: Cells) -> None: ...
    def restate(self, reservation: Reservation, ended: Ended, past: Cells) -> None: ...


class History:
    """Brings to the counters the past that a bundle asks for, before it is in force."""

    def __init__(
        self, home: Path, counters: Adopting, clock: Clock, say: Callable[[str], None], late: float = LATE
    ) -> None:
        """`late`: seconds after which the calls that were admitted by the bundle before are on record."""
        self._home, self._counters, self._clock, self._say, self._wait = home, counters, clock, say, late
        self._late: list[tuple[PolicyBundle, Set[str], float]] = []
        self._waiting = asyncio.Event()
        self._counting: Sequence[PolicyBundle] = ()

    async def prepare(self, bundle: PolicyBundle, in_force: Sequence[PolicyBundle]) -> None:
        """Reads the past of what `bundle` declares and none of those `in_force`, whose aggregates count by themselves.

        When it returns the counters have it, up to the calls that are on record: put the bundle in force at once. What
        is admitted by the bundle before and not on record yet is added by `watch`.
        """
        self._counting = (bundle, *in_force)
        known = frozenset(stem for each in in_force for stem in each.windows)
        if bundle.windows.keys() - known:
            await self._bring(bundle, known)

    async def everything(self) -> Cells:
        """All that the bundles in force count, by the ledger, for counters that were emptied."""
        cells, known = Cells(), set[str]()
        for bundle in self._counting:
            await asyncio.to_thread(backfill, self._home, bundle, cells, self._clock.now(), frozenset(known))
            known |= bundle.windows.keys()
        return cells

    async def resolved(self, call_id: str, ended: Ended) -> None:
        """Counts a call as an operator says that it ended, `done` or `refused`, once that is on record.

        Raises `OSError`, `ValueError` or `sqlite3.Error` when the past cannot be read; it counts as before then.
        """
        for bundle in self._counting:
            past = Cells()
            found = await asyncio.to_thread(recount, self._home, bundle, past, self._clock.now(), call_id)
            if found is not None:
                self._counters.restate(found, ended, past)

    async def _bring(self, bundle: PolicyBundle, known: Set[str]) -> None:
        begun = self._clock.now()
        past, found = await self._read(bundle, known, 0.0)
        latest, _ = await self._read(bundle, known, begun - _OVERLAP)
        self._counters.adopt(past)
        self._counters.adopt(latest)
        self._late.append((bundle, known, self._clock.now()))
        self._waiting.set()
        if found.counted or found.unknown:
            self._say(f"toolgate: state: {found.counted} calls of the past count, {found.unknown} could not be read")

    async def watch(self) -> None:
        """Adds, some seconds after each `prepare`, the calls that were admitted by the bundle before."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            late, self._late = self._late, []
            await asyncio.sleep(self._wait)
            for bundle, known, prepared in late:
                try:
                    past, _ = await self._read(bundle, known, prepared - _OVERLAP)
                except Exception:  # a background loop must outlive one bad read; what is in force stays so
                    log.exception("the latest calls could not be read back")
                else:
                    self._counters.adopt(past)

    async def _read(self, bundle: PolicyBundle, known: Set[str], since: float) -> tuple[Cells, Backfilled]:
        cells = Cells()
        found = await asyncio.to_thread(backfill, self._home, bundle, cells, self._clock.now(), known, since)
        return cells, found
