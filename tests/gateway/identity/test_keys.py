"""API keys: how they are made and recognised."""

from __future__ import annotations

import asyncio

import pytest

from gateway.identity.keys import KeyAuthority, digest_of, new_key
from gateway.model import Principal, Refusal
from gateway.ports import Key
from gateway.stores.memory import MemoryKeys


class At:
    """A clock that stands still."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now


def identify(authority: KeyAuthority, credential: str | None) -> Principal | str:
    """The principal, or the code of the refusal."""
    try:
        return asyncio.run(authority.identify(credential))
    except Refusal as refusal:
        return refusal.problem.code


def test_a_key_names_its_agent_tenant_user_and_scope() -> None:
    """The principal is what was written when the key was made."""
    keys = MemoryKeys()
    secret, key = new_key("bot", "acme", "agent", 0.0, user="ann")
    asyncio.run(keys.add(key))
    found = identify(KeyAuthority(keys, At(1.0)), secret)
    assert found == Principal("bot", "acme", "ann", frozenset(), frozenset({"agent"}), "api_key", key.id)


def test_only_the_digest_of_a_secret_is_kept() -> None:
    """256 random bits behind a prefix that scanners know; the record cannot give them back."""
    secret, key = new_key("bot", "acme", "operator", 0.0)
    assert secret.startswith("tg_operator_")
    assert len(secret) >= len("tg_operator_") + 43
    assert key.digest == digest_of(secret)
    assert secret not in repr(key)


@pytest.mark.parametrize(
    "wrong", [None, "", "x", "tg_agent_", "tg_agent_" + "A" * 43, "Basic YTpi", "é" * 40, "\ud800", "t" * 9000]
)
def test_whatever_is_not_a_key_is_unauthenticated(wrong: str | None) -> None:
    """One answer for every kind of wrong credential, never an exception of another kind."""
    assert identify(KeyAuthority(MemoryKeys(), At(0.0)), wrong) == "unauthenticated"


def test_expired_and_revoked_keys_are_refused() -> None:
    """A key ends at its expiry to the second, and at once when revoked."""
    keys = MemoryKeys()
    secret, key = new_key("bot", "acme", "agent", 0.0, expires_at=10.0)
    asyncio.run(keys.add(key))
    assert isinstance(identify(KeyAuthority(keys, At(9.9)), secret), Principal)
    assert identify(KeyAuthority(keys, At(10.0)), secret) == "unauthenticated"
    asyncio.run(keys.revoke(key.id, 5.0))
    assert identify(KeyAuthority(keys, At(6.0)), secret) == "unauthenticated"


def test_nobody_is_anonymous_unless_that_was_switched_on() -> None:
    """A missing credential is the anonymous agent only in the explicit profile; a wrong one never is."""
    assert identify(KeyAuthority(MemoryKeys(), At(0.0)), None) == "unauthenticated"
    open_door = KeyAuthority(MemoryKeys(), At(0.0), anonymous=True)
    nobody = identify(open_door, None)
    assert isinstance(nobody, Principal)
    assert (nobody.agent, nobody.scopes) == ("anonymous", frozenset({"agent"}))
    assert identify(open_door, "tg_agent_wrong") == "unauthenticated"


def test_an_unknown_key_makes_the_authority_look_again() -> None:
    """A key made a moment ago by another process works on its first use."""
    late: dict[str, Key] = {}

    class LateKeys(MemoryKeys):
        def find(self, digest: str) -> Key | None:
            return late.get("key")

    secret, key = new_key("bot", "acme", "agent", 0.0)
    keys = LateKeys()
    authority = KeyAuthority(
        keys, At(1.0), missed=lambda digest: late.update(key=key) if digest == key.digest else None
    )
    assert isinstance(identify(authority, secret), Principal)
