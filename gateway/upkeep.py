"""What an operator does about the ledger: settles a call in doubt, erases content, replaces the signing key. Each is a
record of its own.

One thing at a time, by the one process that writes the ledger: the gateway, or while it is stopped the command line.
It never changes or removes a record.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar, cast

from gateway.aggregates import Ended
from gateway.audit import query
from gateway.audit.archive import NotKnown, gone, still_here
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.rotation import RECORD
from gateway.audit.search import find_call
from gateway.audit.writer import Writer
from gateway.ledger_ports import Erased, Moved, Rotated, Whose
from gateway.model import Position, Refusal
from gateway.ports import Line
from gateway.problems import refuse
from gateway.settling import Settling, settle_claim
from gateway.tool import Json

log = logging.getLogger("toolgate")
Count = Callable[[str, Ended], Awaitable[None]]
_COPIED = ("session_id", "tenant", "principal", "tool")
_AT_ONCE = 1000  # sessions that one record names
_RETRY_MS = 500
RETENTION = "retention"
Owner = tuple[str, str, str]
T = TypeVar("T")


@dataclass(slots=True)
class _Found:
    """Sessions by `uid`, and the callers whose they are."""

    sessions: set[str] = field(default_factory=set)
    owners: set[Owner] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Keeping:
    """For how long content is kept: seconds after a session's last record. `in_use` gives the sessions, by `uid`, that
    have not ended, and is asked in a thread."""

    age: float
    in_use: Callable[[], Collection[str]]
    now: Callable[[], float] = time.time


class LedgerUpkeep:
    """The port `Upkeep`, over the ledger of `home` and its one writer."""

    def __init__(
        self,
        home: Path,
        ledger: Writer,
        keeping: Keeping | None = None,
        count: Count | None = None,
        erased: Callable[[Collection[str]], None] = lambda _: None,
        claims: Settling | None = None,
    ) -> None:
        """Without `keeping` content is kept until it is erased. `count` is told how a call in doubt ended, `erased`
        whose content is gone, by the `uid` of the sessions: a copy in memory goes too. `claims` has its key."""
        self._home, self._ledger, self._keeping, self._count, self._erased = home, ledger, keeping, count, erased
        self._claims = claims
        self._turn = asyncio.Lock()
        self._rotated: Position | None = None  # where the record of the latest rotation is

    async def resolve(
        self,
        call_id: str,
        ended: Literal["done", "not-done"],
        why: str,
        who: Mapping[str, Json],
        tenant: str | None = None,
    ) -> Position:
        """See the port."""
        async with self._turn:
            self._ledger.check()
            found = await asyncio.to_thread(find_call, self._home, call_id)
            asked: query.Record = next((record for record in found if record["type"] == "call.intent"), {})
            doubtful = query.doubtful(found)
            if not doubtful or (tenant is not None and asked.get("tenant") != tenant):
                raise refuse("not_found", "No call of that id is in doubt.")
            said: dict[str, Json] = {"call_id": call_id, "as": ended, "why": why, "who": dict(who)}
            said |= {"intent": doubtful[0].get("intent")}
            said |= {name: asked[name] for name in _COPIED if name in asked}
            place = await self._ledger.append(Line("call.resolved", said))
            await self._counted(call_id, ended)
            await self._settled(asked, ended)
            return place

    async def _counted(self, call_id: str, ended: Literal["done", "not-done"]) -> None:
        if self._count is not None:
            try:
                await self._count(call_id, "done" if ended == "done" else "refused")
            except (sqlite3.Error, OSError, ValueError):  # it is on record, and counts so at the next start
                log.exception("%s counts as before until the next start", call_id)

    async def _settled(self, asked: query.Record, ended: Literal["done", "not-done"]) -> None:
        if self._claims is not None:
            try:
                await settle_claim(self._claims, asked, ended)
            except Refusal as refusal:  # it is on record all the same
                log.error("the idempotency key of %s stays in doubt: %s", asked["call_id"], refusal.problem.detail)

    async def erase(self, whose: Whose, why: str, who: Mapping[str, Json]) -> Erased:
        """See the port. The keys go first: a record that says so is never untrue."""
        async with self._turn:
            self._ledger.check()
            found = await _looked(_sessions, self._home, whose)
            whole = whose.tenant if whose == Whose(tenant=whose.tenant) else None
            if whose.session and not (whose.agent or whose.user) and len(found.owners) > 1:
                raise _whose_is_meant(whose.session, found.owners)
            return await self._erase(found.sessions, whole, {"tenant": whose.tenant, "why": why, "who": dict(who)})

    async def rotate_key(self, why: str, who: Mapping[str, Json]) -> Rotated:
        """See the port."""
        key = self._ledger.key
        async with self._turn:
            self._ledger.check()
            try:
                if key.unfinished is None:
                    self._rotated = None
                    await self._ledger.between(lambda shard: key.change(shard, why, who))
                said = key.unfinished or {}
                self._rotated = self._rotated or await self._ledger.append(Line(RECORD, said))
                await self._ledger.between(key.finish)
            except (OSError, ValueError) as error:
                how = "The key was not replaced" if key.unfinished is None else "The old key is not destroyed yet"
                raise refuse(
                    "audit_unavailable", f"{how}: {error}.", retry_after_ms=_RETRY_MS, advice="Rotate again."
                ) from error
            return Rotated(str(said["old"]), str(said["new"]), self._rotated)

    async def expire(self, who: Mapping[str, Json]) -> Erased | None:
        """See the port."""
        if self._keeping is None:
            return None
        async with self._turn:
            self._ledger.check()
            old = await _looked(self._expired, self._keeping)
            return await self._erase(old, None, {"tenant": None, "why": RETENTION, "who": dict(who)}) if old else None

    def _expired(self, keeping: Keeping) -> set[str]:
        """Sessions with a key made before then, that have ended, and that no record since then is of."""
        before = keeping.now() - keeping.age
        old = self._ledger.contents.made_before(before)
        if old:
            old -= set(keeping.in_use())
        if old:
            old -= {_key(record) for record in query.since(self._home, before)}
            for each in gone(self._home):
                if each["until"] >= before:  # when exactly a session in there spoke last is in the archive
                    old -= {session["key"] for session in each["sessions"]}
        return old

    async def archived(self, moved: Moved, who: Mapping[str, Json]) -> Position:
        """See the port."""
        async with self._turn:
            self._ledger.check()
            if not await asyncio.to_thread(still_here, self._home, moved):
                raise refuse(
                    "malformed", "These segments, with their leaf hashes, are not in the log as they were copied."
                )
            # verify.py looks for the first two, at the beginning, and knows by the last that there is no content.
            said: dict[str, Json] = {"first": moved.first, "last": moved.last, "sha256": dict(moved.digests)}
            return await self._ledger.append(Line("log.archived", said | {"who": dict(who), "to": moved.to}))

    async def _erase(self, sessions: set[str], tenant: str | None, said: dict[str, Json]) -> Erased:
        try:
            gone = await self._ledger.contents.erase(sessions, tenant)
            await asyncio.to_thread(_erase_replays, self._home, sessions | gone, tenant)
        except (sqlite3.Error, OSError) as error:
            raise refuse(
                "audit_unavailable",
                f"Not everything was erased, do it again: {error}.",
                retry_after_ms=_RETRY_MS,
                advice="Erase again.",
            ) from error
        meant = sorted(sessions | gone)
        self._erased(meant)
        if not meant:
            raise refuse("not_found", "There is no such session with content.")
        position = await self._note(meant, {"keys": len(gone)} | said)
        blobs = await asyncio.to_thread(self._drop_blobs, frozenset(meant))
        return Erased(len(meant), len(gone), blobs, position)

    async def _note(self, meant: list[str], said: dict[str, Json]) -> Position:
        """`payload.erased`, as often as it takes to name them all; the place of the last."""
        for begin in range(0, len(meant), _AT_ONCE):
            named: dict[str, Json] = {"sessions": list(meant[begin : begin + _AT_ONCE])}
            position = await self._ledger.append(Line("payload.erased", named | said))
        return position

    def _drop_blobs(self, sessions: frozenset[str]) -> int:
        """Removes the blobs that no key opens any more; one of a session that went on is kept."""
        contents = self._ledger.contents
        elsewhere = (record for each in gone(self._home) for record in each["blobs"])
        found = chain(query.records(self._home), elsewhere)
        return sum(_key(record) in sessions and contents.drop_blob(record) for record in found)


async def _looked(look: Callable[..., T], *asked: object) -> T:
    """Looks in a thread whose content is meant; nothing is erased when that cannot be said."""
    try:
        return await asyncio.to_thread(look, *asked)
    except NotKnown as why:
        raise refuse(
            "audit_unavailable",
            f"Nothing was erased: {why}.",
            retry_after_ms=_RETRY_MS,
            advice="Do so, then try again.",
        ) from why
    except FileNotFoundError:
        said = "Nothing was erased: segments were archived meanwhile."
        raise refuse("audit_unavailable", said, retry_after_ms=_RETRY_MS, advice="Erase again.") from None


def _erase_replays(home: Path, sessions: Collection[str], tenant: str | None) -> None:
    """Deletes the keys under which replays of these sessions have their content. Raises as erasing does."""
    for master in home.glob("replays/*/master.key"):
        replay = master.parent
        if (replay / "state.db").exists():
            with closing(KeyStore(replay / "state.db", master_key(replay))) as keys:
                keys.erase(sessions, tenant)
                keys.scrub()


def _sessions(home: Path, whose: Whose) -> _Found:
    """Every session on record that is meant."""
    found = _Found()
    for record in query.records(home):
        key, owner = _key(record), _owner(record)
        if key is not None and _fits(whose, record, key, owner):
            found.sessions.add(key)
            found.owners.add(owner)
    for said in (session for each in gone(home) for session in each["sessions"]):
        owner = (said["tenant"], said["agent"], said["user"])
        if _fits(whose, said, said["key"], owner):
            found.sessions.add(said["key"])
            found.owners.add(owner)
    return found


def _fits(whose: Whose, record: query.Record, key: str, owner: Owner) -> bool:
    wanted = (whose.tenant, whose.agent, whose.user)
    same = all(want is None or want == has for want, has in zip(wanted, owner, strict=True))
    return same and whose.session in (None, record.get("session_id"), key)


def _key(record: query.Record) -> str | None:
    content = record.get("content")
    return str(content["key"]) if isinstance(content, dict) else None


def _owner(record: query.Record) -> Owner:
    who = cast(Mapping[str, Json], record.get("principal") or {})
    return str(record.get("tenant")), str(who.get("agent")), str(who.get("user") or "")


def _whose_is_meant(session: str, owners: set[Owner]) -> Refusal:
    shown = "; ".join(f"tenant {t}, agent {a}" + (f", user {u}" if u else "") for t, a, u in sorted(owners)[:5])
    return refuse("malformed", f"Several callers have a session {session}: say whose is meant ({shown}).")
