"""Who calls: the one place where a credential of whatever kind becomes a `Principal`, or is refused.

API keys go to `keys`, everything else to `tokens`; what was revoked is refused after both. It keeps tokens that were
verified for a short time, never a refusal, and whatever goes wrong inside is a refusal, never a caller.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from gateway.identity.claims import Verified
from gateway.identity.revocations import InForce, Shown
from gateway.model import Principal, Refusal
from gateway.ports import Authority, Clock
from gateway.problems import refuse

log = logging.getLogger("toolgate")
KEPT = 60.0  # seconds a verified token is not verified again
MOST = 8192  # tokens kept
_KEY = "tg_"
_SAID = frozenset({"unauthenticated", "insufficient_scope"})


class Tokens(Protocol):
    """What verifies tokens (`tokens.Verifier`)."""

    async def verify(self, token: str) -> Verified: ...


class Revoked(Protocol):
    """What is revoked now (`revocations.Revocations`)."""

    @property
    def current(self) -> InForce: ...


@dataclass(slots=True)
class _Known:
    """A verified token: until when that holds (unix seconds), and the revocations it was last found not to meet."""

    shown: Shown
    until: float
    cleared: InForce | None = None


class Authorities:
    """The port `Authority` over API keys, tokens and revocations. `tokens` is None where no issuer is configured."""

    def __init__(self, keys: Authority, tokens: Tokens | None, revoked: Revoked, clock: Clock) -> None:
        self._keys, self._tokens, self._revoked = keys, tokens, revoked
        self._now = clock.now
        self._known: dict[str | None, _Known] = {}  # by the token: hashing it first would cost more than all the rest

    async def identify(self, credential: str | None) -> Principal:
        """See the port; and `insufficient_scope` for a token that holds and allows nothing here."""
        known = self._known.get(credential)
        if known is not None and known.cleared is self._revoked.current and self._now() < known.until:
            return known.shown.principal
        try:
            return await self._judged(credential)
        except Refusal as refusal:
            if refusal.problem.code in _SAID:
                raise
        except Exception:  # nobody is let in by a fault of ours, and nobody is told which it was
            log.exception("a credential could not be checked")
        raise refuse("unauthenticated", "This credential could not be checked.")

    async def _judged(self, credential: str | None) -> Principal:
        if credential is None or self._tokens is None or credential.startswith(_KEY):
            shown = Shown(await self._keys.identify(credential))
            self._revoked.current.check(shown)
            return shown.principal
        known = await self._verified(credential, self._tokens)
        current = self._revoked.current
        current.check(known.shown)
        known.cleared = current
        return known.shown.principal

    async def _verified(self, token: str, tokens: Tokens) -> _Known:
        now = self._now()
        known = self._known.get(token)
        if known is None or known.until <= now:
            self._known.pop(token, None)
            found = await tokens.verify(token)
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            shown = Shown(found.principal, found.issuer, found.issued_at)
            known = self._known[token] = _Known(shown, min(found.expires_at, now + KEPT))
        return known
