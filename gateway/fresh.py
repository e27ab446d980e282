"""What other processes and other gateways did, taken over twice a second; and what is not on record yet, recorded."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from gateway.identity.revocations import Revocations
from gateway.model import Refusal
from gateway.pipeline import Gate
from gateway.sharing import Shared
from gateway.storage import Storage
from gateway.stores.outbox import Outbox
from gateway.stores.sqlite import SqliteKeys, State
from gateway.stores.sqlite_sessions import SqliteSessions

log = logging.getLogger("toolgate")
_REFRESH = 0.5  # seconds between two looks at what another process wrote into state.db


class Fresh:
    """Keeps the copies in memory of one gateway as they are in `state.db` and, where there is one, in Redis."""

    def __init__(self, state: State, known: tuple[SqliteKeys, Revocations], storage: Storage, gate: Gate) -> None:
        self._state, self._gate, self._outbox = state, gate, Outbox(state)
        self._keys, self._revocations = known
        self._sessions, self._shared = storage.sessions, storage.shared
        self._behind = self._untold = False

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_REFRESH)
            try:
                await self._take_over()
                if self._shared is not None:
                    await self._tell(self._shared)
                with contextlib.suppress(Refusal):  # the ledger cannot be written: tried again the next time
                    await self._revocations.record(self._gate.ledger)
                    await self._outbox.record(self._gate.ledger)
                    await self._gate.record_sessions()
                await self._sessions.flush()
            except Exception:  # a background loop must outlive one bad look; the next one is half a second away
                log.exception("state.db could not be read")

    async def _take_over(self) -> None:
        self._behind = await asyncio.to_thread(self._state.changed) or self._behind
        if self._behind:  # until all of it was read: what changed is told only once
            await asyncio.to_thread(self._keys.refresh)
            await asyncio.to_thread(self._revocations.refresh)
            if isinstance(self._sessions, SqliteSessions):
                self._sessions.refresh()
            self._outbox.refresh()
            self._behind, self._untold = False, True

    async def _tell(self, shared: Shared) -> None:
        with contextlib.suppress(Refusal):  # Redis is away: told again the next time
            if self._untold:
                await shared.tell()
                self._untold = False
        await shared.collect()
