"""The outside, as Protocols: what the stages need and never make themselves. Concrete things are made in `app.py`.

Every method that may wait is `async`; the others are memory only and return at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.admission import Account, Amounts, Ask, Claim, Claimed, Taken, Warned
from gateway.aggregates import Cell, Ended, Entry, Level
from gateway.lifetimes import Change
from gateway.model import Artifact, Call, Decision, Holder, Outcome, Position, Principal, RawOutput, Reason, Session
from gateway.parked import Answer, Parked
from gateway.tool import Json, Labels, SecretUse, Tool
from gateway.work import Work


class Clock(Protocol):
    """Time. `now` is unix seconds (may jump); `monotonic` is for deadlines; `steady` is unix seconds as they were when
    the process began and monotonic from there: for rates and windows, whose past outlives the process."""

    def now(self) -> float: ...
    def steady(self) -> float: ...
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
    async def seek(self, owner: str, session_id: str) -> Session | None:
        """As `find`; what is not known here is asked of all gateways together."""
        ...

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

    async def fresh(self, session: Session) -> Session | None:
        """The session as all gateways together have it now; None when it is gone."""
        ...

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
    """Rates (GCRA), slots, budgets, claims and the state that policy declares: taken together or not at all."""

    async def look(self, cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        """What each cell holds at `now` (unix seconds), by its key. Raises `Refusal(overloaded)` when that cannot be
        asked."""
        ...

    async def take(self, ask: Ask) -> Taken:
        """Takes everything, or nothing and says why. Never raises for want of the store: that is `unavailable`."""
        ...

    def settle(self, ask: Ask, taken: Taken, ended: Ended, spent: Amounts) -> None:
        """The call ended. Returns at once; what is elsewhere is told as soon as that can be, and once.

        Slots come back. `refused` (nothing was dispatched) gives back all else but rates, and the claim; otherwise
        `spent` is what counts instead of what was granted, and the claim waits for its outcome.
        """
        ...

    async def used(self, keys: Sequence[str]) -> Mapping[str, Amounts]:
        """What is used up, by the key of the account: what is under way included."""
        ...

    async def report(self, accounts: Sequence[Account], amounts: Amounts) -> Sequence[Warned]:
        """Adds what only the client knows of (tokens). Raises `Refusal(overloaded)` when it could not be added."""
        ...


class Claims(Protocol):
    """Idempotency keys, by a digest of caller and key. Taken by `Counters.take`, given back by its `settle`.

    Each raises `Refusal(overloaded)` when the store cannot be asked.
    """

    async def find(self, key: str) -> Claimed | None: ...
    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        """Its call ended, and a repeat gets `kept`; content of the session of that `uid`, erased with it."""
        ...

    async def doubt(self, claim: Claim, call_id: str) -> None:
        """Its call may have happened, and nobody can say how it ended."""
        ...

    async def release(self, key: str, call_id: str) -> bool:
        """Frees the key, if that call has it: it is known by now that it did not happen."""
        ...


class Approvals(Protocol):
    """Calls that wait for a person. Every look-up names the tenant: another one's does not exist."""

    async def bound(self, binding: str, now: float) -> Parked | None:
        """The latest of that binding which is pending, granted or denied, and has not expired."""
        ...

    async def get(self, tenant: str, approval_id: str) -> Parked | None: ...
    async def ask(self, parked: Parked, most: int) -> Parked:
        """Keeps one, or gives the one pending of the same binding.

        Raises `Refusal(rate_limited)` when its owner has `most` that are pending already, `overloaded` or
        `audit_unavailable` when it cannot be kept.
        """
        ...

    async def answer(self, tenant: str, approval_id: str, answer: Answer) -> Parked | None:
        """Adds an answer to a pending one that has not expired: a no denies it, a yes to the last open rule grants it.
        None when there is none to answer."""
        ...

    async def use(self, tenant: str, approval_id: str, call_id: str, now: float) -> bool:
        """Uses up a granted one that has not expired: true for one call only."""
        ...

    async def restore(self, tenant: str, approval_id: str, call_id: str) -> None:
        """The call that used it was not dispatched: it may be used again."""
        ...

    async def all(self, tenant: str | None) -> Sequence[Parked]:
        """Those that are remembered, the oldest first; of every tenant without one."""
        ...


class Accounts(Protocol):
    """Accounts that people have connected at providers (`accounts.py`), as far as a yes is for one of them."""

    def account(self, principal: Principal, provider: str) -> str:
        """The id of the one that calls of this principal use there, another one for each time one is connected; or
        nothing."""
        ...


class Notices(Protocol):
    """Tells people that a call waits for them."""

    def asked(self, parked: Parked) -> None:
        """Somebody is asked. Returns at once, and never raises: a call does not wait for it."""
        ...


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
