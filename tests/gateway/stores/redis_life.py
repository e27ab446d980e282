"""Counters over one Redis, as tests need them: opened for a test, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gateway.admission import Account, Amounts, Ask, Bucket, Claim, Slot
from gateway.aggregates import Reservation
from gateway.stores.redis import address_of
from gateway.stores.redis_counters import RedisCounters
from gateway.stores.resp import Link
from gateway.tool import Rate
from tests.redisserver import RedisServer

BEAT = 0.05  # seconds


@asynccontextmanager
async def opened(server: RedisServer, me: str = "one", **given: Any) -> AsyncIterator[RedisCounters]:
    """Counters of one gateway."""
    address = address_of(f"{server.url}?deadline={given.pop('deadline', 2)}")
    async with RedisCounters(address, me, **({"beat": BEAT} | given)) as counters:
        yield counters


@asynccontextmanager
async def asking(server: RedisServer) -> AsyncIterator[Link]:
    """A link of the test's own, to look and to do what no store does."""
    link = Link(address_of(f"{server.url}?deadline=10"))
    link.open()
    try:
        yield link
    finally:
        await link.close()


def key_of(account: str) -> str:
    """The key of an account of sessions, as it is made."""
    return f"session\x1f{account}\x1fNone\x1f0"


def ask(
    call: str,
    now: float = 1000.0,
    *,
    rates: Mapping[str, tuple[int, float]] | None = None,
    slots: Mapping[str, int] | None = None,
    accounts: Mapping[str, Amounts] | None = None,
    wants: Amounts | None = None,
    claim: str | None = None,
    seen: tuple[str, int] | None = None,
    reservation: Reservation | None = None,
    effects: bool = True,
    lasts: float = 30.0,
) -> Ask:
    """What a call asks for, in few words."""
    return Ask(
        call,
        now,
        lasts,
        tuple(Bucket(key, Rate(*rate), key) for key, rate in (rates or {}).items()),
        tuple(Slot(key, most) for key, most in (slots or {}).items()),
        tuple(Account(key_of(key), "session", most, 3600.0) for key, most in (accounts or {}).items()),
        wants or {},
        None if claim is None else Claim(claim, "print", "forwarded", 3600.0),
        seen,
        reservation,
        effects,
    )
