"""What seals content that gateways share through Redis: under a secret that all of them have, and no file.

Sealed is what stands in Redis and its dumps beside other things; whoever can read all of Redis can read the secret too.
It is never used for what the ledger keeps, which each home seals under keys of its own.
"""

from __future__ import annotations

import json

from gateway.identity.store import Seal
from gateway.identity.vault import BadSecret
from gateway.problems import refuse

_PURPOSE = b"toolgate shared v1"


class SharedSeal:
    """Seals texts, each bound to its place."""

    def __init__(self) -> None:
        self.secret = b""
        self._seal: Seal | None = None

    def use(self, secret: bytes) -> None:
        """The secret that all gateways have now."""
        self.secret, self._seal = secret, Seal(secret, _PURPOSE)

    def close(self, text: str, place: bytes) -> bytes:
        """The sealed bytes. Raises `Refusal(overloaded)` before Redis gave the secret."""
        if self._seal is None:
            raise refuse("overloaded", "What gateways share cannot be asked just now.")
        return self._seal.close(json.dumps(text), place)  # a text need not be Unicode

    def open(self, sealed: bytes, place: bytes) -> str | None:
        """The text; None when it was sealed under another secret, or for another place."""
        try:
            return None if self._seal is None else str(json.loads(self._seal.open(sealed, place)))
        except BadSecret:
            return None
