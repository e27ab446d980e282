"""The authority: one door for keys and tokens, what it keeps, and what it lets nobody get by."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.identity.authority import KEPT, MOST, Authorities
from gateway.identity.claims import Verified
from gateway.identity.keys import KeyAuthority, new_key
from gateway.identity.revocations import InForce, new_revocation
from gateway.model import Principal, Refusal
from gateway.problems import refuse
from gateway.stores.memory import MemoryKeys


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Counted:
    """Takes every token, as that of the agent it names, for `lives` seconds; counts how often it looks."""

    def __init__(self, clock: Hand, lives: float = 3600.0) -> None:
        self.clock, self.lives, self.looked = clock, lives, 0
        self.raises: BaseException | None = None

    async def verify(self, token: str) -> Verified:
        self.looked += 1
        if self.raises is not None:
            raise self.raises
        who = Principal(token, "default", "ann", scopes=frozenset({"agent"}), authn="jwt", token_id=f"id-{token}")
        return Verified(who, "https://idp.example.com", self.clock.at - 10, self.clock.at + self.lives)


class Switch:
    """What is revoked."""

    def __init__(self) -> None:
        self.current = InForce()

    def off(self, whose: Mapping[str, str], at: float = 1000.0, *, earlier: bool = False) -> None:
        """Refuses these, and those from before."""
        made = new_revocation(whose, "test", {}, at, earlier)
        self.current = InForce(self.current.tokens, (*self.current.others, made))


class Made:
    """An authority with its parts."""

    def __init__(self, **more: Any) -> None:
        self.clock, self.switch, self.keys = Hand(), Switch(), MemoryKeys()
        self.tokens = Counted(self.clock, **more)
        self.over = Authorities(KeyAuthority(self.keys, self.clock), self.tokens, self.switch, self.clock)

    def ask(self, credential: str | None) -> str:
        """The agent, or the code of the refusal."""
        try:
            return asyncio.run(self.over.identify(credential)).agent
        except Refusal as refusal:
            return refusal.problem.code


def test_a_verified_token_is_not_verified_again_for_a_minute() -> None:
    """And is, after that."""
    made = Made()
    assert [made.ask("bot") for _ in range(5)] == ["bot"] * 5
    made.clock.at += KEPT - 0.1
    assert (made.ask("bot"), made.tokens.looked) == ("bot", 1)
    made.clock.at += 0.1
    assert (made.ask("bot"), made.tokens.looked) == ("bot", 2)


def test_a_token_is_not_kept_beyond_its_end() -> None:
    """However short it lives."""
    made = Made(lives=5.0)
    made.ask("bot")
    made.clock.at += 5
    made.ask("bot")
    assert made.tokens.looked == 2


def test_a_refusal_is_not_kept() -> None:
    """What could not be checked a moment ago is checked again, and may be good then; and never the other way."""
    made = Made()
    made.tokens.raises = refuse("unauthenticated", "no")
    assert [made.ask("bot") for _ in range(3)] == ["unauthenticated"] * 3
    made.tokens.raises = None
    assert (made.ask("bot"), made.tokens.looked) == ("bot", 4)


@pytest.mark.parametrize(
    "wrong",
    [RuntimeError("boom"), KeyError("x"), TimeoutError(), refuse("internal", "x"), refuse("egress_denied", "x")],
)
def test_whatever_goes_wrong_is_unauthenticated(wrong: BaseException) -> None:
    """A fault of ours lets nobody in, and says nothing of itself."""
    made = Made()
    made.tokens.raises = wrong
    assert made.ask("bot") == "unauthenticated"


def test_a_missing_scope_is_told() -> None:
    """It is the one refusal that is not `unauthenticated`."""
    made = Made()
    made.tokens.raises = refuse("insufficient_scope", "x")
    assert made.ask("bot") == "insufficient_scope"


def test_an_api_key_is_never_read_as_a_token() -> None:
    """By its prefix; and no credential at all is for the keys to judge."""
    made = Made()
    secret, key = new_key("bot", "default", "agent", 0.0)
    asyncio.run(made.keys.add(key))
    assert made.ask(secret) == "bot"
    assert made.ask("tg_agent_unknown") == "unauthenticated"
    assert made.ask(None) == "unauthenticated"
    assert made.tokens.looked == 0


def test_without_issuers_there_are_no_tokens() -> None:
    """Whatever looks like one is an unknown key."""
    clock = Hand()
    over = Authorities(KeyAuthority(MemoryKeys(), clock), None, Switch(), clock)
    with pytest.raises(Refusal):
        asyncio.run(over.identify("a.b.c"))


def test_what_is_kept_is_bounded() -> None:
    """The oldest goes when there is one more than there is room for."""
    made = Made()

    async def fill() -> None:
        for n in range(MOST + 1):
            await made.over.identify(f"bot{n}")
        assert made.tokens.looked == MOST + 1
        await made.over.identify(f"bot{MOST}")
        assert made.tokens.looked == MOST + 1
        await made.over.identify("bot0")
        assert made.tokens.looked == MOST + 2

    asyncio.run(fill())


@pytest.mark.parametrize(
    "whose",
    [
        {"token": "id-bot"},
        {"agent": "bot"},
        {"user": "ann"},
        {"tenant": "default"},
        {"issuer": "https://idp.example.com"},
        {"agent": "bot", "tenant": "default"},
    ],
    ids=str,
)
def test_a_token_that_is_kept_is_refused_as_soon_as_it_is_revoked(whose: dict[str, str]) -> None:
    """Nothing is verified again for that; and it is let in again once that is lifted."""
    made = Made()
    assert made.ask("bot") == "bot"
    made.switch.off(whose)
    assert [made.ask("bot"), made.ask("bot")] == ["unauthenticated"] * 2
    assert made.tokens.looked == 1
    made.switch.current = InForce()
    assert made.ask("bot") == "bot"


def test_others_are_not_meant() -> None:
    """All that is named has to apply."""
    made = Made()
    made.switch.off({"agent": "bot", "tenant": "other"})
    made.switch.off({"user": "bob"})
    made.switch.off({"agent": "ann"})
    assert made.ask("bot") == "bot"


def test_only_tokens_from_before_may_be_meant() -> None:
    """Whoever signs in after that is let in; an API key has no such moment."""
    made = Made()
    secret, key = new_key("bot", "default", "agent", 0.0, user="ann")
    asyncio.run(made.keys.add(key))
    made.switch.off({"user": "ann"}, at=made.clock.at, earlier=True)
    assert made.ask("bot") == "unauthenticated"
    assert made.ask(secret) == "bot"
    made.clock.at += 3600
    assert made.ask("another") == "another"


def test_an_api_key_is_refused_like_a_token() -> None:
    """By its id, and by whose it is."""
    for whose in ("token", "agent", "user", "tenant"):
        made = Made()
        secret, key = new_key("bot", "acme", "agent", 0.0, user="bob")
        asyncio.run(made.keys.add(key))
        assert made.ask(secret) == "bot"
        made.switch.off({whose: {"token": key.id, "agent": "bot", "user": "bob", "tenant": "acme"}[whose]})
        assert made.ask(secret) == "unauthenticated"


def test_a_token_revoked_while_it_is_verified_is_refused() -> None:
    """What is revoked is looked at last."""
    made = Made()

    class Slow:
        async def verify(self, token: str) -> Verified:
            made.switch.off({"agent": token})
            return await made.tokens.verify(token)

    over = Authorities(KeyAuthority(made.keys, made.clock), Slow(), made.switch, made.clock)
    with pytest.raises(Refusal):
        asyncio.run(over.identify("bot"))
