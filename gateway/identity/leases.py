"""Access tokens for calls, `oauth:PROVIDER`: had just in time, one for each session and tool, and put on record.

A token is had when a call first needs it, `credential.minted` is durable before anybody uses it, and it is used for
that session and tool alone until it runs out. It is dropped, revoked where the provider can, and `credential.revoked`
is written when its session ends. It never writes a token anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.identity.oauth import Endpoints, NoToken, Token
from gateway.identity.vault import BadSecret
from gateway.model import Holder, Refusal
from gateway.ports import Clock, Ids, Ledger, Line, Sessions
from gateway.tool import Json

log = logging.getLogger("toolgate")
MARGIN: Final = 30.0  # seconds before its end from which a token is not begun to be used
LOOK: Final = 0.5  # seconds between two looks for sessions that ended
ECHO: Final = 600.0  # seconds after which a token that is used no more is not looked for in results any more


class Accounts(Protocol):
    """The accounts that people connected."""

    async def token(self, holder: Holder, endpoints: Endpoints) -> Token:
        """A token of the account of the holder's person. Raises `NoToken`, `Refusal(account_required)`."""
        ...


class Rotating(Protocol):
    """Refresh tokens of the operator's own accounts, which a provider may replace each time."""

    async def current(self, provider: str) -> str:
        """The one to use. Raises `BadSecret`."""
        ...

    async def replaced(self, provider: str, refresh: str) -> None: ...


@dataclass(slots=True)
class Minted:
    """A token as one session and tool have it. `id` stands on record."""

    id: str
    owner: str
    session: str
    provider: str
    tool: str
    tenant: str
    token: Token = field(repr=False)


Key = tuple[str, str, str]  # uid of the session, tool, provider


class Leases:
    """A source of secrets. `forget` is told of each token that is not used any more, some time after."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoints],
        accounts: Accounts,
        rotating: Rotating,
        ledger: Ledger,
        sessions: Sessions,
        clock: Clock,
        ids: Ids,
        forget: Callable[[str], None],
    ) -> None:
        self._endpoints, self._accounts, self._rotating = endpoints, accounts, rotating
        self._ledger, self._sessions, self._clock, self._ids, self._forget = ledger, sessions, clock, ids, forget
        self._leases: dict[Key, Minted] = {}
        self._minting: dict[Key, asyncio.Task[str]] = {}
        self._echoes: list[tuple[float, str]] = []

    def peek(self, place: str) -> None:
        """Raises `BadSecret` when no provider has that name."""
        self._provider(place)

    async def fetch(self, place: str, holder: Holder | None) -> str:
        """The access token. Raises `BadSecret`, `Refusal(account_required | audit_…)`."""
        endpoints = self._provider(place)
        if holder is None:
            raise BadSecret("a token is fetched for calls only")
        if endpoints.provider.tenant not in (None, holder.caller.principal.tenant):
            raise BadSecret("its provider is another tenant's")
        key = (holder.caller.session.uid, holder.tool, place)
        lease = self._leases.get(key)
        if lease is not None and lease.token.expires_at - self._clock.now() > MARGIN:
            return lease.token.access
        # Whoever comes meanwhile waits for the same one; nobody's going away ends it for the others.
        task = self._minting.get(key)
        if task is None:
            task = self._minting[key] = asyncio.create_task(self._mint(key, endpoints, holder))
            task.add_done_callback(lambda _: self._minting.pop(key, None))
        return await asyncio.shield(task)

    async def end(self, uid: str, why: str) -> None:
        """Drops what a session has, puts that on record, and takes it back at the providers that can."""
        for key in [key for key in self._leases if key[0] == uid]:
            await self._drop(key, why)

    async def disconnect(self, owner: str, provider: str) -> None:
        """Drops what every session of a caller has from one provider."""
        for key in [k for k, lease in self._leases.items() if (lease.owner, lease.provider) == (owner, provider)]:
            await self._drop(key, "disconnected")

    async def watch(self) -> None:
        """Ends the leases of sessions that were closed or ran out, by whomever. For ever."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.sweep()
            except Exception:  # a background loop must outlive one bad look; the next one is half a second away
                log.exception("credentials of ended sessions could not be dropped")

    async def sweep(self) -> None:
        """One look."""
        now = self._clock.now()
        gone = {
            (lease.owner, lease.session, key[0])
            for key, lease in self._leases.items()
            if not self._stands(lease, key[0], now)
        }
        for *_, uid in gone:
            await self.end(uid, "session ended")
        while self._echoes and self._echoes[0][0] <= time.monotonic():
            self._forget(self._echoes.pop(0)[1])

    async def close(self) -> None:
        """At a stop: every token is dropped, and taken back where that is possible."""
        for key in list(self._leases):
            await self._drop(key, "stop")

    def _stands(self, lease: Minted, uid: str, now: float) -> bool:
        found = self._sessions.find(lease.owner, lease.session)
        return found is not None and found.uid == uid and found.state == "open" and now < found.expires_at

    def _provider(self, place: str) -> Endpoints:
        endpoints = self._endpoints.get(place)
        if endpoints is None:
            raise BadSecret("there is no provider of that name in the settings")
        return endpoints

    async def _mint(self, key: Key, endpoints: Endpoints, holder: Holder) -> str:
        try:
            token = await self._granted(endpoints, holder)
        except NoToken as none:
            raise BadSecret(none.reason) from None
        before, caller = self._leases.get(key), holder.caller
        owner, tenant = caller.principal.key, caller.principal.tenant
        lease = Minted(self._ids.new("cr_"), owner, caller.session.id, key[2], holder.tool, tenant, token)
        await self._ledger.append(Line("credential.minted", self._minted(lease, endpoints, holder)))
        if before is not None:
            self._echo(before.token.access)
        self._leases[key] = lease
        return token.access

    async def _granted(self, endpoints: Endpoints, holder: Holder) -> Token:
        grant, principal = endpoints.provider.grant, holder.caller.principal
        if grant == "client_credentials":
            return await endpoints.client_credentials()
        if grant == "connect":
            return await self._accounts.token(holder, endpoints)
        if grant == "refresh_token":
            name = endpoints.provider.name
            token = await endpoints.refreshed(await self._rotating.current(name))
            if token.refresh is not None:
                await self._rotating.replaced(name, token.refresh)
            return token
        if principal.authn != "jwt" or not holder.credential:
            raise BadSecret("the caller has no token that could be exchanged: it came with an API key")
        return await endpoints.exchanged(holder.credential)

    def _minted(self, lease: Minted, endpoints: Endpoints, holder: Holder) -> dict[str, Json]:
        principal = holder.caller.principal
        return {
            "credential_id": lease.id,
            "call_id": holder.call_id,
            "session_id": lease.session,
            "tenant": lease.tenant,
            "principal": {"agent": principal.agent, "user": principal.user},
            "tool": {"name": lease.tool},
            "provider": lease.provider,
            "grant": endpoints.provider.grant,
            "expires_at": lease.token.expires_at,
        }

    async def _drop(self, key: Key, why: str) -> None:
        lease = self._leases.pop(key, None)
        if lease is None:
            return
        self._echo(lease.token.access)
        endpoints = self._endpoints[lease.provider]
        # A connected account's token may serve other sessions too: it is taken back when the account is.
        shared = endpoints.provider.grant == "connect"
        taken_back = False if shared else await endpoints.revoke(lease.token.access, "access_token")
        agent, user = lease.owner.split("\x1f")[1:3]
        said: dict[str, Json] = {
            "credential_id": lease.id,
            "session_id": lease.session,
            "tenant": lease.tenant,
            "principal": {"agent": agent, "user": user or None},
            "tool": {"name": lease.tool},
            "provider": lease.provider,
            "why": why,
            "taken_back": taken_back,
        }
        try:
            await self._ledger.append(Line("credential.revoked", said))
        except Refusal:
            log.warning("that the credential %s was dropped could not be put on record", lease.id)

    def _echo(self, value: str) -> None:
        self._echoes.append((time.monotonic() + ECHO, value))
