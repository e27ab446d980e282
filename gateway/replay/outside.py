"""The world of a replay: its clock, its one session, what counts, who calls, where lines and files go.

None of it dials, waits, or writes to the recorded home.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.admission import Account, Amounts, Ask, Taken, Warned
from gateway.aggregates import Cell, Ended, Level
from gateway.lifetimes import Change
from gateway.model import Artifact, Position, Principal, Session
from gateway.ports import Artifacts, Authority, Claims, Clock, Counters, Ledger, Line
from gateway.problems import refuse
from gateway.replay.answers import Denied
from gateway.replay.script import Turn
from gateway.stores.artifacts import read_file
from gateway.tool import Json, Labels

# Seconds. A rate is taken some milliseconds after its call was opened, and only the opening is on record: this close to
# the moment from which a call fits, the record decides.
EDGE = 0.05


class ReplayClock:
    """The time of the record, moved forward by its calls. Deadlines go by the machine's own."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, at: float) -> None:
        self._at = at

    def now(self) -> float:
        return self._at

    def steady(self) -> float:
        return self._at

    def forward(self, at: float) -> None:
        """Never back."""
        self._at = max(self._at, at)


@dataclass(frozen=True, slots=True)
class TheCaller:
    """Everyone whom `inner` knows is the recorded principal."""

    inner: Authority
    principal: Principal

    async def identify(self, credential: str | None) -> Principal:
        await self.inner.identify(credential)
        return self.principal


class OneSession:
    """The port `Sessions` with the recorded session in it, whatever the caller calls it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, owner: str, session_id: str) -> Session | None:
        return self._session if owner == self._session.owner else None

    async def seek(self, owner: str, session_id: str) -> Session | None:
        return self.find(owner, session_id)

    async def open(self, session: Session) -> Session:
        return self._session

    def line(self, uid: str) -> Sequence[Session]:
        return [self._session]

    async def ask(self, session: Session, words: str) -> Session | None:
        self._session = replace(self._session, request=(*self._session.request, words))
        return self._session

    async def fresh(self, session: Session) -> Session | None:
        return self._session

    def is_open(self, session: Session) -> bool:
        return self._session.state == "open"

    def changes(self, now: float) -> Sequence[Change]:
        """None: whether a session was opened and closed is on record where it was."""
        return ()

    def put_back(self, changes: Sequence[Change]) -> None:
        """There are none."""

    async def recorded(self, changes: Sequence[Change]) -> None:
        """There are none."""

    async def close(
        self, owner: str, session_id: str, why: str = "closed", who: Mapping[str, Json] | None = None
    ) -> Session | None:
        if owner != self._session.owner:
            return None
        self._session = replace(self._session, state="closed")
        return self._session

    async def spend(self, session: Session, labels: Labels, cost: float) -> None:
        there = self._session
        self._session = replace(there, labels=there.labels | labels, calls=there.calls + 1, cost=there.cost + cost)

    def all(self) -> Sequence[Session]:
        return [self._session]


@dataclass(frozen=True, slots=True)
class AsRecorded:
    """The port `Counters` for one call: rates and declared state go by the recorded clock.

    How many calls run side by side is a matter of how long they take, which in a replay is no time: there the record
    decides.
    """

    inner: Counters
    claims: Claims
    clock: Clock
    turn: Turn

    async def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        return await self.inner.look(cells, now)

    async def take(self, ask: Ask) -> Taken:
        then = self.turn.recorded.answer if self.turn.recorded else None
        code = then.code if isinstance(then, Denied) else None
        if code == "concurrency_limited":
            return Taken("concurrency", ask.slots[0].key, retry_after=1.0)
        edge = -EDGE if code == "rate_limited" else EDGE if then is not None and code is None else 0.0
        again = replace(ask, now=self.clock.now() + edge, slots=())
        taken = await self.inner.take(again)
        if taken.claimed is not None and ask.claim is not None:  # then it was free
            await self.claims.release(ask.claim.key, taken.claimed.call_id)
            taken = await self.inner.take(again)
        if taken.kind == "rate" and isinstance(then, Denied) and then.retry_after_ms is not None:
            return replace(taken, retry_after=then.retry_after_ms / 1000)
        return taken

    def settle(self, ask: Ask, taken: Taken, ended: Ended, spent: Amounts) -> None:
        self.inner.settle(replace(ask, slots=()), taken, ended, spent)

    async def used(self, keys: Sequence[str]) -> Mapping[str, Amounts]:
        return await self.inner.used(keys)

    async def report(self, accounts: Sequence[Account], amounts: Amounts) -> Sequence[Warned]:
        return await self.inner.report(accounts, amounts)


@dataclass(frozen=True, slots=True)
class Marked:
    """The port `Ledger` for one call: each of its lines says of which recorded call it is a replay."""

    inner: Ledger
    turn: Turn

    def check(self) -> None:
        self.inner.check()

    async def append(self, line: Line) -> Position:
        if line.type == "call.intent":
            self.turn.admitted = True
        if self.turn.recorded_id is None:
            return await self.inner.append(line)
        fields: dict[str, Json] = {**line.fields, "replay_of": self.turn.recorded_id}
        return await self.inner.append(replace(line, fields=fields))

    def digest(self, tenant: str, value: bytes) -> str:
        return self.inner.digest(tenant, value)

    def checkpoint(self) -> None:
        self.inner.checkpoint()


class RecordedArtifacts:
    """The port `Artifacts` over what the recorded home still keeps of the caller, and what the session left."""

    def __init__(self, folder: Path, kept: Sequence[Artifact]) -> None:
        """`kept`: the later of two with the same handle counts."""
        self._folder = folder
        self._kept = {(artifact.owner, artifact.handle): artifact for artifact in kept}

    async def keep(self, artifact: Artifact, content: bytes) -> Artifact:
        """Nothing is kept: what is shown again left its files when it was recorded."""
        return artifact

    async def find(self, owner: str, handle: str) -> Artifact | None:
        return self._kept.get((owner, handle))

    async def read(self, artifact: Artifact) -> bytes:
        if (artifact.owner, artifact.handle) not in self._kept:
            raise refuse("not_found", "There is no such artifact, or it is not yours.")
        return await asyncio.to_thread(read_file, self._folder, artifact)


@dataclass(frozen=True, slots=True)
class Unread:
    """The port `Artifacts` for one call: its files are found, and not read, because nothing is run with them."""

    inner: Artifacts

    async def keep(self, artifact: Artifact, content: bytes) -> Artifact:
        return await self.inner.keep(artifact, content)

    async def find(self, owner: str, handle: str) -> Artifact | None:
        return await self.inner.find(owner, handle)

    async def read(self, artifact: Artifact) -> bytes:
        return b""
