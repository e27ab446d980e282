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
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from gateway.identity.oauth import MARGIN, WAIT_SECONDS, Endpoints, NoToken, Token
from gateway.identity.vault import BadSecret
from gateway.model import Holder, Refusal
from gateway.ports import Clock, Ids, Ledger, Line, Sessions
from gateway.tool import Json

log = logging.getLogger("toolgate")
LOOK: Final = 0.5  # seconds between two looks for sessions that ended
ECHO: Final = 600.0  # seconds after which a token that is used no more is not looked for in results any more


class Accounts(Protocol):
    """The accounts that people connected."""

    async def token(self, holder: Holder, endpoints: Endpoints) -> tuple[str, Token]:
        """Id and token of the account of the holder's person. Raises `NoToken`, `Refusal(account_required)`."""
        ...

    def stands(self, account: str) -> bool:
        """Whether the account of this id is in use still."""
        ...


class Rotating(Protocol):
    """Refresh tokens of the operator's own accounts, which a provider may replace each time."""

    async def current(self, provider: str) -> str:
        """The one to use. Raises `BadSecret`."""
        ...

    async def replaced(self, provider: str, refresh: str) -> None: ...


@dataclass(slots=True)
class Minted:
    """A token as one session and tool have it. `id` stands on record; `account` is the one it came of, if it did.

    `until` is when it is not begun to be used any more, in unix seconds.
    """

    id: str
    owner: str
    session: str
    provider: str
    tool: str
    tenant: str
    account: str | None
    until: float
    token: Token = field(repr=False)


Key = tuple[str, str, str, str]  # uid of the session, tool, provider, and which token was exchanged, if one was


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
        self._rotations: dict[str, asyncio.Lock] = {}
        self._echoes: list[tuple[float, str]] = []
        self._wake = asyncio.Event()

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
        key = (holder.caller.session.uid, holder.tool, place, _exchanged(endpoints, holder))
        lease = self._leases.get(key)
        if lease is not None and self._clock.now() < lease.until and self._connected(lease):
            return lease.token.access
        # Whoever comes meanwhile waits for the same one; nobody's going away ends it for the others.
        task = self._minting.get(key)
        if task is None:
            task = self._minting[key] = asyncio.create_task(self._mint(key, endpoints, holder))
            task.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(task)

    def look(self) -> None:
        """A session was closed: looks for what has to end now, not at the next look."""
        self._wake.set()

    async def watch(self) -> None:
        """Ends the leases of sessions that were closed or ran out, by whomever. For ever."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK)
            self._wake.clear()
            try:
                await self.sweep()
            except Exception:  # a background loop must outlive one bad look; the next one is half a second away
                log.exception("credentials of ended sessions could not be dropped")

    async def sweep(self) -> None:
        """One look."""
        now = self._clock.now()
        gone = [key for key, lease in self._leases.items() if not self._stands(lease, key[0], now)]
        await asyncio.gather(*(self._drop(key, "session ended") for key in gone))
        out = [key for key, lease in self._leases.items() if not self._connected(lease)]
        await asyncio.gather(*(self._drop(key, "disconnected") for key in out))
        for key in [key for key, lease in self._leases.items() if key[3] and lease.token.expires_at <= now]:
            self._echo(self._leases.pop(key).token.access)  # no later call can come with the token it was had for
        used = {lease.token.access for lease in self._leases.values()}  # an account's token may serve another session
        while self._echoes and self._echoes[0][0] <= time.monotonic():
            value = self._echoes.pop(0)[1]
            if value not in used:
                self._forget(value)

    async def close(self) -> None:
        """At a stop: every token is dropped, and taken back where that is possible."""
        if self._minting:  # what is cut off here may have used up a refresh token whose next one nobody kept
            await asyncio.wait(list(self._minting.values()), timeout=WAIT_SECONDS)
        await asyncio.gather(*(self._drop(key, "stop") for key in list(self._leases)))

    def _connected(self, lease: Minted) -> bool:
        return lease.account is None or self._accounts.stands(lease.account)

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
            account, token = await self._granted(endpoints, holder)
        except NoToken as none:
            raise BadSecret(none.reason) from None
        before, caller = self._leases.get(key), holder.caller
        if before is not None and not self._connected(before):
            await self._drop(key, "disconnected")
        owner, tenant = caller.principal.key, caller.principal.tenant
        until = token.expires_at - min(MARGIN, (token.expires_at - self._clock.now()) / 2)
        lease = Minted(
            self._ids.new("cr_"), owner, caller.session.id, key[2], holder.tool, tenant, account, until, token
        )
        try:
            await self._ledger.append(Line("credential.minted", self._minted(lease, endpoints, holder)))
        except Refusal:
            await self._taken_back(lease)
            raise
        if before is not None:
            self._echo(before.token.access)
        self._leases[key] = lease
        if not self._connected(lease):
            await self._drop(key, "disconnected")
            raise BadSecret("its account was disconnected just now")
        return token.access

    def _over(self, key: Key, done: asyncio.Task[str]) -> None:
        self._minting.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; where nobody waits any more nobody misses it

    async def _granted(self, endpoints: Endpoints, holder: Holder) -> tuple[str | None, Token]:
        grant = endpoints.provider.grant
        if grant == "client_credentials":
            return None, await endpoints.client_credentials()
        if grant == "connect":
            return await self._accounts.token(holder, endpoints)
        if grant == "refresh_token":
            return None, await self._rotated(endpoints)
        return None, await endpoints.exchanged(holder.credential or "")

    async def _rotated(self, endpoints: Endpoints) -> Token:
        """One at a time for each provider: a refresh token may work once only, and the next one has to be kept."""
        name = endpoints.provider.name
        async with self._rotations.setdefault(name, asyncio.Lock()):
            token = await endpoints.refreshed(await self._rotating.current(name))
            if token.refresh is not None:
                await self._rotating.replaced(name, token.refresh)
            return token

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
        taken_back = await self._taken_back(lease)
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

    async def _taken_back(self, lease: Minted) -> bool:
        """Only what was granted for this session alone.

        An account's token may serve other sessions too, and with it a provider may take back the refresh token that it
        came of (RFC 7009 §2.1).
        """
        endpoints = self._endpoints[lease.provider]
        alone = endpoints.provider.grant in ("client_credentials", "token_exchange")
        return alone and await endpoints.revoke(lease.token.access, "access_token")

    def _echo(self, value: str) -> None:
        self._echoes.append((time.monotonic() + ECHO, value))


def _exchanged(endpoints: Endpoints, holder: Holder) -> str:
    """Which of the caller's tokens is exchanged, as a digest; empty for other grants. Raises `BadSecret` for none.

    Another token of the same caller may allow less, or name others who act: it has a lease of its own.
    """
    if endpoints.provider.grant != "token_exchange":
        return ""
    if holder.caller.principal.authn != "jwt" or not holder.credential:
        raise BadSecret("the caller has no token that could be exchanged: it came with an API key")
    return sha256(holder.credential.encode()).hexdigest()
