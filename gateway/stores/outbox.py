"""Records that the command line owes the ledger: kept in `state.db` until the gateway, which alone writes it, has.

A gateway that stops between writing a record and noting that it has writes it twice. It decides nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from gateway.ports import Ledger, Line
from gateway.stores.sqlite import State
from gateway.tool import Json


class Outbox:
    """What is to be put on record, in the order in which it was done."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting = True  # until the file has been looked at

    def refresh(self) -> None:
        """Another process changed the file."""
        self._waiting = True

    def add(self, type_: str, fields: Mapping[str, Json]) -> None:
        """Keeps one, durably. Blocks."""
        self._state.write("INSERT INTO outbox (type, fields) VALUES (?, ?)", (type_, json.dumps(fields)))

    async def record(self, ledger: Ledger) -> None:
        """Puts on record what is waiting. Raises the refusals of `Ledger.check`; the rest is written the next time."""
        if not self._waiting:
            return
        sql = "SELECT number, type, fields FROM outbox ORDER BY number"
        for number, type_, fields in await asyncio.to_thread(self._state.read, sql):
            await ledger.append(Line(str(type_), json.loads(str(fields))))
            await asyncio.to_thread(self._state.write, "DELETE FROM outbox WHERE number = ?", (number,))
        self._waiting = False
