"""Connecting an account: from a link for one person to their tokens (authorization code with PKCE, RFC 7636).

A link is for one person and one provider, works once and for ten minutes. Whoever opens it goes to the provider and has
to come back in the same browser; `state` and code are used once. It keeps no token, and cannot know who sits at the
browser: the page says for whom the account is, and the person has to look.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from gateway.accounts import Connected, NotConnected, Offer, Person
from gateway.identity.connections import Connections
from gateway.identity.oauth import Endpoints, NoToken, Token
from gateway.model import Holder, Principal, Refusal
from gateway.problems import refuse
from gateway.urls import parse_url

LASTS: Final = 600.0  # seconds that a link works, and that a browser may be away
_OVER = "This link was used already, or is older than ten minutes. Ask for a new one."
_STRANGE = "Nothing that was begun here is answered by this, or it was answered before, or it took too long."
_ELSEWHERE = "This was begun in another browser. Nothing was connected."
_ODD = "Another authorization server answered than was asked. Nothing was connected."


@dataclass(frozen=True, slots=True)
class Ticket:
    """A link that was given out. `until` in monotonic seconds."""

    asker: str
    person: Person
    provider: str
    by: str
    until: float


@dataclass(frozen=True, slots=True)
class Trip:
    """A browser that is at the provider."""

    ticket: Ticket
    browser: bytes
    until: float
    verifier: str = field(repr=False)


class Connector:
    """Implements the ports `accounts.Connecting` and `leases.Accounts`. `site` is where the gateway's own pages are."""

    def __init__(
        self,
        connections: Connections,
        endpoints: Mapping[str, Endpoints],
        site: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.site = site
        self._connections, self._monotonic = connections, monotonic
        self._endpoints = {name: each for name, each in endpoints.items() if each.provider.grant == "connect"}
        self._tickets: dict[str, Ticket] = {}
        self._trips: dict[str, Trip] = {}

    # ── for calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def token(self, holder: Holder, endpoints: Endpoints) -> tuple[str, Token]:
        """Id and token of the account of the holder's person. Raises `NoToken`, `Refusal(account_required)`."""
        principal, provider = holder.caller.principal, endpoints.provider.name
        person = Person.of(principal)
        account = self._connections.find(person, provider)
        token = None if account is None else await self._connections.token(account)
        if account is not None and token is not None:
            return account.id, token
        link = self.start(principal, provider)
        detail = f"This tool uses an account at {provider}, and none is connected for {person.kind} {person.name}."
        # Not in the detail, which is on record: whoever has the link may go through with it.
        advice = (
            f"Show this link to that person and nobody else: {link} . It works once, for 10 minutes. Then call again."
        )
        raise refuse("account_required", detail, advice=advice)

    def stands(self, account: str) -> bool:
        """Whether the account of this id is in use still."""
        return self._connections.stands(account)

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, principal: Principal, provider: str) -> str:
        """The link for the caller's person; the one that was given out is given again while half its time is left."""
        endpoints = self._endpoints.get(provider)
        if endpoints is None or endpoints.provider.tenant not in (None, principal.tenant):
            raise refuse("not_found", "There is no provider of that name where accounts are connected.")
        self._forget_old()
        now, asker = self._monotonic(), principal.key
        given = [
            name
            for name, each in self._tickets.items()
            if (each.asker, each.provider) == (asker, provider) and each.until - now > LASTS / 2
        ]
        name = given[0] if given else secrets.token_urlsafe(32)
        if not given:
            self._tickets[name] = Ticket(asker, Person.of(principal), provider, principal.agent, now + LASTS)
        return f"{self.site}/connect/{name}"

    def offer(self, ticket: str) -> Offer:
        """What a link is for. Raises `NotConnected`."""
        self._forget_old()
        found = self._tickets.get(ticket)
        if found is None:
            raise NotConnected(_OVER)
        provider = self._endpoints[found.provider].provider
        at = parse_url(provider.authorize_url or "")
        return Offer(found.person, found.provider, f"{at.scheme}://{at.authority}", provider.scopes)

    def go(self, ticket: str, browser: str) -> str:
        """Where this browser goes now; the link is used up. Raises `NotConnected`."""
        self._forget_old()
        found = self._tickets.pop(ticket, None)
        if found is None:
            raise NotConnected(_OVER)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        self._trips[state] = Trip(found, _mark(browser), self._monotonic() + LASTS, verifier)
        return self._endpoints[found.provider].authorize_url(state, verifier, self._back)

    async def finish(self, said: Mapping[str, str], browser: str | None) -> Connected:
        """The account, once the provider's answer was found to be the one to what this browser began."""
        self._forget_old()
        trip = self._trips.pop(said.get("state", ""), None)
        if trip is None:
            raise NotConnected(_STRANGE)
        if browser is None or not hmac.compare_digest(_mark(browser), trip.browser):
            raise NotConnected(_ELSEWHERE)
        endpoints = self._endpoints[trip.ticket.provider]
        if endpoints.provider.issuer is not None and said.get("iss") != endpoints.provider.issuer:
            raise NotConnected(_ODD)  # RFC 9207: the code is for somebody else's eyes
        if "error" in said or not said.get("code"):
            raise NotConnected(f"The provider said no: {said.get('error', 'nothing')[:64]}. Nothing was connected.")
        return await self._redeemed(endpoints, trip, said["code"])

    async def _redeemed(self, endpoints: Endpoints, trip: Trip, code: str) -> Connected:
        ticket = trip.ticket
        try:
            token = await endpoints.redeemed(code, trip.verifier, self._back)
        except NoToken as none:
            raise NotConnected(f"No token was given: {none.reason}. Nothing was connected.") from None
        except Refusal:
            raise NotConnected("The gateway's own credential cannot be used. Nothing was connected.") from None
        try:
            return await self._connections.keep(ticket.person, ticket.provider, ticket.by, token)
        except Refusal:
            await endpoints.revoke(token.access, "access_token")
            raise NotConnected("The gateway cannot keep the account now. Nothing was connected.") from None

    def all(self, person: Person) -> Sequence[Connected]:
        """The accounts of a person."""
        return self._connections.all(person)

    def account(self, principal: Principal, provider: str) -> str:
        """The id of the one that calls of this principal use; or nothing."""
        found = self._connections.find(Person.of(principal), provider)
        return "" if found is None else found.id

    async def disconnect(self, person: Person, provider: str, by: str) -> bool:
        """Ends an account; false when there is none."""
        return await self._connections.disconnect(person, provider, by)

    @property
    def _back(self) -> str:
        return f"{self.site}/connect/callback"

    def _forget_old(self) -> None:
        now = self._monotonic()
        self._tickets = {name: each for name, each in self._tickets.items() if each.until > now}
        self._trips = {name: each for name, each in self._trips.items() if each.until > now}


def _mark(browser: str) -> bytes:
    return sha256(browser.encode("utf-8", "surrogatepass")).digest()
