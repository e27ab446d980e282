"""What a call needs before it may run, and what is left of that: the nouns of rates, slots, budgets and claims.

It never counts: a store does, all of one `Ask` or nothing of it. Amounts of budgets are whole numbers in the units of
`UNITS`, so that many small ones add up exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.aggregates import Reservation
from gateway.tool import Rate

Dimension = Literal["calls", "cost", "wall", "sandbox", "bytes", "tokens"]
Amounts = Mapping[Dimension, int]
# What one of each dimension is worth in the words of a file: calls, millionths of the operator's currency, milliseconds
# of the clock on the wall and in a sandbox, bytes of results, tokens as the client reports them.
UNITS: Mapping[Dimension, int] = {
    "calls": 1,
    "cost": 1_000_000,
    "wall": 1_000,
    "sandbox": 1_000,
    "bytes": 1,
    "tokens": 1,
}
# Of these a call takes what is left when that is less than it asks for; it then has so much less time, or room.
PARTIAL: frozenset[Dimension] = frozenset({"wall", "sandbox", "bytes"})
NOTHING: Amounts = {}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A rate (GCRA) that a call spends one of. `name` is what headers call it; `key` is unique over all owners."""

    key: str
    rate: Rate
    name: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A place among at most `most` calls at once."""

    key: str
    most: int


@dataclass(frozen=True, slots=True)
class Account:
    """What somebody has used up, and the most of it. `name` says whose: `session`, `session above`, `principal`,
    `tenant`. A dimension that is not in `most` is not bounded. `lasts`: seconds after its last use in which it is to be
    remembered."""

    key: str
    name: str
    most: Amounts
    lasts: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to be the one call of an idempotency key. `key` is a digest of caller and key, `fingerprint` one of
    tool and canonical arguments; `forwarded` is what a backend is told instead of the caller's own key. `ttl` in s."""

    key: str
    fingerprint: str
    forwarded: str
    ttl: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who has a key: `in_progress` while it runs, `done` with the outcome as it was kept, `unknown` when the call may
    have happened and nobody can say how it ended. `until` (unix seconds): when one in progress is given up on."""

    call_id: str
    fingerprint: str
    state: Literal["in_progress", "done", "unknown"]
    until: float
    kept: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one call asks for, all or nothing. `call_id` is the token: the same ask again takes nothing more.

    `now` is unix seconds and `lasts` the seconds after which a slot comes back by itself; a store of several gateways
    goes by its own clock. `seen` is the `uid` and version of the session that was decided on. `effects` says that the
    call may change something, so that it must not go on under a count that may be wrong.
    """

    call_id: str
    now: float
    lasts: float
    buckets: tuple[Bucket, ...] = ()
    slots: tuple[Slot, ...] = ()
    accounts: tuple[Account, ...] = ()
    wants: Amounts = field(default_factory=dict)
    claim: Claim | None = None
    seen: tuple[str, int] | None = None
    reservation: Reservation | None = None
    effects: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """How a rate stands after a call: `left` of `bucket`'s calls now, and seconds until it is whole again."""

    bucket: Bucket
    left: int
    reset: float


@dataclass(frozen=True, slots=True)
class Warned:
    """That an account has just passed four fifths of what it may use up."""

    account: Account
    dimension: Dimension
    used: int


Lacking = Literal["rate", "concurrency", "budget", "changed", "full", "session", "claimed", "unavailable"]


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer to an `Ask`. `kind` is set when nothing was taken, and says for want of what: `changed` when what the
    decision read of the past is not so any more, `session` when the session is not as it was seen, `full` when an
    aggregate keeps too many values of this owner apart already, `claimed` when another call has the key, `unavailable`
    when the store cannot be asked. `refused` is the key that had no room, `said` a sentence for the caller,
    `retry_after` in seconds. `granted` is what accounts gave, which of `PARTIAL` may be less than was wanted.
    """

    kind: Lacking | None = None
    refused: str | None = None
    said: str = ""
    retry_after: float = 0.0
    granted: Amounts = field(default_factory=dict)
    standings: tuple[Standing, ...] = ()
    warned: tuple[Warned, ...] = ()
    claimed: Claimed | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a file bounds: `over` whom, how much, in windows of `within` seconds that begin at multiples of it
    (unix time); without `within` for good."""

    over: Literal["session", "principal", "tenant"]
    most: Amounts
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds for every call, by settings. `rates` by `session`, `principal`, `tenant`, `tool` (of one principal)
    and `all`. `bulkhead`: calls of one tool at once, of all callers together. `repeats`: calls with the same arguments
    and the same result in one session; 0 for no bound."""

    rates: Mapping[str, Rate] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    concurrency: int = 256
    bulkhead: int = 512
    repeats: int = 0
