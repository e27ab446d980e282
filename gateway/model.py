"""The nouns of Toolgate: one frozen dataclass per idea, in the order in which a call meets them.

It never does anything: no I/O, no clock. Beside it stand `tool.py` (what an operator declares), `obligations.py`,
`aggregates.py` (what policy knows of the past), `admission.py` (what a call asks for) and `parked.py`. A *proof* type
(`Permit`, `Lease`, `Intent`, `Parent`, `SafeOutput`, `Outcome`) is made in one stage: having one proves that it ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NewType

from gateway.admission import Ask, Standing, Taken
from gateway.aggregates import Cell, Entry, Level
from gateway.obligations import Obligations
from gateway.parked import Parked
from gateway.tool import Fix, Json, Labels, Tool

Arguments = NewType("Arguments", Mapping[str, Json])  # validated by the tool's schema, defaults filled in


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that went wrong, as a value. `code` is a row of `problems.TABLE`; `detail` may be shown to a model."""

    code: str
    detail: str
    retry_after_ms: int | None = None
    advice: str | None = None
    fix: tuple[Fix, ...] = ()
    rule: str | None = None
    needs: tuple[str, ...] = ()  # OAuth scopes that a token would need
    approval: str | None = None  # id of the approval that is waited for


class Refusal(Exception):
    """We said no and nothing ran (or nothing was sent). Carries the `Problem`."""

    def __init__(self, problem: Problem, principal: Principal | None = None) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.principal = principal  # who was refused, if known before there is a Caller: in a session not theirs


class Failure(Exception):
    """The tool ran, or may have run, and did not succeed. Carries the `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Trace:
    """W3C Trace Context of the caller, as hex: who asked us, for the record."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it came: nothing in it is trusted.

    `arguments` are strictly decoded. `defect` is what the door found wrong with the message (size, content type, JSON):
    refused on record, once the caller is known. `parent` is the call whose code makes this one, `cause` the id of one
    that this one is asked because of, by a stage; no door can set them. `elicits`: the client can ask its person.
    """

    call_id: str
    tool: str
    arguments: Json
    credential: str | None = field(repr=False)
    session: str | None = None
    idempotency_key: str | None = None
    trace: Trace | None = None
    defect: Problem | None = None
    parent: Parent | None = None
    cause: str | None = None
    elicits: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """A known caller: the agent, the person on whose behalf it acts, the tenant, and what the credential allows.

    `workload` is the SPIFFE ID of the calling process, `actors` who acts for whom (RFC 8693 `act`, nearest first).
    `session` is the one that the credential is bound to, if it is.
    """

    agent: str
    tenant: str
    user: str | None = None
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    authn: str = "api_key"
    token_id: str = ""
    workload: str | None = None
    actors: tuple[str, ...] = ()
    session: str | None = None

    @property
    def key(self) -> str:
        """The identity that sessions and counters are bound to: tenant, agent and user, unambiguously joined."""
        return f"{self.tenant}\x1f{self.agent}\x1f{self.user or ''}"


SESSION_TTL = 24 * 3600.0  # seconds a session lives unless it was opened with another ttl


@dataclass(frozen=True, slots=True)
class Session:
    """What belongs together: calls of one principal that share labels and a content key. Times are unix seconds.

    `id` is what the caller sees (`s_…`, or the name given in the header); `uid` is unique over all principals.
    `budget` is what it may use up, `request` the person's own words, turn by turn, `parent` the uid of the one above.
    `version` grows with every change that a decision may depend on, but not with calls and cost.
    """

    id: str
    uid: str
    owner: str
    opened_at: float
    expires_at: float
    labels: Labels = frozenset()
    state: Literal["open", "closed"] = "open"
    calls: int = 0
    cost: float = 0.0
    budget: Mapping[str, float] = field(default_factory=dict)
    request: tuple[str, ...] = ()
    parent: str | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Proof that a request was authenticated: who it is and in which session. Made in `stages/authenticate.py` only."""

    principal: Principal
    session: Session


@dataclass(frozen=True, slots=True)
class Holder:
    """For whom a credential is fetched: the caller, and the call it is for.

    `credential` is the caller's own, to be exchanged (RFC 8693); it goes to nobody but the authorization server.
    """

    caller: Caller
    call_id: str
    tool: str
    credential: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A known caller, a tool it may see, arguments that are valid.

    `now` is the unix time the call was opened; with `seed` it makes a deterministic sandbox repeatable.
    """

    id: str
    caller: Caller
    tool: Tool
    arguments: Arguments
    now: float
    seed: int
    inputs: Mapping[str, Artifact] = field(default_factory=dict)  # file name → artifact, for the code to read
    parent: Parent | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes that a call left behind, kept under a handle: `sha256:` and hex of the content. Only its owner may have it.

    `owner` is a `Principal.key`; `labels` join whatever consumes it; `action` is what screening did to it.
    """

    handle: str
    owner: str
    name: str
    size: int
    media_type: str
    labels: Labels
    action: str
    call_id: str
    kept_at: float


class Effect(Enum):
    """The two answers policy can give."""

    PERMIT = "permit"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition of a rule as it was judged: its text, its result, and the values it read."""

    text: str
    result: Literal["true", "false", "error"]
    values: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that was looked at: where it stands (`file:line`), its effect, and how each clause came out."""

    rule: str
    source: str
    effect: Effect
    result: Literal["true", "false", "error"]
    clauses: tuple[Clause, ...] = ()
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy says of one call. `problem` is set exactly when the effect is forbid.

    `reads` is what of the past it stands on, `reserves` what the call adds to the past if it is admitted. `shadow` is
    the whole decision as it would be with the rules in shadow (or the candidate bundle) in force, where there are any.
    """

    call: Call
    effect: Effect
    bundle: str
    reasons: tuple[Reason, ...]
    obligations: Obligations
    problem: Problem | None = None
    reads: tuple[tuple[Cell, Level], ...] = ()
    reserves: tuple[Entry, ...] = ()
    shadow: Decision | None = None

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that determined it: the true permits, or the forbids that were true or in error."""
        decided = ("true",) if self.effect is Effect.PERMIT else ("true", "error")
        return tuple(r.rule for r in self.reasons if r.effect is self.effect and r.result in decided)


@dataclass(frozen=True, slots=True)
class Permit:
    """Proof that policy permits the call and whoever had to be asked said yes. Made in `stages/approve.py` only."""

    decision: Decision
    approval: Parked | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof that everything the call asked for was taken for it. Made in `stages/admit.py` only."""

    permit: Permit
    deadline: float  # monotonic seconds
    ask: Ask
    taken: Taken


@dataclass(frozen=True, slots=True)
class Intent:
    """Proof that what is about to run is durably on record. Made in `stages/record.py` only."""

    lease: Lease
    position: Position

    @property
    def call(self) -> Call:
        return self.lease.permit.decision.call

    @property
    def obligations(self) -> Obligations:
        return self.lease.permit.decision.obligations


@dataclass(slots=True)
class Allowance:
    """How many calls the code of one outermost call may still cause, at all depths together. It only shrinks."""

    left: int


@dataclass(frozen=True, slots=True)
class Parent:
    """Proof that a call is made by the code of another one, or `instead` of it. Made in `stages/execute.py` only.

    `intent` is that other call on record; `depth` counts from 1. A nested call has its caller, and never more time; all
    calls below one outermost call draw on its one `allowance`.
    """

    intent: Intent
    depth: int
    allowance: Allowance
    instead: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call took. Milliseconds, bytes, and the tool's declared cost."""

    wall_ms: float = 0.0
    sandbox_ms: float | None = None
    bytes_out: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class RawOutput:
    """What the tool gave, untrusted. `problem` is set when it failed; what it said before that is still in `text`.

    `content_type` is the media type of `text` without parameters. `files` are what it left behind; `labels` those of
    everything that went into it (inputs, nested results); `sandbox`: `backend`, `image_digest`, `engine` of code.
    """

    text: str
    structured: Json = None
    content_type: str = "text/plain"
    problem: Problem | None = None
    truncated: bool = False  # the backend cut it
    sandbox_ms: float | None = None
    origin: str | None = None  # host or backend, for provenance and the record
    guarantees: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict)
    labels: Labels = frozenset()
    sandbox: Mapping[str, str] | None = None
    etag: str | None = None  # of what was read (RFC 9110), where the backend names it
    attempts: int = 1  # 0: it was kept from an earlier call


@dataclass(frozen=True, slots=True)
class Finding:
    """Something screening saw. `span` counts characters of the shown text."""

    stage: str
    rule: str
    action: str
    path: str = ""
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What screening did: the strongest action taken (allow < annotate < redact < cut < quarantine < block)."""

    action: str
    labels: Labels
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class SafeOutput:
    """Proof that a result was screened: all that may reach a model. Made in `stages/screen.py` only.

    `raw` is what the tool gave without issued secrets, which are taken out: for the record only; no door reads it.
    """

    text: str
    structured: Json
    problem: Problem | None
    verdict: Verdict
    raw: RawOutput
    truncated: bool = False
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record stands in the ledger."""

    shard: str
    seq: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a call, on record. Made in `stages/record.py` only; doors answer with nothing else.

    `status`: `done`, `failed` (it ran or may have run), `refused` (nothing ran), `parked` (a person is asked first).
    `standings` are of the rates that it spent, `notes` the gateway's own words on limits, `repeat`: it is an old one's.
    """

    call_id: str
    tool: str
    status: Literal["done", "failed", "refused", "parked"]
    text: str
    structured: Json
    problem: Problem | None
    verdict: Verdict
    usage: Usage
    position: Position | None
    truncated: bool = False
    artifacts: tuple[Artifact, ...] = ()
    standings: tuple[Standing, ...] = ()
    notes: tuple[str, ...] = ()
    repeat: bool = False
    etag: str | None = None
