"""What the scripts of `redis_counters.py` are asked and what they answer, as words on the wire. It asks nothing itself.

Budgets are whole numbers; times of rates are whole microseconds, an interval rounded up, so that no more calls get
through than were declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from gateway.admission import Account, Amounts, Ask, Bucket, Claimed, Dimension, Standing, Taken, Warned
from gateway.aggregates import OF_VALUE, Cell, Ended, Entry, Reservation
from gateway.reliability.budgets import lacking
from gateway.reliability.cells import MOST_VALUES
from gateway.stores.counters import BUSY_SECONDS, FULL_SECONDS
from gateway.stores.resp import Reply, Words

SEPARATOR = "\x1f"
SLACK = 60.0  # seconds by which the clocks of gateways may differ, and entries are kept too long
BURIED_MS = 600_000  # how long a call is remembered that was given up
_LEASE_MS = 24 * 3600 * 1000  # and what a call took that nobody settles
_MICRO = 1_000_000
_STATES: Mapping[str, Literal["in_progress", "done", "unknown"]] = {
    "in_progress": "in_progress",
    "done": "done",
    "unknown": "unknown",
}


def taking(ask: Ask, me: str, epoch: bytes, now: float | None = None, forced: bool = False) -> tuple[list[str], Words]:
    """Keys and arguments of `take.lua`. `me` is the gateway. `now` in seconds instead of Redis's own clock; `forced`
    checks nothing."""
    keys = ["tg:epoch", "tg:version", f"tg:lease:{ask.call_id}", f"tg:open:{me}"]
    lasts = _ms(ask.lasts)
    words: list[str | bytes | int] = [epoch, ask.call_id, lasts, lasts + _LEASE_MS, int(forced), micro(now)]
    _claim_and_session(ask, keys, words)
    words.append(len(ask.slots))
    for slot in ask.slots:
        keys.append(f"tg:slot:{slot.key}")
        words.append(slot.most)
    words.append(len(ask.buckets))
    for bucket in ask.buckets:
        interval = interval_of(bucket)
        keys.append(f"tg:rate:{bucket.key}")
        words += (interval, interval * bucket.rate.calls)
    words.append(len(ask.wants))
    for name, amount in ask.wants.items():
        words += (name, amount)
    words.append(len(ask.accounts))
    for account in ask.accounts:
        keys.append(f"tg:used:{account.key}")
        words += (_ms(account.lasts), len(account.most))
        for name, amount in account.most.items():
            words += (name, amount)
    _state(ask, keys, words)
    return keys, tuple(words)


def _claim_and_session(ask: Ask, keys: list[str], words: list[str | bytes | int]) -> None:
    if ask.claim is None:
        words.append(0)
    else:
        keys.append(f"tg:claim:{ask.claim.key}")
        words += (1, ask.claim.fingerprint, _ms(ask.claim.ttl))
    if ask.seen is None:
        words.append(0)
    else:
        keys.append(f"tg:session:{ask.seen[0]}")
        words += (1, ask.seen[1])


def _state(ask: Ask, keys: list[str], words: list[str | bytes | int]) -> None:
    reservation = ask.reservation
    if reservation is None:
        words += (0, 0)
        return
    words.append(len(reservation.reads))
    for cell, level in reservation.reads:
        keys.append(f"tg:v:{cell.key}")
        words.append(level.version)
    words.append(len(reservation.entries))
    for entry in reservation.entries:
        cell = entry.cell
        owner, _, value = cell.key.rpartition(OF_VALUE)
        keys += (f"tg:cell:{cell.key}", f"tg:v:{cell.key}", f"tg:values:{owner}")
        member = under_way(entry, reservation.call_id, ask.now + ask.lasts)
        words += (value if owner else "", repr(reservation.at), member)
        words += (repr(ask.now - cell.within - SLACK), cell_ms(cell), MOST_VALUES)


def settling(ask: Ask, me: str, ended: Ended, spent: Amounts, given_up: bool = False) -> tuple[list[str], Words]:
    """Keys and arguments of `settle.lua`."""
    keys = ["tg:version", f"tg:lease:{ask.call_id}", f"tg:open:{me}"]
    keys += [f"tg:slot:{slot.key}" for slot in ask.slots]
    words: list[str | bytes | int] = [ask.call_id, BURIED_MS if given_up else 0, len(ask.slots)]
    refused = ended == "refused"
    if refused and ask.claim is not None:
        keys.append(f"tg:claim:{ask.claim.key}")
        words.append(1)
    else:
        words.append(0)
    counts = {} if refused else spent
    words.append(len(counts))
    for name, amount in counts.items():
        words += (name, amount)
    words.append(len(ask.accounts))
    keys += [f"tg:used:{account.key}" for account in ask.accounts]
    entries = _to_end(ask.reservation, refused)
    words.append(len(entries))
    for entry in entries:
        keys += (f"tg:cell:{entry.cell.key}", f"tg:v:{entry.cell.key}")
        assert ask.reservation is not None
        member = under_way(entry, ask.call_id, ask.now + ask.lasts)
        done = happened(ask.call_id, None) if ended == "done" and entry.cell.kind == "formerly" else ""
        words += (member, done, repr(ask.reservation.at), cell_ms(entry.cell))
    return keys, tuple(words)


def _to_end(reservation: Reservation | None, refused: bool) -> list[Entry]:
    """The entries to which it makes a difference how the call ended."""
    if reservation is None:
        return []
    return [entry for entry in reservation.entries if refused or entry.cell.kind == "formerly"]


def under_way(entry: Entry, call_id: str, until: float) -> str:
    """An entry as a member of its cell: call, state, amount. One that is `f` makes a `formerly` true once it is done,
    which it will not be any more after `until`."""
    if entry.cell.kind == "formerly":
        return f"{call_id}{SEPARATOR}f{until!r}{SEPARATOR}"
    return happened(call_id, entry.amount)


def happened(call_id: str, amount: object) -> str:
    """The same of a call that nothing takes back any more."""
    return f"{call_id}{SEPARATOR}{SEPARATOR}{'' if amount is None else amount}"


def taken(ask: Ask, reply: Reply) -> Taken:
    """The answer of `take.lua`, but for `epoch`."""
    kind = reply[0].decode()
    if kind == "taken":
        pairs = reply[1]
        granted = {_dimension(pairs[at]): pairs[at + 1] for at in range(0, len(pairs), 2)}
        warned = tuple(Warned(ask.accounts[i - 1], _dimension(name), used) for i, name, used in reply[3])
        return Taken(granted=granted, standings=_standings(ask.buckets, reply[2]), warned=warned)
    if kind in ("session", "changed"):
        return Taken(kind, "state" if kind == "changed" else None)
    if kind == "full":
        return Taken("full", "state", retry_after=FULL_SECONDS)
    if kind == "rate":
        standings = _standings(ask.buckets, reply[3])
        return Taken("rate", ask.buckets[reply[1] - 1].key, retry_after=reply[2] / _MICRO, standings=standings)
    if kind == "late":
        return Taken("unavailable")
    return _short(kind, ask, reply)


def _short(kind: str, ask: Ask, reply: Reply) -> Taken:
    if kind == "concurrency":
        return Taken("concurrency", ask.slots[reply[1] - 1].key, retry_after=BUSY_SECONDS)
    if kind == "budget":
        _, number, name, had, want = reply
        return Taken("budget", said=lacking(ask.accounts[number - 1], _dimension(name), had, want))
    assert kind == "claimed"
    assert ask.claim is not None
    return Taken("claimed", ask.claim.key, retry_after=BUSY_SECONDS, claimed=claimed(reply[1:]))


def claimed(fields: Sequence[bytes], kept: bytes | None = None, later: float = 0.0) -> Claimed:
    """A claim from its fields `call fp state until`; the clock of Redis is so many seconds `later` than ours."""
    call_id, fingerprint, state, until = (each.decode() for each in fields)
    return Claimed(call_id, fingerprint, _STATES[state], float(until) / _MICRO - later, kept)


def _standings(buckets: Sequence[Bucket], aheads: Sequence[int]) -> tuple[Standing, ...]:
    """How each bucket stands; `aheads` are microseconds until it is whole again."""
    standings = []
    for bucket, ahead in zip(buckets, aheads, strict=True):
        interval = interval_of(bucket)
        standings.append(Standing(bucket, (interval * bucket.rate.calls - ahead) // interval, ahead / _MICRO))
    return tuple(standings)


def interval_of(bucket: Bucket) -> int:
    """Microseconds between two calls."""
    return math.ceil(bucket.rate.per * _MICRO / bucket.rate.calls)


def micro(now: float | None) -> int:
    """Whole microseconds; -1 for Redis's own clock."""
    return -1 if now is None else round(now * _MICRO)


def cell_ms(cell: Cell) -> int:
    """How long Redis remembers a cell that nothing is added to."""
    return _ms(cell.within + 2 * SLACK)


def lasting(account: Account) -> int:
    """How long Redis remembers an account, in ms."""
    return _ms(account.lasts)


def _ms(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _dimension(name: bytes) -> Dimension:
    return cast(Dimension, name.decode())
