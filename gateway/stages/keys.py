"""Digests that idempotency goes by: of a caller's key, of a call, and of what a backend is told instead. Pure."""

from __future__ import annotations

import hashlib

from gateway.admission import Claim
from gateway.model import Call


def digest(*parts: str) -> str:
    """SHA-256 in hex of parts, each with its length before it, so that no two lists of parts are spelled alike."""
    spelled = b"".join(b"%d:%b" % (len(raw), raw) for raw in map(str.encode, parts))
    return hashlib.sha256(spelled).hexdigest()


def client_key(principal: str, given: str) -> str:
    """The key of the claim of a client's own idempotency key; `principal` is a `Principal.key`."""
    return digest("given", principal, given)


def forwarded(of: str) -> str:
    """What a backend is told to know a repeat by: of a claim's key, or of the call's id where the client gave none."""
    return digest("forwarded", of)


def key_of(call: Call, claim: Claim | None) -> str | None:
    """What the backend of a call is told, if anything: a caller's own key never leaves the gateway."""
    if claim is not None:
        return claim.forwarded
    return None if call.tool.idempotency.header is None else forwarded(call.id)
