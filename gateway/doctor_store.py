"""Whether the Redis that gateways share is fit for it: there, whole after a restart, closed to others, with our time.

It reads what Redis says of itself; it changes nothing there, and shows no password.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.doctor import Check
from gateway.model import Refusal
from gateway.settings import Settings
from gateway.sharing import APART, apart
from gateway.stores.redis import address_of
from gateway.stores.redis_link import Redis
from gateway.stores.resp import Address

AREA: Final = "store"
_OLDEST = 7  # the first version of Redis that has all that is asked of it
_NOTED = 1.0  # seconds that clocks are apart before they are spoken of


async def store(settings: Settings) -> list[Check]:
    """Checks of the setting `store`; nothing to say of one that no other gateway has."""
    if settings.store == "sqlite":
        return []
    if settings.store == "memory":
        return [Check(AREA, "note", "limits, idempotency keys and what waits for a person end with the gateway")]
    try:
        address = address_of(settings.store)
        async with Redis(address) as redis:
            told, wrong = await _told(redis), await apart(redis)
    except ValueError as error:
        return [Check(AREA, "bad", str(error))]
    except Refusal as refusal:
        return [Check(AREA, "bad", f"Redis does not answer: {refusal.problem.detail}")]
    checks = [*_fit(told), *_lasting(told), *_closed(address), *_clock(wrong)]
    return checks or [Check(AREA, "ok", f"Redis {told.get('redis_version')} answers, and keeps what it is told")]


async def _told(redis: Redis) -> Mapping[str, str]:
    """What Redis says of itself; of its settings `save` and `appendfsync`, where it lets us ask."""
    lines = (await redis.do("INFO")).decode(errors="replace").splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    for name in ("save", "appendfsync"):
        try:
            flat = await redis.do("CONFIG", "GET", name)
        except Refusal:
            continue
        found |= {name: flat[1].decode(errors="replace")} if flat else {}
    return found


def _fit(told: Mapping[str, str]) -> Iterator[Check]:
    version = told.get("redis_version", "")
    if not version.partition(".")[0].isdecimal() or int(version.partition(".")[0]) < _OLDEST:
        yield Check(AREA, "bad", f"this is Redis {version}; {_OLDEST} or newer is needed")
    if told.get("role") != "master" or told.get("cluster_enabled") == "1":
        yield Check(AREA, "bad", "this is a replica, or a cluster; one primary is needed")
    if told.get("maxmemory", "0") != "0" and told.get("maxmemory_policy", "noeviction") != "noeviction":
        said = f"maxmemory-policy is {told['maxmemory_policy']}: Redis drops limits and keys when its memory is full"
        yield Check(AREA, "bad", f"{said}; set noeviction")


def _lasting(told: Mapping[str, str]) -> Iterator[Check]:
    if told.get("aof_enabled") == "1":
        if told.get("appendfsync", "always") != "always":
            yield Check(AREA, "bad", f"appendfsync is {told['appendfsync']}: a crash loses the last of it; set always")
    elif told.get("save"):
        yield Check(AREA, "bad", "snapshots alone: a restart goes back in time; set appendonly yes, or save to nothing")
    else:
        yield Check(AREA, "note", "a restart empties it, and gateways put back what their ledgers say: see replicas.md")


def _closed(address: Address) -> Iterator[Check]:
    if not address.host:
        return
    if not address.password:
        yield Check(AREA, "note", "it is asked without a password: whoever reaches it can make keys")
    if not address.tls and address.host not in ("localhost", "127.0.0.1", "::1"):
        yield Check(AREA, "note", "it is asked in plain, without TLS: the network to it has to be the gateways' own")


def _clock(wrong: float) -> Iterator[Check]:
    if abs(wrong) > _NOTED:
        said = f"the clock here is {wrong:+.1f} s from that of Redis; more than {APART:g} s and no gateway starts"
        yield Check(AREA, "bad" if abs(wrong) > APART else "note", said)
