"""API keys: made, hashed, recognised. The secret itself is shown once and never kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from gateway.model import Principal
from gateway.ports import Clock, Key, Keys
from gateway.problems import refuse

SCOPES = frozenset({"agent", "approver", "auditor", "operator", "session:request"})
GROUP = "group:"  # what is kept among the scopes of a key as `group:NAME` is a group of its person
_PREFIX = "tg_"  # lets secret scanners recognise a leaked key
_LONGEST = 8192


def new_key(
    agent: str, tenant: str, scope: str, now: float, *, user: str | None = None, expires_at: float | None = None
) -> tuple[str, Key]:
    """A fresh key: the secret to hand over (256 random bits) and the record to keep (its SHA-256).

    `scope` is one of `SCOPES`, or several with spaces between them; the secret begins with the first of them.
    """
    first = scope.split()[0].replace(":", "-")
    secret = f"{_PREFIX}{first}_{secrets.token_urlsafe(32)}"
    scopes = frozenset(scope.split())
    return secret, Key("k_" + secrets.token_hex(8), digest_of(secret), agent, tenant, user, scopes, now, expires_at)


def successor(key: Key, now: float) -> tuple[str, Key]:
    """A key that takes the place of another: of the same caller and scopes, and it lives as long as that was to."""
    lives = None if key.expires_at is None else now + key.expires_at - key.created_at
    scopes = sorted(key.scopes, key=lambda each: (each.startswith(GROUP), each))
    return new_key(key.agent, key.tenant, " ".join(scopes), now, user=key.user, expires_at=lives)


def digest_of(secret: str) -> str:
    """SHA-256 of the secret, hex. The secret has 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class KeyAuthority:
    """Recognises API keys, and the anonymous caller where that was switched on explicitly.

    Keys are looked up by their digest, so the time of the look-up says nothing about a secret. `missed` is called
    with the digest of a key that is unknown: the store may know more than its copy in memory.
    """

    def __init__(
        self, keys: Keys, clock: Clock, *, anonymous: bool = False, missed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._keys, self._clock, self._missed = keys, clock, missed
        self._nobody = _ANONYMOUS if anonymous else None
        self._principals: dict[str, tuple[Key, Principal]] = {}  # by digest, as made from that very key

    async def identify(self, credential: str | None) -> Principal:
        """The principal of a bearer token. Raises `Refusal(unauthenticated)`."""
        if credential is None:
            if self._nobody is not None:
                return self._nobody
            raise refuse("unauthenticated", "There is no API key in this request.")
        key = self._find(credential)
        if key is None or key.revoked_at is not None or (key.expires_at or float("inf")) <= self._clock.now():
            raise refuse("unauthenticated", "This API key is not valid.")
        known = self._principals.get(key.digest)
        if known is None or known[0] is not key:
            groups = frozenset(each.removeprefix(GROUP) for each in key.scopes if each.startswith(GROUP))
            scopes = frozenset(each for each in key.scopes if not each.startswith(GROUP))
            principal = Principal(key.agent, key.tenant, key.user, groups, scopes, "api_key", key.id)
            known = self._principals[key.digest] = (key, principal)
        return known[1]

    def _find(self, credential: str) -> Key | None:
        if len(credential) > _LONGEST:
            return None
        digest = digest_of(credential)
        found = self._keys.find(digest)
        if found is None and credential.startswith(_PREFIX):
            self._missed(digest)
            found = self._keys.find(digest)
        return found


_ANONYMOUS = Principal("anonymous", "default", scopes=frozenset({"agent"}), authn="anonymous")
