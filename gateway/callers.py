"""Who may call, put together from settings: keys, issuers of tokens, and what clients are told of how to get one."""

from __future__ import annotations

from gateway.doors.resource import Resource
from gateway.identity.authority import Authorities
from gateway.identity.jwks import KeySet, loader
from gateway.identity.keys import KeyAuthority
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import Verifier
from gateway.ports import Authority, Clock
from gateway.runners.net import Net
from gateway.settings import Settings
from gateway.stores.sqlite import SqliteKeys


def authority_of(settings: Settings, keys: SqliteKeys, revoked: Revocations, net: Net, clock: Clock) -> Authority:
    """Who may call: holders of keys, and of tokens by the issuers that are configured."""
    known = KeyAuthority(keys, clock, anonymous=settings.anonymous, missed=keys.look)
    issuers = []
    for issuer in settings.identity.made():
        load = loader(issuer.keys, net, clock.monotonic)
        use = "jwt-svid" if issuer.kind == "spiffe" else "sig"
        issuers.append((issuer, KeySet(load, issuer.algorithms, clock.monotonic, use=use)))
    return Authorities(known, Verifier(issuers, clock.now) if issuers else None, revoked, clock)


def resource_of(settings: Settings) -> Resource | None:
    """What clients are told of how to get a token, where tokens are taken."""
    issuers = settings.identity.made()
    servers = tuple(issuer.iss for issuer in issuers if issuer.kind == "oidc")
    scopes = tuple(dict.fromkeys(issuer.scope for issuer in issuers if issuer.scope is not None))
    return Resource(settings.identity.resource or "", servers, scopes) if issuers else None
