"""Calls as the ledger has them, with the calls that their code made. It reads records, and guesses nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gateway.audit.content import Contents, Unreadable
from gateway.audit.query import Record
from gateway.audit.search import search
from gateway.model import Principal
from gateway.replay.answers import Answer, answer_of
from gateway.tool import Json
from gateway.wanted import Wanted

_BEGINS = ("call.intent", "call.refused", "call.parked")
_ENDS = ("call.outcome", "call.in_doubt", "call.resolved")


class Unfit(Exception):
    """A call that cannot be run again. The text says why."""


@dataclass(slots=True)
class Taken:
    """One call on record: what began it, and what ended it if anything did. `place` grows from call to call."""

    began: Record
    place: int
    ended: Record | None = None

    @property
    def id(self) -> str:
        return str(self.began["call_id"])

    @property
    def tool(self) -> str:
        return str(cast(Any, self.began["tool"])["name"])

    @property
    def tool_digest(self) -> str | None:
        found = cast(Any, self.began["tool"]).get("digest")
        return None if found is None else str(found)

    @property
    def parent(self) -> str | None:
        found = self.began.get("parent_call_id")
        return None if found is None else str(found)

    @property
    def owner(self) -> Principal:
        """Who made the call, as far as artifacts are concerned."""
        who = cast(Any, self.began["principal"])
        return Principal(str(who["agent"]), str(self.began["tenant"]), who["user"])


class Story:
    """The calls of the sessions that were asked about, each session read once."""

    def __init__(self, home: Path, contents: Contents) -> None:
        self._home, self._contents = home, contents
        self._calls: dict[str, Taken] = {}
        self._below: dict[str, list[str]] = {}
        self._read: set[str] = set()

    def find(self, call_id: str) -> Taken | None:
        """The call, with its whole session read; None when it is not on record."""
        if call_id not in self._calls:
            for record in _all(self._home, Wanted(call=call_id)):
                self._session(str(record.get("session_id", "")))
        return self._calls.get(call_id)

    def in_session(self, session: str) -> list[Taken]:
        """The calls of a session by its id, in the order in which they began, those of code among them."""
        self._session(session)
        return [call for call in self._calls.values() if call.began["session_id"] == session]

    def made_by(self, call_id: str) -> list[Taken]:
        """The calls that the code of this one made itself, in order."""
        return [self._calls[each] for each in self._below.get(call_id, ())]

    def caused_by(self, call_id: str) -> Iterator[Taken]:
        """Those, and those that the code of those made, at all depths."""
        for call in self.made_by(call_id):
            yield call
            yield from self.caused_by(call.id)

    def content(self, call: Taken) -> Json:
        """What was sealed with the call's first record. Raises Unfit."""
        try:
            return self._contents.open(call.began)
        except Unreadable as why:
            raise Unfit(f"its content cannot be read: {why}") from None

    def answer(self, call: Taken) -> Answer:
        """What came of the call."""
        return answer_of(call.began, call.ended, self._contents, call.owner.key)

    def _session(self, session: str) -> None:
        if session in self._read:
            return
        self._read.add(session)
        for record in _all(self._home, Wanted(session=session)):
            call_id = str(record.get("call_id"))
            if record["type"] in _BEGINS and call_id not in self._calls:
                self._begin(call_id, record)
            elif record["type"] in _ENDS and call_id in self._calls:
                self._calls[call_id].ended = record

    def _begin(self, call_id: str, record: Record) -> None:
        taken = self._calls[call_id] = Taken(record, len(self._calls))
        if taken.parent is not None:
            self._below.setdefault(taken.parent, []).append(call_id)


def _all(home: Path, wanted: Wanted) -> list[Record]:
    return search(home, wanted, sys.maxsize - 1, None)
