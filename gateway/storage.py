"""What limits calls, and where it is kept: counters, claims, approvals, sessions, by the setting `store`. It counts
nothing."""

from __future__ import annotations

import asyncio
import hmac
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway import ports
from gateway.audit.keystore import master_key
from gateway.home import BadHome, Home
from gateway.identity.revocations import Revocations
from gateway.model import Refusal
from gateway.recounting import Recount
from gateway.reliability.cells import Cells
from gateway.reseeding import reseed
from gateway.settings import Settings
from gateway.sharing import Shared, open_shared
from gateway.stores.approvals import MemoryApprovals
from gateway.stores.counters import MemoryCounters
from gateway.stores.memory import MemoryOutcomes
from gateway.stores.redis_approvals import RedisApprovals
from gateway.stores.redis_counters import RedisCounters
from gateway.stores.redis_sessions import RedisSessions
from gateway.stores.sqlite import SqliteKeys, State
from gateway.stores.sqlite_approvals import SqliteApprovals
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.stores.sqlite_sessions import Seal, SqliteSessions
from gateway.tool import Json

Sessions = SqliteSessions | RedisSessions


@dataclass(frozen=True, slots=True)
class Storage:
    """What limits calls, and the sessions that they are in. `counters` are also the claims. `shared` is what gateways
    of one Redis have in common, None for a gateway that is alone; `secret` is for signing, at any of them."""

    counters: MemoryCounters | RedisCounters
    approvals: MemoryApprovals | SqliteApprovals | RedisApprovals
    sessions: Sessions
    outcomes: MemoryOutcomes
    secret: bytes
    shared: Shared | None = None
    recount: Recount | None = None

    def remembers(self, cells: Callable[[], Awaitable[Cells]]) -> None:
        """How the past of declared state is read again, for counters that were emptied."""
        if self.recount is not None:
            self.recount.cells = cells

    def state(self) -> Mapping[str, Json]:
        """What `/readyz` says of it: nothing of a store that no other gateway has."""
        if not isinstance(self.counters, RedisCounters):
            return {}
        return {"store": "ok" if self.counters.whole else "away"}

    def loops(self) -> Iterator[Coroutine[None, None, None]]:
        """What is to run beside."""
        if self.shared is not None:
            yield from (loop() for loop in self.shared.loops)

    def erased(self, uids: Collection[str]) -> None:
        """Drops what was content of these sessions: it was erased."""
        self.sessions.forget_requests(uids)
        self.counters.erased(uids)
        self.approvals.erased(uids)
        self.outcomes.erased()

    def in_use(self, now: float) -> set[str]:
        """The `uid` of each session that is open at `now` (unix seconds)."""
        return {each.uid for each in self.sessions.all() if each.state == "open" and each.expires_at > now}


async def open_storage(
    settings: Settings,
    home: Home,
    state: State,
    known: tuple[SqliteKeys, Revocations],
    seal: Seal,
    clock: ports.Clock,
    progress: Callable[[str], None],
    stack: AsyncExitStack,
) -> Storage:
    """The stores that the settings name; `stack` closes them. To be opened after the ledger, by which what a life
    before left open is settled here, and whose `seal` content is kept under.

    Raises `BadSettings` or `BadHome` when they cannot be had.
    """
    master, shared = master_key(home.path), await open_shared(settings, *known, stack)
    if shared is not None:
        me = hmac.digest(master, b"toolgate gateway v1", "sha256").hex()[:32]
        recount = Recount(home.path, settings.limits.bounds, clock)
        counters = RedisCounters(shared.address, me, shared.box, recount, home.replicas)
        await stack.enter_async_context(counters)
        return Storage(counters, shared.approvals, shared.sessions, shared.outcomes, shared.secret, shared, recount)
    sessions = SqliteSessions(state, seal=seal)
    stack.push_async_callback(sessions.flush)
    if settings.store == "memory":
        return Storage(MemoryCounters(steady=clock.steady), MemoryApprovals(), sessions, MemoryOutcomes(), master)
    try:
        kept = await asyncio.to_thread(SqliteCounters, home.limits, seal, None, clock.steady, clock.now)
        stack.push_async_callback(asyncio.to_thread, kept.shut)
        if found := await reseed(home.path, kept, clock.now()):
            progress(f"toolgate: limits: {found}")
        return Storage(kept, SqliteApprovals(state, seal), sessions, MemoryOutcomes(), master)
    except (sqlite3.Error, OSError, ValueError, Refusal) as error:
        raise BadHome(f"{home.limits}: cannot be used: {error}") from error
