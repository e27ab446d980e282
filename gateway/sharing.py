"""What gateways that share a Redis have in common besides limits: sessions, keys, revocations, what waits, outcomes.

It makes the parts and keeps them told of one another. What is not shared is said in docs/replicas.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from gateway.admission import Claim
from gateway.identity.revocations import Revocations
from gateway.identity.shared import SharedSeal
from gateway.model import Outcome, Position, Refusal
from gateway.settings import BadSettings, Settings
from gateway.stages import kept
from gateway.stages.record import remembered
from gateway.stores.redis import address_of
from gateway.stores.redis_approvals import RedisApprovals
from gateway.stores.redis_facts import Facts
from gateway.stores.redis_keys import SharedKeys
from gateway.stores.redis_link import Redis
from gateway.stores.redis_news import News
from gateway.stores.redis_outcomes import RedisOutcomes
from gateway.stores.redis_revocations import SharedRevocations
from gateway.stores.redis_scripts import TEXTS
from gateway.stores.redis_sessions import RedisSessions
from gateway.stores.resp import Address
from gateway.stores.sqlite import SqliteKeys

STARTING = 10.0  # seconds that a start waits for Redis
APART = 30.0  # seconds by which clocks may differ: ends of sessions and keys are times, and windows of budgets begin


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts of one gateway. `secret` is what all gateways have in common, for signing and sealing."""

    address: Address
    box: SharedSeal
    sessions: RedisSessions
    approvals: RedisApprovals
    outcomes: RedisOutcomes
    facts: Sequence[Facts]
    loops: Sequence[Callable[[], Coroutine[None, None, None]]]

    @property
    def secret(self) -> bytes:
        return self.box.secret

    async def tell(self) -> None:
        """Tells the others what this home was told of keys and revocations. Raises `Refusal(overloaded)`."""
        for each in self.facts:
            await each.tell()

    async def collect(self) -> None:
        """Asks which sessions ended and are on nobody's record; nothing happens while Redis is away."""
        with suppress(Refusal):
            await self.sessions.collect(time.time())


async def open_shared(
    settings: Settings,
    keys: SqliteKeys,
    revocations: Revocations,
    stack: AsyncExitStack,
    clock: Callable[[], float] = time.time,
) -> Shared | None:
    """The parts, once everything was read; None where the store is no Redis. `stack` closes them.

    Raises `BadSettings` when there is no such Redis, or when it has another time than `clock`, in unix seconds.
    """
    if settings.store in ("sqlite", "memory"):
        return None
    try:
        address = address_of(settings.store)
    except ValueError as error:
        raise BadSettings([f"store: {error}"]) from error
    redis, box = await stack.enter_async_context(Redis(address)), SharedSeal()
    news = News(redis, box.use)
    shared = _made(address, redis, news, box, keys, revocations)
    try:
        async with asyncio.timeout(STARTING):
            await _started(news)
            wrong = await apart(redis, clock)
    except (TimeoutError, Refusal):
        raise BadSettings([f"store: there is no Redis that answers at {address.host or address.path}"]) from None
    if abs(wrong) > APART:
        raise BadSettings([f"store: the clock of this machine is {wrong:+.0f} s from that of Redis"])
    stack.push_async_callback(shared.sessions.flush)
    return shared


def _made(
    address: Address, redis: Redis, news: News, box: SharedSeal, keys: SqliteKeys, revocations: Revocations
) -> Shared:
    outcomes = RedisOutcomes(redis, box, kept.write, _outcome)
    return Shared(
        address=address,
        box=box,
        sessions=RedisSessions(redis, news, box),
        approvals=RedisApprovals(redis, box),
        outcomes=outcomes,
        facts=(SharedKeys(redis, news, keys), SharedRevocations(redis, news, revocations)),
        loops=(news.follow, outcomes.write_always),
    )


async def shared_sessions(store: str, stack: AsyncExitStack) -> tuple[RedisSessions, Redis]:
    """The sessions of all gateways, for a command that puts nothing on record itself, and where they are. Raises
    `Refusal(overloaded)`, and `ValueError` for an address that is none."""
    redis, box = await stack.enter_async_context(Redis(address_of(store))), SharedSeal()
    news = News(redis, box.use)
    sessions = RedisSessions(redis, news, box, owed=0.0)
    await news.start()
    return sessions, redis


async def apart(redis: Redis, clock: Callable[[], float] = time.time) -> float:
    """How many seconds this clock is ahead of that of Redis. Raises `Refusal(overloaded)`."""
    seconds, micro = await redis.do("TIME")
    return clock() - int(seconds) - int(micro) / 1e6


async def erase_shared(store: str, uids: Collection[str]) -> None:
    """Drops what was content of these sessions, for a command that erased it: outcomes kept for repeats, what was
    asked for, what waits. Raises as `shared_sessions`; to be done again then."""
    async with Redis(address_of(store)) as redis:
        box = SharedSeal()
        news = News(redis, box.use)
        sessions, approvals = RedisSessions(redis, news, box, owed=0.0), RedisApprovals(redis, box)
        await news.start()
        for uid in uids:
            await redis.do("EVAL", TEXTS["erase"], 1, f"tg:kept:{uid}", uid)
        sessions.forget_requests(uids)
        await approvals.erase(uids)
        await sessions.flush()


class SettledElsewhere:
    """The keys of all gateways, for a command that settles one; it takes none. Methods raise `Refusal(overloaded)`, and
    `ValueError` for an address that is none."""

    def __init__(self, store: str) -> None:
        self._store = store

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        """The call was done; a repeat is told `kept`."""
        await self._end(claim.key, call_id, "done", kept, session)

    async def release(self, key: str, call_id: str) -> bool:
        """The call was not done: the key is free. Whether that call had it."""
        return await self._end(key, call_id, "free")

    async def _end(self, key: str, call_id: str, state: str, kept_: bytes = b"", session: str = "") -> bool:
        async with Redis(address_of(self._store)) as redis:
            box = SharedSeal()
            await News(redis, box.use).start()
            sealed = box.close(kept_.decode(), key.encode())
            keys = (f"tg:claim:{key}", f"tg:kept:{session}")
            return bool(await redis.do("EVAL", TEXTS["end"], len(keys), *keys, call_id, state, sealed, session))


async def _started(news: News) -> None:
    while True:
        try:
            return await news.start()
        except Refusal:
            await asyncio.sleep(0.1)


def _outcome(call_id: str, octets: bytes, position: Position | None) -> Outcome:
    """One that another gateway kept."""
    try:
        return remembered(kept.read(call_id, "", octets), call_id, position, repeat=False)
    except kept.NotKept as error:
        raise ValueError(call_id) from error
