"""What limits calls, and where it is kept: counters, claims, approvals, by the setting `store`. It counts nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway import ports
from gateway.home import BadHome, Home
from gateway.model import Refusal
from gateway.reseeding import reseed
from gateway.settings import BadSettings, Settings
from gateway.stores.approvals import MemoryApprovals
from gateway.stores.counters import MemoryCounters
from gateway.stores.sqlite import State
from gateway.stores.sqlite_approvals import SqliteApprovals
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.stores.sqlite_sessions import Seal


@dataclass(frozen=True, slots=True)
class Storage:
    """What limits calls. `counters` are also the claims. `secret` is what all gateways of one store have in common;
    a store of one gateway alone needs none."""

    counters: MemoryCounters
    approvals: MemoryApprovals | SqliteApprovals
    secret: bytes | None = None

    def erased(self, uids: Collection[str]) -> None:
        """Drops what was content of these sessions: it was erased."""
        self.counters.erased(uids)
        self.approvals.erased(uids)


async def open_storage(
    settings: Settings,
    home: Home,
    state: State,
    seal: Seal,
    clock: ports.Clock,
    progress: Callable[[str], None],
    stack: AsyncExitStack,
) -> Storage:
    """The stores that the settings name; `stack` closes them. To be opened after the ledger, by which what a life
    before left open is settled here, and whose `seal` content is kept under.

    Raises `BadSettings` or `BadHome` when they cannot be had.
    """
    if settings.store == "memory":
        return Storage(MemoryCounters(steady=clock.steady), MemoryApprovals())
    if settings.store != "sqlite":
        raise BadSettings([f"store: {settings.store!r} is not supported yet"])
    try:
        counters = await asyncio.to_thread(SqliteCounters, home.limits, seal, None, clock.steady)
        stack.push_async_callback(asyncio.to_thread, counters.shut)
        if found := await reseed(home.path, counters, clock.now()):
            progress(f"toolgate: limits: {found}")
        return Storage(counters, SqliteApprovals(state, seal))
    except (sqlite3.Error, OSError, ValueError, Refusal) as error:
        raise BadHome(f"{home.limits}: cannot be used: {error}") from error
