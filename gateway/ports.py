"""The outside, as Protocols: what the stages need and never make themselves. Concrete things are made in `app.py`.

Every method that may wait is `async`; the others are memory only and return at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.aggregates import Cell, Ended, Entry, Level, Reservation
from gateway.lifetimes import Change, Used
from gateway.model import Artifact, Call, Decision, Holder, Outcome, Position, Principal, RawOutput, Reason, Session
from gateway.tool import Json, Labels, Rate, SecretUse, Tool
from gateway.work import Work


class Clock(Protocol):
    """Time. `now` is unix seconds (may jump); `monotonic` is for deadlines and windows."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is kept: the SHA-256 of the secret, never the secret. Times are unix seconds."""

    id: str
    digest: str
    agent: str
    tenant: str
    user: str | None
    scopes: frozenset[str]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None


class Keys(Protocol):
    """API keys by digest."""

    def find(self, digest: str) -> Key | None: ...
    async def add(self, key: Key) -> None: ...
    async def revoke(self, key_id: str, at: float) -> bool: ...
    async def expire(self, key_id: str, at: float) -> bool:
        """Has a key expire then, unless it does sooner; False when there is none in force of that id."""
        ...

    def all(self) -> Sequence[Key]: ...


class Authority(Protocol):
    """Who a credential belongs to."""

    async def identify(self, credential: str | None) -> Principal:
        """The principal. Raises `Refusal(unauthenticated)` for anything it does not know, for any reason."""
        ...


class Sessions(Protocol):
    """Sessions by owner and id. Every look-up names the owner: another principal's session does not exist.

    What one session of a tree sees all of it has seen: labels go to those above and below at once.
    """

    def find(self, owner: str, session_id: str) -> Session | None: ...
    def line(self, uid: str) -> Sequence[Session]:
        """The session of that `uid` and those above it, nearest first; nothing when there is none."""
        ...

    async def open(self, session: Session) -> Session:
        """Keeps a new session; returns the one already open under that owner and id, if there is one."""
        ...

    async def ask(self, session: Session, words: str) -> Session | None:
        """Adds a turn to what the person asked for; None when the session is not open any more."""
        ...

    async def close(
        self, owner: str, session_id: str, why: str = "closed", who: Mapping[str, Json] | None = None
    ) -> Session | None:
        """Closes it and all below it; whatever is admitted later is refused. None when there is none of that name."""
        ...

    def take(self, session: Session, cost: float) -> None:
        """Takes one call out of the budgets of the session and those above it, all or nothing.

        Raises `Refusal`: `budget_exhausted`; `session_closed` when it was closed meanwhile.
        """
        ...

    def give_back(self, session: Session, cost: float) -> None:
        """A call that was taken did not happen."""
        ...

    def used(self, session: Session) -> Used: ...
    def is_open(self, session: Session) -> bool: ...
    async def spend(self, session: Session, labels: Labels, cost: float) -> None:
        """Adds a finished call to the session: its labels (which only grow), its cost, one more call."""
        ...

    def all(self) -> Sequence[Session]: ...
    def changes(self, now: float) -> Sequence[Change]:
        """What has to be put on record, for whoever asks to do it: nobody else is given the same again."""
        ...

    def put_back(self, changes: Sequence[Change]) -> None:
        """They could not be put on record: whoever asks next is given them."""
        ...

    async def recorded(self, changes: Sequence[Change]) -> None:
        """They are on record."""
        ...


class Counters(Protocol):
    """Rates (GCRA), concurrency and the state that policy declares: taken together or not at all."""

    def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        """What each cell holds at `now` (unix seconds), by its key."""
        ...

    def take(
        self,
        buckets: Sequence[tuple[str, Rate]],
        slots: Sequence[tuple[str, int]],
        now: float,
        reservation: Reservation | None = None,
    ) -> Taken:
        """Takes everything, or nothing; `now` in monotonic seconds. `changed` when a level that was read is not so
        now, `full` when an aggregate keeps too many values of this owner apart already.

        What `reservation` holds is reserved until `settle`.
        """
        ...

    def leave(self, slots: Sequence[tuple[str, int]]) -> None: ...

    def settle(self, reservation: Reservation, ended: Ended) -> None:
        """A reserved call ended: `refused` takes its entries back, the other two keep what may have happened."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer of `Counters.take`: `refused` names the key that had no room; `retry_after` is in seconds."""

    refused: str | None = None
    kind: Literal["rate", "concurrency", "changed", "full"] | None = None
    retry_after: float = 0.0


class Vault(Protocol):
    """Credentials by reference. What it ever gave out is what screening looks for."""

    async def reveal(self, use: SecretUse, holder: Holder | None) -> str:
        """The value, for this holder; without one, for the gateway itself. What is fetched anew is on record first.

        Raises `Refusal`: `upstream_unreachable` when it cannot be had, `account_required` with the link by which the
        caller's person connects an account, and those of `Ledger.check`.
        """
        ...


class Catalogue(Protocol):
    """The loaded tools."""

    def find(self, name: str) -> Tool | None: ...
    def all(self) -> Sequence[Tool]: ...


class Bundle(Protocol):
    """A compiled set of policies, immutable.

    `decide` is pure, and gives the same answer for the same call and levels.
    """

    @property
    def digest(self) -> str: ...
    def cells(self, call: Call) -> Sequence[Cell]:
        """What of the past the rules that this call meets read."""
        ...

    def decide(self, call: Call, levels: Mapping[str, Level]) -> Decision:
        """The decision; `levels` are those of `cells(call)`, by key."""
        ...

    def explain(self, call: Call, levels: Mapping[str, Level]) -> Decision:
        """The same decision, with every clause of every rule that was looked at."""
        ...

    def near(self, tool: Tool, principal: Principal) -> Sequence[Reason]:
        """The rules about a tool that do not meet the caller, or hide the tool from it: for explaining."""
        ...

    def entries(self, call: Call) -> Sequence[Entry]:
        """What this call adds to the past once it is admitted."""
        ...

    def visible(self, principal: Principal) -> frozenset[str]:
        """Names of the tools whose listing this principal may see."""
        ...


class Bundles(Protocol):
    """The bundle in force."""

    def current(self) -> Bundle: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One record to be written. `fields` stand in plain; `content` is encrypted under the session's key.

    `session` is the session's `uid` and `tenant` the owner of its key; both `None` for lines without content.
    """

    type: str
    fields: Mapping[str, Json]
    content: Json = None
    session: str | None = None
    tenant: str | None = None


class Ledger(Protocol):
    """The append-only audit log."""

    def check(self) -> None:
        """Raises `Refusal(audit_unavailable | audit_saturated)` when nothing could be written now."""
        ...

    async def append(self, line: Line) -> Position:
        """Writes one line; it is durable when this returns. Raises the refusals of `check`."""
        ...

    def digest(self, tenant: str, value: bytes) -> str:
        """A keyed digest (HMAC-SHA-256 under a tenant key) of content, for comparing without revealing."""
        ...

    def checkpoint(self) -> None:
        """Asks that what is written by now be signed at once, not at the next interval. Returns without waiting."""
        ...


class Runner(Protocol):
    """Does the work of one kind of backend.

    Raises `Refusal` when nothing ran or was sent, `Failure` when it may have run; is cancelled at the deadline.
    """

    async def run(self, work: Work) -> RawOutput: ...


class Outcomes(Protocol):
    """Recent outcomes by call id, for `GET /v1/calls/{id}`: the owner is checked by the store."""

    def keep(self, owner: str, outcome: Outcome) -> None: ...
    async def find(self, owner: str, call_id: str) -> Outcome | None: ...


class NotKept(Exception):
    """An artifact was not kept: `quota` (its owner has too much already) or `store` (it cannot be written)."""

    def __init__(self, reason: Literal["quota", "store"]) -> None:
        super().__init__(reason)
        self.reason = reason


class Artifacts(Protocol):
    """Bytes that calls left behind, by owner and handle, for some time. What another owner kept is not found."""

    async def keep(self, artifact: Artifact, content: bytes) -> Artifact:
        """Keeps it, durably; with the labels of each time its owner kept the same bytes. Raises `NotKept`."""
        ...

    async def find(self, owner: str, handle: str) -> Artifact | None: ...
    async def read(self, artifact: Artifact) -> bytes:
        """The content. Raises `Refusal(not_found)` when it is gone."""
        ...


class Ids(Protocol):
    """Fresh identifiers: `prefix` + at least 128 random bits."""

    def new(self, prefix: str) -> str: ...
    def seed(self) -> int: ...


class Pins(Protocol):
    """Digests of upstream tool definitions, kept from first sight."""

    def find(self, server: str, tool: str) -> str | None: ...
    async def pin(self, server: str, tool: str, digest: str) -> None: ...
