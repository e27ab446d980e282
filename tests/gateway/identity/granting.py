"""Leases and connected accounts at a real authorization server, through the real outbound client, with no gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.accounts import Person
from gateway.app import RandomIds, SystemClock
from gateway.identity.connecting import Connector
from gateway.identity.connections import PURPOSE, Connections
from gateway.identity.leases import Leases
from gateway.identity.oauth import Endpoints, Token
from gateway.identity.providers import Provider
from gateway.identity.store import Seal
from gateway.identity.vault import SecretVault
from gateway.model import Holder, Position, Principal, Session
from gateway.ports import Line
from gateway.problems import refuse
from gateway.runners.net import Egress, Net
from gateway.stages.authenticate import suppose
from gateway.stores.accounts import SqliteAccounts
from gateway.stores.memory import MemoryLedger
from gateway.stores.sessions import MemorySessions
from gateway.stores.sqlite import State
from tests.gateway.identity.authstate import GATEWAY, SECRET, AuthServer


class Book(MemoryLedger):
    """A ledger that may refuse, and does something first when it is asked for one kind of record."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: str | None = None
        self.first: Any = None

    async def append(self, line: Line) -> Position:
        if self.first is not None and line.type == "credential.minted":
            await self.first()
        if line.type == self.refuses:
            raise refuse("audit_unavailable", "No.")
        return await super().append(line)

    def of(self, kind: str) -> list[Line]:
        """Lines of one type."""
        return [line for line in self.lines if line.type == kind]


@dataclass
class Granting:
    """Everything, under one clock. `now` is added to the monotonic time that links are timed by."""

    server: AuthServer
    book: Book
    connections: Connections
    connector: Connector
    leases: Leases
    sessions: MemorySessions
    rows: SqliteAccounts
    late: list[float] = field(default_factory=lambda: [0.0])

    def holder(self, user: str | None, session: str = "one", tool: str = "act", tenant: str = "default") -> Holder:
        """A call of somebody in a session, which is open from now on."""
        who = Principal("bot", tenant, user)
        known = self.sessions.find(who.key, session) or Session(session, f"u_{session}_{user}", who.key, 0.0, 1e12)
        self.sessions.put(known)
        return Holder(suppose(who, known), "c_1", tool)

    async def given(self, user: str) -> Token:
        """What the provider gives when a person comes back."""
        made = self.server.refresh_token(user)
        return await self.leases._endpoints["mine"].refreshed(made)


@asynccontextmanager
async def granting(folder: Path, server: AuthServer) -> AsyncIterator[Granting]:
    """Until the end of the block."""
    vault = SecretVault({})

    async def secret() -> str:
        return SECRET

    common = {"token_url": f"{server.url}/token", "client_id": GATEWAY, "revoke_url": f"{server.url}/revoke"}
    mine = Provider("mine", "connect", authorize_url=f"{server.url}/authorize", scopes=("act",), **common)
    with closing(State(folder / "state.db")) as state:
        net = Net(Egress(), vault)
        endpoints = {
            each.name: Endpoints(each, net, secret) for each in (mine, Provider("own", "client_credentials", **common))
        }
        clock, ids, book, sessions = SystemClock(), RandomIds(), Book(), MemorySessions()
        rows, late = SqliteAccounts(state), [0.0]
        connections = Connections(rows, Seal(b"m" * 32, PURPOSE), endpoints, book, clock, ids)
        connector = Connector(connections, endpoints, "http://127.0.0.1:1", lambda: clock.monotonic() + late[0])
        leases = Leases(endpoints, connector, _NoneRotating(), book, sessions, clock, ids, vault.forget)
        try:
            yield Granting(server, book, connections, connector, leases, sessions, rows, late)
        finally:
            await leases.close()
            await net.close()


class _NoneRotating:
    async def current(self, provider: str) -> str:
        raise AssertionError("no provider here has one")

    async def replaced(self, provider: str, refresh: str) -> None:
        raise AssertionError("no provider here has one")


ANN = Person("default", "user", "ann")


async def gathered(*work: Any) -> list[Any]:
    """What each gave, or raised."""
    return await asyncio.gather(*work, return_exceptions=True)
