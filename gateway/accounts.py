"""Accounts that people connect at providers: the nouns, and the port through which the door connects them.

It holds no token, and never decides who a person is: that is known before anybody comes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.model import Principal


@dataclass(frozen=True, slots=True)
class Person:
    """Whose account it is: a user of a tenant, whichever agent works for them; where there is no user, the agent."""

    tenant: str
    kind: Literal["user", "agent"]
    name: str

    @classmethod
    def of(cls, principal: Principal) -> Person:
        if principal.user:
            return cls(principal.tenant, "user", principal.user)
        return cls(principal.tenant, "agent", principal.agent)


@dataclass(frozen=True, slots=True)
class Connected:
    """An account as it may be shown. `at` in unix seconds; `by` is the agent that asked for it; `scope` as granted."""

    id: str
    person: Person
    provider: str
    at: float
    by: str
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What the person who opens a link is asked: to let agents use their account at `site` (scheme, host and port)."""

    person: Person
    provider: str
    site: str
    scopes: Sequence[str]


class NotConnected(Exception):
    """The person cannot go on; the text is a sentence for them. It may hold what a provider said, at most a word."""


class Connecting(Protocol):
    """Connects accounts. `browser` is the secret of one browser, which the door keeps in a cookie there.

    Links work once and for ten minutes; so does what a browser takes to the provider and back.
    """

    @property
    def site(self) -> str:
        """Scheme and host of the gateway's own pages: https, or http on this machine."""
        ...

    def start(self, principal: Principal, provider: str) -> str:
        """The link for the caller's person. Raises `Refusal(not_found)`."""
        ...

    def offer(self, ticket: str) -> Offer:
        """What a link is for; looking uses nothing up. Raises `NotConnected`."""
        ...

    def go(self, ticket: str, browser: str) -> str:
        """The person agreed: the provider's URL to go to. The link is used up. Raises `NotConnected`."""
        ...

    async def finish(self, said: Mapping[str, str], browser: str | None) -> Connected:
        """The browser came back with what the provider said (RFC 6749 §4.1.2). Raises `NotConnected`."""
        ...

    def all(self, person: Person) -> Sequence[Connected]:
        """The accounts of a person."""
        ...

    def account(self, principal: Principal, provider: str) -> str:
        """The id of the one that calls of this principal use; or nothing."""
        ...

    async def disconnect(self, person: Person, provider: str, by: str) -> bool:
        """No call uses the account from now on, and the provider is told. False when there is none.

        Raises `Refusal(audit_unavailable)` when that cannot be kept.
        """
        ...
