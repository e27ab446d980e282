"""Who may vouch for callers: an `Issuer` as an operator declared it. It never fetches or checks anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Asymmetric only (RFC 8725 §3.1): who can check a token must not be able to make one.
ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "ES384", "EdDSA"})
TYPES = ("at+jwt", "application/at+jwt", "JWT")
MAX_LIFETIME = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authorization server, OpenID provider or SPIFFE trust domain whose JWTs are taken.

    `iss` is compared exactly. `keys` is an https URL of a JWK set, or `file:PATH`. A token must be for one of
    `audiences`, signed with one of `algorithms`, say one of `types`, live at most `max_lifetime` seconds, and carry
    `scope`, where that is set. Names come from the claims `user_claim`, `agent_claim` (the first that is there),
    `groups_claim`, `session_claim`; the tenant is `tenant`, or from `tenant_claim`. `roles` maps a role (operator,
    auditor, approver) to the groups that have it.
    """

    iss: str
    keys: str
    audiences: tuple[str, ...]
    algorithms: frozenset[str] = frozenset({"RS256", "ES256"})
    types: tuple[str, ...] = TYPES
    kind: Literal["oidc", "spiffe"] = "oidc"
    max_lifetime: float = MAX_LIFETIME
    tenant: str = "default"
    tenant_claim: str | None = None
    scope: str | None = None
    user_claim: str = "sub"
    agent_claim: tuple[str, ...] = ("client_id", "azp")
    groups_claim: str = "groups"
    session_claim: str | None = None
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
