"""The gateway's own secret store: what `toolgate secrets set` was given, sealed under `HOME/master.key`.

AES-256-GCM with a random nonce; tenant and name are bound in, so that a row moved to another name does not open. The
master key is used through a key derived from it, so that nothing sealed here opens as a content key or the other way.
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.identity.vault import BadSecret
from gateway.model import Holder
from gateway.stores.secrets import SecretRow, SqliteSecrets

_PURPOSE = b"toolgate secrets v1"


class Seal:
    """Seals short texts for one purpose, each bound to the place where it is kept."""

    def __init__(self, master: bytes, purpose: bytes) -> None:
        self._cipher = AESGCM(hmac.digest(master, purpose, "sha256"))

    def close(self, text: str, place: bytes) -> bytes:
        """The sealed bytes."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, text.encode(), place)

    def open(self, sealed: bytes, place: bytes) -> str:
        """The text. Raises `BadSecret` when it was sealed under another key, or for another place."""
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], place).decode()
        except InvalidTag:
            raise BadSecret("it does not open with this master key") from None


class SecretStore:
    """A source of secrets, `store:NAME`. One of the caller's tenant stands before one that is everybody's.

    Methods raise `OSError` when `state.db` cannot be used.
    """

    def __init__(self, rows: SqliteSecrets, master: bytes) -> None:
        self._rows = rows
        self._seal = Seal(master, _PURPOSE)

    def put(self, tenant: str, name: str, value: str, at: float) -> None:
        """Keeps a value, instead of the one that was there. `tenant` is empty for everybody's."""
        self._rows.put(tenant, name, self._seal.close(value, _place(tenant, name)), at)

    def find(self, tenant: str, name: str) -> str | None:
        """The value of just that tenant; None when there is none. Raises `BadSecret` when it does not open."""
        sealed = self._rows.find(tenant, name)
        return None if sealed is None else self._seal.open(sealed, _place(tenant, name))

    def remove(self, tenant: str, name: str) -> bool:
        """Forgets it; False when it was not there."""
        return self._rows.remove(tenant, name)

    def all(self) -> list[SecretRow]:
        """What operators keep, without values; not what the gateway keeps for itself, whose names have a colon."""
        return [row for row in self._rows.all() if ":" not in row.name]

    def peek(self, place: str) -> None:
        """Whose it is depends on who calls. Raises `BadSecret` when there is none of that name at all."""
        if all(row.name != place for row in self.all()):
            raise BadSecret("it is not set")

    async def fetch(self, place: str, holder: Holder | None) -> str:
        """The value, for this holder's tenant. Raises `BadSecret`."""
        if ":" in place:  # what the gateway keeps for itself goes to nobody else
            raise BadSecret("it is not set")
        tenant = holder.caller.principal.tenant if holder else ""
        try:
            for owner in dict.fromkeys((tenant, "")):
                value = self.find(owner, place)
                if value is not None:
                    return value
        except OSError:
            raise BadSecret("the secret store cannot be read") from None
        raise BadSecret("it is not set")


def _place(tenant: str, name: str) -> bytes:
    return f"{tenant}\x1f{name}".encode()
