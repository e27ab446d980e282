"""Calls that wait for a person, in `state.db`: durable before anybody is told, and read from there each time.

Another process (the command line) may answer, and the gateway sees it with the next look. What would be done, and the
preview of it, is sealed under the key of the session's content. It writes no record.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from gateway.model import Refusal
from gateway.parked import Answer, Parked
from gateway.problems import refuse
from gateway.stores.approvals import KEPT, answered, too_many, waits
from gateway.stores.parked import content, parked_of, plain
from gateway.stores.sqlite import State
from gateway.stores.sqlite_sessions import Seal

T = TypeVar("T")
_RETRY_MS = 500
# What conditions look at has columns of its own, and counts; the same in `said` is as it was when it was asked.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS approvals (
  id TEXT PRIMARY KEY, tenant TEXT NOT NULL, binding TEXT NOT NULL, owner TEXT NOT NULL, session TEXT NOT NULL,
  state TEXT NOT NULL, expires_at REAL NOT NULL, answers TEXT NOT NULL, used_by TEXT, said TEXT NOT NULL, box BLOB)
"""
_COLUMNS = "session, state, answers, used_by, said, box"
_ALIVE = "state = 'pending' AND expires_at > ?"
_ASK = f"""
INSERT INTO approvals SELECT ?, ?, ?, ?, ?, 'pending', ?, '[]', NULL, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM approvals WHERE binding = ? AND {_ALIVE})
AND (SELECT COUNT(*) FROM approvals WHERE owner = ? AND {_ALIVE}) < ?
"""
_ANSWER = f"UPDATE approvals SET state = ?, answers = ? WHERE id = ? AND tenant = ? AND answers = ? AND {_ALIVE}"
_USE = """
UPDATE approvals SET state = 'used', used_by = ? WHERE id = ? AND tenant = ? AND state = 'granted' AND expires_at > ?
"""
_RESTORE = """
UPDATE approvals SET state = 'granted', used_by = NULL
WHERE id = ? AND tenant = ? AND state = 'used' AND used_by = ?
"""


class SqliteApprovals:
    """The port `Approvals`, over the `state.db` of a home."""

    def __init__(self, state: State, seal: Seal) -> None:
        """Raises `sqlite3.Error` when the file cannot be used."""
        self._state, self._seal = state, seal
        state.write(_SCHEMA, ())

    async def bound(self, binding: str, now: float) -> Parked | None:
        fits = "binding = ? AND state <> 'used' AND expires_at > ? ORDER BY rowid DESC LIMIT 1"
        return next(iter(await self._found(fits, (binding, now))), None)

    async def get(self, tenant: str, approval_id: str) -> Parked | None:
        return next(iter(await self._found("id = ? AND tenant = ?", (approval_id, tenant))), None)

    async def all(self, tenant: str | None) -> Sequence[Parked]:
        return await self._found("? IS NULL OR tenant = ? ORDER BY rowid", (tenant, tenant))

    async def ask(self, parked: Parked, most: int) -> Parked:
        """See the port. It is kept as one that is pending."""
        now, own = parked.asked_at, (parked.id, parked.tenant, parked.binding, parked.owner, parked.session)
        try:
            box = await self._seal.seal_words(parked.session, parked.tenant, content(parked))
        except (sqlite3.Error, OSError):
            raise _unavailable() from None
        said = (parked.expires_at, json.dumps(plain(parked)), box)
        conditions = (parked.binding, now, parked.owner, now, most)
        for _ in range(2):  # the one that is in the way may be answered before it is looked at
            await self._durably("DELETE FROM approvals WHERE expires_at + ? <= ?", (KEPT, now))
            if await self._durably(_ASK, (*own, *said, *conditions)):
                return parked
            there = await self._found(f"binding = ? AND {_ALIVE}", (parked.binding, now))
            if there:
                return there[0]
        waiting = await self._found(f"owner = ? AND {_ALIVE}", (parked.owner, now))
        raise too_many((each.expires_at for each in waiting), now)

    async def answer(self, tenant: str, approval_id: str, answer: Answer) -> Parked | None:
        while True:  # until nobody else has answered between the look and the change
            there = await self.get(tenant, approval_id)
            if there is None or not waits(there, answer.at):
                return None
            now = answered(there, answer)
            change = (now.state, _answers(now), approval_id, tenant, _answers(there), answer.at)
            if await self._durably(_ANSWER, change):
                return now

    async def use(self, tenant: str, approval_id: str, call_id: str, now: float) -> bool:
        return await self._durably(_USE, (call_id, approval_id, tenant, now)) == 1

    async def restore(self, tenant: str, approval_id: str, call_id: str) -> None:
        await self._durably(_RESTORE, (approval_id, tenant, call_id))

    def erased(self, uids: Collection[str]) -> None:
        """Drops the arguments and previews that were content of these sessions: it was erased. Blocks.

        What cannot be dropped now cannot be read either: the key it was sealed under is gone.
        """
        try:
            self._state.write_all("UPDATE approvals SET box = NULL WHERE session = ?", lambda: [(uid,) for uid in uids])
        except sqlite3.Error:
            return

    async def _found(self, where: str, values: Sequence[object]) -> Sequence[Parked]:
        def found() -> Sequence[Parked]:
            rows = self._state.read(f"SELECT {_COLUMNS} FROM approvals WHERE {where}", values)
            return [self._parked(row) for row in rows]

        return await _asked(found)

    def _parked(self, row: Sequence[object]) -> Parked:
        session, state, answers, used_by, said, box = row
        words = self._seal.open_words(str(session), box) if isinstance(box, bytes) else None
        now = {"state": state, "answers": json.loads(str(answers)), "used_by": used_by}
        return parked_of({**json.loads(str(said)), **now}, words)

    async def _durably(self, sql: str, values: Sequence[object]) -> int:
        return await _asked(lambda: self._state.write(sql, values))


async def _asked(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except sqlite3.Error:
        raise _unavailable() from None


def _answers(parked: Parked) -> str:
    return json.dumps(plain(parked)["answers"])


def _unavailable() -> Refusal:
    return refuse("overloaded", "What waits for a person cannot be kept just now.", retry_after_ms=_RETRY_MS)
