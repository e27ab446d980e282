"""Refresh tokens of the operator's own accounts. A provider may give another with each use (RFC 6749 §6): then that one
is kept, sealed, and used until the operator names another in the settings. It never refreshes anything."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from hashlib import sha256

from gateway.identity.providers import Provider
from gateway.identity.store import SecretStore
from gateway.identity.vault import BadSecret, SecretVault


class OperatorTokens:
    """The port `leases.Rotating` over the secret store."""

    def __init__(self, providers: Mapping[str, Provider], vault: SecretVault, store: SecretStore) -> None:
        self._providers, self._vault, self._store = providers, vault, store

    async def current(self, provider: str) -> str:
        """The token that the provider gave last, if it came of the one in the settings; else that one."""
        source = self._providers[provider].refresh_token
        if source is None:
            raise BadSecret("its provider has no refresh token")
        given = await self._vault.own(f"{provider}.refresh_token", source)
        try:
            found = await asyncio.to_thread(self._store.find, "", _name(provider))
        except OSError:
            raise BadSecret("the secret store cannot be read") from None
        kept = json.loads(found or "{}")
        return str(kept["token"]) if kept.get("of") == _mark(given) else given

    async def replaced(self, provider: str, refresh: str) -> None:
        """Keeps the next one. Raises `BadSecret` when it cannot be kept: the one before may be worth nothing now."""
        source = self._providers[provider].refresh_token or ""
        given = await self._vault.own(f"{provider}.refresh_token", source)
        self._vault.remember(f"{provider}.refresh_token", refresh)
        said = json.dumps({"of": _mark(given), "token": refresh})
        try:
            await asyncio.to_thread(self._store.put, "", _name(provider), said, time.time())
        except OSError:
            raise BadSecret("its next refresh token could not be kept") from None


def _name(provider: str) -> str:
    return f"oauth:{provider}"


def _mark(token: str) -> str:
    return sha256(token.encode()).hexdigest()
