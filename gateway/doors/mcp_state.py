"""What a client carries from a question to its answer (`requestState` of MCP 2026-07-28): signed, for one call only.

It holds no secret and keeps nothing. That a state is answered once is seen to where approvals are kept.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field
from typing import Final

from gateway import strictjson
from gateway.tool import Json

_LABEL: Final = b"toolgate requestState 1"
_MAX_CHARS: Final = 1024


@dataclass(frozen=True, slots=True)
class About:
    """The very request a state is for: of whom (`Principal.key`), which method and tool, with which arguments."""

    owner: str
    method: str
    tool: Json
    arguments: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a state says: which approval it asks for, and until when (unix seconds) it may be answered."""

    approval: str
    until: float


class States:
    """Makes states and reads them back. `secret` is shared by all gateways that a client may meet; it is used under a
    label of its own (HMAC-SHA-256), so it may be the key of other things too."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, _LABEL, "sha256")

    def write(self, carried: Carried, about: About) -> str:
        """The state for a question about that request: ASCII without white space."""
        said = f"{carried.approval}:{int(carried.until * 1000)}"
        return f"{said}.{self._signature(said, about)}"

    def read(self, state: Json, about: About) -> Carried | None:
        """What a state says; None unless it was written here, as it stands, for this very request."""
        if not isinstance(state, str) or len(state) > _MAX_CHARS or not state.isascii():
            return None
        said, _, signature = state.partition(".")
        if not hmac.compare_digest(signature, self._signature(said, about)):
            return None
        approval, _, until = said.rpartition(":")
        return Carried(approval, int(until) / 1000)

    def _signature(self, said: str, about: About) -> str:
        signed = strictjson.canonical([said, about.owner, about.method, about.tool, about.arguments])
        return base64.urlsafe_b64encode(hmac.digest(self._key, signed, "sha256")).decode()
