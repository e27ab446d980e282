"""Connected accounts: each person's tokens at a provider, sealed in `state.db`, renewed when they run out.

An account is on record before it is used, and is used by nobody from the moment it is disconnected; what the provider
and the ledger have to be told then is tried until it is done. It never asks who a person is, and writes no token
anywhere but sealed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from gateway.accounts import Connected, Person
from gateway.identity.oauth import MARGIN, Endpoints, NoToken, Token
from gateway.identity.store import Seal
from gateway.identity.vault import BadSecret
from gateway.model import Refusal
from gateway.ports import Clock, Ids, Ledger, Line
from gateway.problems import refuse
from gateway.stores.accounts import SqliteAccounts
from gateway.tool import Json

log = logging.getLogger("toolgate")
LOOK: Final = 0.5  # seconds between two looks for accounts that the command line dropped
PURPOSE: Final = b"toolgate accounts v1"


class Connections:
    """The accounts of one gateway. `endpoints` by the name of the provider."""

    def __init__(
        self,
        rows: SqliteAccounts,
        seal: Seal,
        endpoints: Mapping[str, Endpoints],
        ledger: Ledger,
        clock: Clock,
        ids: Ids,
    ) -> None:
        """Raises `OSError` when the rows cannot be read."""
        self._rows, self._seal, self._endpoints = rows, seal, endpoints
        self._ledger, self._clock, self._ids = ledger, clock, ids
        self._known = {(account.person, account.provider): account for account in rows.all()}
        self._in_use = {account.id for account in self._known.values()}
        self._renewing: dict[str, asyncio.Task[Token | None]] = {}
        self._ending: set[str] = set()
        self._told: set[str] = set()
        self._one = asyncio.Lock()

    def find(self, person: Person, provider: str) -> Connected | None:
        """The account, if it is in use."""
        return self._known.get((person, provider))

    def stands(self, account_id: str) -> bool:
        """Whether the account of this id is in use."""
        return account_id in self._in_use

    def all(self, person: Person) -> Sequence[Connected]:
        """Those of a person, by provider."""
        return sorted((a for a in self._known.values() if a.person == person), key=lambda a: a.provider)

    async def token(self, account: Connected) -> Token | None:
        """A token that lasts; None when the account turned out to be worth nothing any more. Raises `NoToken`.

        A provider may take a refresh token once only (RFC 6749 §6): so whoever comes meanwhile waits for the same
        renewal, and the next one is kept before anybody uses what came with it.
        """
        task = self._renewing.get(account.id)
        if task is None:
            task = self._renewing[account.id] = asyncio.create_task(self._current(account))
            task.add_done_callback(lambda done: self._renewed(account.id, done))
        return await asyncio.shield(task)

    async def keep(self, person: Person, provider: str, by: str, token: Token) -> Connected:
        """A new account, instead of the one that was there. Raises `Refusal(audit_…)`: then nothing is kept."""
        asked = " ".join(self._endpoints[provider].provider.scopes)
        scope = token.scope or asked or None
        account = Connected(self._ids.new("ac_"), person, provider, self._clock.now(), by, scope)
        async with self._one:
            await self._ledger.append(Line("account.connected", _said(account) | {"scope": scope}))
            try:
                await asyncio.to_thread(self._rows.add, account, self._seal.close(_text(token), _place(account)))
                before = self._known.get((person, provider))
                if before is not None:
                    await asyncio.to_thread(self._rows.drop, before.id, "replaced")
            except OSError:
                raise refuse("audit_unavailable", "The account cannot be kept.") from None
            self._known[person, provider] = account
            self._in_use.add(account.id)
            self._in_use.discard(before.id if before else "")
        if before is not None:
            # Not taken back: at some providers that would end the new tokens of the same person as well.
            await self._end(before, "replaced", tell=False)
        return account

    async def disconnect(self, person: Person, provider: str, by: str) -> bool:
        """Drops an account; false when there is none. Raises `Refusal(audit_unavailable)` when that cannot be kept."""
        account = self._known.get((person, provider))
        return account is not None and await self._drop(account, by)

    async def watch(self) -> None:
        """Finishes what the command line began, and what could not be finished before. For ever."""
        while True:
            try:
                await self.sweep()
            except OSError:
                log.exception("connected accounts could not be looked at")
            await asyncio.sleep(LOOK)

    async def sweep(self) -> None:
        """One look."""
        dropped = await asyncio.to_thread(self._rows.dropped)
        for each in dropped:
            self._leave(each.account)
        for each in dropped:
            await self._end(each.account, each.by)

    # ── renewing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _renewed(self, account_id: str, done: asyncio.Task[Token | None]) -> None:
        self._renewing.pop(account_id, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; where nobody waits any more nobody misses it

    async def _current(self, account: Connected) -> Token | None:
        kept = await asyncio.to_thread(self._read, account)
        endpoints = self._endpoints.get(account.provider)
        if kept is None or endpoints is None or not self.stands(account.id):
            return None
        if kept.expires_at - self._clock.now() > MARGIN:
            return kept
        if kept.refresh is None:
            await self._drop(account, "ran out")
            return None
        try:
            fresh = await endpoints.refreshed(kept.refresh)
        except NoToken as none:
            if none.code != "invalid_grant":
                raise
            await self._drop(account, "refused by the provider")
            return None
        whole = replace(fresh, refresh=fresh.refresh or kept.refresh, scope=fresh.scope or kept.scope)
        if await self._keep_next(account, whole):
            return whole
        await _revoked(endpoints, whole)  # it was disconnected while it was renewed
        return None

    async def _keep_next(self, account: Connected, token: Token) -> bool:
        sealed = self._seal.close(_text(token), _place(account))
        try:
            return await asyncio.to_thread(self._rows.renew, account.id, sealed) and self.stands(account.id)
        except OSError:
            raise NoToken("its next token could not be kept") from None

    def _read(self, account: Connected) -> Token | None:
        try:
            sealed = self._rows.sealed(account.id)
            return None if sealed is None else _token(self._seal.open(sealed, _place(account)))
        except (OSError, BadSecret):
            raise NoToken("the connected account cannot be read") from None

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drop(self, account: Connected, by: str) -> bool:
        try:
            done = await asyncio.to_thread(self._rows.drop, account.id, by)
        except OSError:
            raise refuse("audit_unavailable", "That the account is disconnected cannot be kept.") from None
        self._leave(account)
        await self._end(account, by)
        return done

    def _leave(self, account: Connected) -> None:
        place = (account.person, account.provider)
        self._in_use.discard(account.id)
        if (known := self._known.get(place)) is not None and known.id == account.id:
            del self._known[place]

    async def _end(self, account: Connected, by: str, *, tell: bool = True) -> None:
        """Tells the provider and the ledger, and forgets; what does not work now is left to the next look."""
        if account.id in self._ending:
            return
        self._ending.add(account.id)
        try:
            if account.id not in self._told:
                taken_back = tell and by != "replaced" and await self._taken_back(account)
                said = _said(account) | {"by": by, "taken_back": taken_back}
                await self._ledger.append(Line("account.disconnected", said))
                self._told.add(account.id)
            await asyncio.to_thread(self._rows.forget, account.id)
            self._told.discard(account.id)
        except (Refusal, OSError):
            log.warning("that the account %s was disconnected could not be put on record yet", account.id)
        finally:
            self._ending.discard(account.id)

    async def _taken_back(self, account: Connected) -> bool:
        endpoints = self._endpoints.get(account.provider)
        with suppress(NoToken):
            kept = await asyncio.to_thread(self._read, account)
            return endpoints is not None and kept is not None and await _revoked(endpoints, kept)
        return False


async def _revoked(endpoints: Endpoints, token: Token) -> bool:
    """Whether the provider took back both tokens."""
    refresh = token.refresh is None or await endpoints.revoke(token.refresh, "refresh_token")
    return await endpoints.revoke(token.access, "access_token") and refresh


def _said(account: Connected) -> dict[str, Json]:
    person = account.person
    user = person.name if person.kind == "user" else None
    agent = account.by if person.kind == "user" else person.name
    said: dict[str, Json] = {"account_id": account.id, "tenant": person.tenant, "provider": account.provider}
    return said | {"principal": {"agent": agent, "user": user}}


def _place(account: Connected) -> bytes:
    """What the sealed bytes are bound to: a row that is moved to another person does not open."""
    person = account.person
    return "\x1f".join((account.id, person.tenant, person.kind, person.name, account.provider)).encode()


def _text(token: Token) -> str:
    said = {"access": token.access, "expires_at": token.expires_at, "refresh": token.refresh, "scope": token.scope}
    return json.dumps(said)


def _token(text: str) -> Token:
    said = json.loads(text)
    return Token(said["access"], said["expires_at"], said["refresh"], said["scope"])
