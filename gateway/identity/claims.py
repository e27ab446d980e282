"""From the claims of a token whose signature holds to a `Principal`: who calls, for whom, and what that allows.

It checks every claim it reads, and takes none on trust but what its `Issuer` is configured for. It reads no token and
no key, and never gives more than the token and the operator's settings do.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.identity.issuers import Issuer
from gateway.model import Principal, Refusal
from gateway.problems import problem, refuse

LEEWAY = 30.0  # seconds that clocks may differ
MAX_ACTORS = 4
BY_NAME = frozenset({"session:request"})
PRIVILEGED = BY_NAME | {"operator", "auditor", "approver"}  # of people only: nobody has them on behalf of somebody
_MAX_NAME = 256  # characters of a subject, an agent, a group
_MAX_TENANT = 128
_MAX_GROUPS = 500
_MAX_SESSION = 128
_MAX_TIME = 1e11  # unix seconds; what lies beyond is no time
_SPIFFE = "spiffe://"
_SEGMENT = frozenset(string.ascii_letters + string.digits + ".-_")
_SCOPE = frozenset(map(chr, range(0x21, 0x7F))) - {'"', "\\"}  # RFC 6749, 3.3
Claims = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that holds: whose it is, who vouched, and from when to when (unix seconds); 0 where it has no `iat`."""

    principal: Principal
    issuer: str
    issued_at: float
    expires_at: float


def wrong(said: str) -> Refusal:
    """The refusal of a token. `said` never holds anything of the token."""
    return refuse("unauthenticated", f"This token is not valid: {said}.")


def trust_domain(iss: str) -> str:
    """The name of a SPIFFE trust domain, which may be written with its scheme."""
    return iss.removeprefix(_SPIFFE).partition("/")[0]


def trust_domain_of(claims: Claims) -> str | None:
    """The trust domain that a token's subject says it is of."""
    subject = claims.get("sub")
    return trust_domain(subject) if isinstance(subject, str) and subject.startswith(_SPIFFE) else None


def verified(claims: Claims, issuer: Issuer, digest: str, now: float) -> Verified:
    """What the claims of a token from `issuer` amount to. `digest` names the token where it has no `jti`.

    Raises `Refusal`: `unauthenticated`; `insufficient_scope`, with the scope, when everything else holds.
    """
    issued_at, expires_at = _times(claims, issuer, now)
    _check_audience(claims.get("aud"), issuer)
    if "cnf" in claims:  # who took it as a bearer token would throw away what it is bound to
        raise wrong("it is bound to a key (cnf), which is not supported yet")
    made = _workload(claims, issuer, digest) if issuer.kind == "spiffe" else _person(claims, issuer, digest)
    if not made.scopes:
        needs = () if issuer.scope is None else (issuer.scope,)
        raise Refusal(problem("insufficient_scope", "This token does not have the scope to call tools.", needs=needs))
    return Verified(made, issuer.iss, issued_at, expires_at)


# ── when, and for whom ───────────────────────────────────────────────────────────────────────────────────────────────


def _times(claims: Claims, issuer: Issuer, now: float) -> tuple[float, float]:
    expires, begins, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise wrong("it has no exp")
    if expires <= now - LEEWAY:
        raise wrong("it has expired")
    if begins is not None and begins > now + LEEWAY:
        raise wrong("it is not valid yet (nbf)")
    if issued is not None and issued > now + LEEWAY:
        raise wrong("it was issued in the future (iat)")
    if expires - (now if issued is None else issued) > issuer.max_lifetime:
        raise wrong("it lives longer than tokens of its issuer may")
    # Of a token that does not say since when it is, nobody knows that it is newer than a revocation of earlier ones.
    return 0.0 if issued is None else issued, expires


def _time(claims: Claims, name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_TIME:
        raise wrong(f"{name} is no time")
    return float(value)


def _check_audience(audience: object, issuer: Issuer) -> None:
    given = [audience] if isinstance(audience, str) else audience
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise wrong("aud is no name and no list of names")
    if not set(issuer.audiences) & set(given):
        raise wrong("it is for somebody else (aud)")


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _workload(claims: Claims, issuer: Issuer, digest: str) -> Principal:
    """A JWT-SVID: a process. Its whole SPIFFE ID is the agent, for the last part of a path is not unique."""
    name = _name(claims, "sub", _MAX_NAME)
    domain, _, path = name.removeprefix(_SPIFFE).partition("/")
    parts = path.split("/")
    if domain != trust_domain(issuer.iss) or any(p in ("", ".", "..") or not _SEGMENT.issuperset(p) for p in parts):
        raise wrong("sub is no SPIFFE ID of its issuer's trust domain")
    if "act" in claims:
        raise wrong("a workload does not act for anybody")
    return Principal(
        agent=name,
        tenant=_tenant(claims, issuer),
        scopes=_scopes(claims, issuer, frozenset(), delegated=False),
        authn="jwt",
        token_id=_token_id(claims, digest),
        workload=name,
        session=_session(claims, issuer),
    )


def _person(claims: Claims, issuer: Issuer, digest: str) -> Principal:
    """An access token: a client, for the person who is its subject, or for itself."""
    subject = _name(claims, "sub", _MAX_NAME)
    user = subject if issuer.user_claim == "sub" else _name(claims, issuer.user_claim, _MAX_NAME)
    client = next((_name(claims, each, _MAX_NAME) for each in issuer.agent_claim if each in claims), None)
    actors = _actors(claims["act"], user) if "act" in claims else ()
    agent = actors[0] if actors else client
    if agent is None:
        raise wrong("it names no agent")
    groups = _groups(claims.get(issuer.groups_claim, []))
    return Principal(
        agent=agent,
        tenant=_tenant(claims, issuer),
        user=None if user == agent else user,  # RFC 9068, 2.2: a client that has its own token is the subject
        groups=groups,
        scopes=_scopes(claims, issuer, groups, delegated=bool(actors)),
        authn="jwt",
        token_id=_token_id(claims, digest),
        actors=actors,
        session=_session(claims, issuer),
    )


def _actors(act: object, user: str) -> tuple[str, ...]:
    """Who acts for whom (RFC 8693, 4.1), nearest first."""
    actors: list[str] = []
    said: object = {"act": act}
    while isinstance(said, dict) and "act" in said:
        said = said["act"]
        if not isinstance(said, dict) or len(actors) == MAX_ACTORS:
            raise wrong(f"act is no chain of at most {MAX_ACTORS} actors")
        name = _name(said, "sub" if "sub" in said else "client_id", _MAX_NAME)
        if name in actors or name == user:
            raise wrong("somebody stands in act twice")
        actors.append(name)
    return tuple(actors)


def _scopes(claims: Claims, issuer: Issuer, groups: frozenset[str], *, delegated: bool) -> frozenset[str]:
    """`agent`, where the token may call tools, the roles that its person's groups have, and what is asked by name."""
    said = claims.get("scope", "")
    given = said.split(" ") if isinstance(said, str) and said else []
    if not isinstance(said, str) or not all(each and _SCOPE.issuperset(each) for each in given):
        raise wrong("scope is no list of scopes")
    roles = {role for role, members in issuer.roles.items() if members & groups}
    calls = {"agent"} if issuer.scope is None or issuer.scope in given else set()
    return frozenset(calls | roles | BY_NAME.intersection(given)) - (PRIVILEGED if delegated else frozenset())


def _groups(said: object) -> frozenset[str]:
    if not isinstance(said, list) or len(said) > _MAX_GROUPS:
        raise wrong(f"its groups are no list of at most {_MAX_GROUPS}")
    if not all(isinstance(each, str) and _fits(each, _MAX_NAME) for each in said):
        raise wrong("its groups are no names")
    return frozenset(said)


def _tenant(claims: Claims, issuer: Issuer) -> str:
    if issuer.tenant_claim is None:
        return issuer.tenant
    name = _name(claims, issuer.tenant_claim, _MAX_TENANT)
    if " " in name:
        raise wrong(f"{issuer.tenant_claim} is no name of a tenant")
    return name


def _session(claims: Claims, issuer: Issuer) -> str | None:
    """The one session that the token is for."""
    if issuer.session_claim is None:
        return None
    name = _name(claims, issuer.session_claim, _MAX_SESSION)
    if not _SEGMENT.issuperset(name):
        raise wrong(f"{issuer.session_claim} is no name of a session")
    return name


def _token_id(claims: Claims, digest: str) -> str:
    return _name(claims, "jti", _MAX_NAME) if "jti" in claims else digest


def _name(claims: Claims, claim: str, longest: int) -> str:
    value = claims.get(claim)
    if not isinstance(value, str) or not _fits(value, longest):
        raise wrong(f"{claim} is no name")
    return value


def _fits(name: str, longest: int) -> bool:
    """Printable ASCII: what a person reads in a policy, a record or a terminal is all there is."""
    return 0 < len(name) <= longest and name.isascii() and name.isprintable() and name == name.strip()
