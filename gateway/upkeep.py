"""What an operator does about the ledger's past: settles a call in doubt, erases content. Each is a record of its own.

One thing at a time, by the one process that writes the ledger: the gateway, or while it is stopped the command line.
It never changes or removes a record.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from gateway.audit import query
from gateway.audit.writer import Writer
from gateway.model import Position, Refusal
from gateway.ports import Erased, Line, Whose
from gateway.problems import refuse
from gateway.tool import Json

_COPIED = ("session_id", "tenant", "principal", "tool")
_AT_ONCE = 1000  # sessions that one record names
_RETRY_MS = 500
Owner = tuple[str, str, str]


@dataclass(slots=True)
class _Found:
    """Sessions by `uid`, and the callers whose they are."""

    sessions: set[str] = field(default_factory=set)
    owners: set[Owner] = field(default_factory=set)


class LedgerUpkeep:
    """The port `Upkeep`, over the ledger of `home` and its one writer.

    `erased` is told whose content is gone, by the `uid` of the sessions: a copy in memory goes too.
    """

    def __init__(self, home: Path, ledger: Writer, erased: Callable[[Collection[str]], None] = lambda _: None) -> None:
        self._home, self._ledger, self._erased = home, ledger, erased
        self._turn = asyncio.Lock()

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
            found = await asyncio.to_thread(query.find_call, self._home, call_id)
            asked: query.Record = next((record for record in found if record["type"] == "call.intent"), {})
            doubtful = query.doubtful(found)
            if not doubtful or (tenant is not None and asked.get("tenant") != tenant):
                raise refuse("not_found", "No call of that id is in doubt.")
            said: dict[str, Json] = {"call_id": call_id, "as": ended, "why": why, "who": dict(who)}
            said |= {"intent": doubtful[0].get("intent")}
            said |= {name: asked[name] for name in _COPIED if name in asked}
            return await self._ledger.append(Line("call.resolved", said))

    async def erase(self, whose: Whose, why: str, who: Mapping[str, Json]) -> Erased:
        """See the port. The keys go first: a record that says so is never untrue."""
        async with self._turn:
            self._ledger.check()
            found = await asyncio.to_thread(_sessions, self._home, whose)
            whole = whose.tenant if whose == Whose(tenant=whose.tenant) else None
            if whose.session and not (whose.agent or whose.user) and len(found.owners) > 1:
                raise _whose_is_meant(whose.session, found.owners)
            try:
                gone = await self._ledger.contents.erase(found.sessions, whole)
            except (sqlite3.Error, OSError) as error:
                raise refuse(
                    "audit_unavailable",
                    f"Not everything was erased, do it again: {error}.",
                    retry_after_ms=_RETRY_MS,
                    advice="Erase again.",
                ) from error
            meant = sorted(found.sessions | gone)
            self._erased(meant)
            if not meant:
                raise refuse("not_found", "There is no such session with content.")
            position = await self._note(
                meant, {"keys": len(gone), "tenant": whose.tenant, "why": why, "who": dict(who)}
            )
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
        return sum(_key(record) in sessions and contents.drop_blob(record) for record in query.records(self._home))


def _sessions(home: Path, whose: Whose) -> _Found:
    """Every session on record that is meant."""
    found = _Found()
    for record in query.records(home):
        key, owner = _key(record), _owner(record)
        if key is not None and _fits(whose, record, key, owner):
            found.sessions.add(key)
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
