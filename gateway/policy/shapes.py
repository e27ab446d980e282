"""The shapes of a policy file and of cases (pydantic): which keys there are, and what each may hold.

They never compile an expression, and never look at a tool.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

from gateway.policy.quantities import Duration, RateText, Size
from gateway.tool import Json

KINDS = ("count", "count_distinct", "sum", "formerly", "since")
NULLABLE = ("user", "done", "body")  # keys for which null is a value
WANTED = ("permit", "parked", "deny", "refused", "done")

PART_ID = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
RULE_ID = r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$"
LABEL = r"^[a-z0-9][a-z0-9_.:-]{0,63}$"
NAME = r"^[a-z][a-z0-9_]{0,63}$"
APPROVER = r"^(requester|(user|group):[^\s:][^\s]{0,126})$"
PATH = r"^(args(\.[A-Za-z_][A-Za-z0-9_]*)+|arg(\.[A-Za-z_][A-Za-z0-9_]*)+)$"

PartId = Annotated[str, Field(pattern=PART_ID)]
RuleId = Annotated[str, Field(pattern=RULE_ID)]
Label = Annotated[str, Field(pattern=LABEL)]
Glob = Annotated[str, Field(min_length=1, max_length=128)]
Globs = Annotated[list[Glob], Field(min_length=1, max_length=1000)]
ValueName = Annotated[str, Field(pattern=NAME)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
ClauseText = Annotated[str, Field(min_length=1, max_length=4096)]
Effects = Annotated[list[Literal["read", "write", "destructive", "egress", "exec"]], Field(min_length=1)]
Approver = Annotated[str, Field(pattern=APPROVER)]
PathText = Annotated[str, Field(pattern=PATH)]

# What an editor has to be told besides: names that do not fit their pattern are not names of another kind.
_CLOSED: dict[str, JsonValue] = {"additionalProperties": False}


class Shape(BaseModel):
    """A mapping of a file: closed and exact, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: Json, info: ValidationInfo) -> Json:
        """A key with nothing behind it, as is left when its lines were commented out, never means "any" or "always"."""
        if value is None and info.field_name not in NULLABLE:
            raise ValueError("nothing stands here: write what belongs to the key, or leave the key out")
        return value


class MatchShape(Shape):
    """Which calls a rule is about. Each key given must match; one left out matches any. `*` stands for any run."""

    tools: Globs | None = None
    effects: Effects | None = None
    tool_labels: Globs | None = None
    agents: Globs | None = None
    users: Globs | None = None
    groups: Globs | None = None
    tenants: Globs | None = None


class LimitsShape(Shape):
    """Ceilings under those of the tool's spec."""

    output: Size


class LimitShape(Shape):
    """A rate of its own bucket, counted per session (the default), agent, user or tenant."""

    key: Literal["session", "agent", "user", "tenant"] = "session"
    calls: RateText


class SandboxShape(Shape):
    """Which sandboxes may run the call, and the guarantees they must give."""

    backends: (
        Annotated[list[Literal["wasm-python", "wasm-js", "wasm", "docker", "process"]], Field(min_length=1)] | None
    ) = None
    require: list[Label] = Field(default_factory=list)


class NetworkShape(Shape):
    """Where the call may go: entries like `GET https://api.example.com/v1/**`, besides what the tool's spec allows."""

    allow: Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(min_length=1, max_length=200)]


class ScreenShape(Shape):
    """What screening does at least: about text that instructs the reader, and with values of these kinds."""

    injection: Literal["allow", "flag", "redact", "quarantine", "block"] | None = None
    redact: list[Literal["email", "secret"]] = Field(default_factory=list)


class ApprovalShape(Shape):
    """A person has to say yes, always or `when` this is true (or cannot be judged)."""

    when: ClauseText | None = None
    by: Annotated[list[Approver], Field(min_length=1, max_length=32)]
    ttl: Duration = 900.0


class WithShape(Shape):
    """Obligations: what a permit requires of the rest of the line."""

    timeout: Duration | None = None
    limits: LimitsShape | None = None
    limit: LimitShape | None = None
    label: list[Label] = Field(default_factory=list)
    record: Literal["metadata", "request", "request_response"] | None = None
    sandbox: SandboxShape | None = None
    network: NetworkShape | None = None
    screen: ScreenShape | None = None
    cache: Literal["off", "on"] | None = None
    approval: ApprovalShape | None = None


class OfShape(Shape):
    """Which past calls an aggregate is about: by tool, as in `match`."""

    tools: Globs | None = None
    effects: Effects | None = None
    tool_labels: Globs | None = None


class AggregateShape(Shape):
    """One aggregate over past calls: exactly one of the five kinds.

    `sum` and `count_distinct` take an argument (`args.amount`) or a fact (`arg.url.host`) of the calls in `of`. With
    `same`, only calls count whose value there is the one of the call being decided. `over` says whose calls.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind]} for kind in KINDS],
            "dependentRequired": {"sum": ["of"], "count_distinct": ["of"]},
        }
    )

    count: OfShape | None = None
    count_distinct: PathText | None = None
    sum: PathText | None = None
    formerly: OfShape | None = None
    since: OfShape | None = None
    of: OfShape | None = None
    same: PathText | None = None
    within: Duration
    over: Literal["session", "user", "agent", "tenant"] = "session"


class RuleShape(Shape):
    """One rule. `when` holds CEL clauses that must all be true.

    `message` is what a refused model reads: of a forbid that forbids, of a permit whose conditions are not met.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"effect": {"const": "forbid"}}},
            "then": {"not": {"required": ["with"]}},
        }
    )

    id: RuleId
    effect: Literal["permit", "forbid"]
    mode: Literal["enforce", "shadow"] = "enforce"
    match: MatchShape = Field(default_factory=MatchShape)
    when: Annotated[list[ClauseText], Field(min_length=1, max_length=32)] | None = None
    with_: WithShape | None = Field(default=None, alias="with")
    message: Text | None = None


class AsShape(Shape):
    """The caller of a case."""

    agent: str = "dev"
    tenant: str = "default"
    user: str | None = None
    groups: list[str] = Field(default_factory=list)


class PastShape(Shape):
    """A call that was made before: `ago` it was admitted, and how it ended (`running`: it has not yet)."""

    call: Annotated[dict[str, Json], Field(min_length=1, max_length=1)]
    ago: Duration = 60.0
    ended: Literal["done", "failed", "refused", "running"] = "done"


class SessionShape(Shape):
    """The session a case's call meets, and the caller's past calls in it. `age` in seconds."""

    id: str = "s_case"
    labels: list[Label] = Field(default_factory=list)
    calls: int = Field(default=0, ge=0)
    cost: float = Field(default=0.0, ge=0)
    age: float = Field(default=0.0, ge=0)
    history: list[PastShape] = Field(default_factory=list)


class ExpectShape(Shape):
    """What a case wants: exactly one of permit, parked, deny, refused, done."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [key]} for key in WANTED]})

    permit: str | None = None
    parked: str | None = None
    deny: str | None = None
    refused: str | None = None
    done: Json = None
    obligations: WithShape | None = None
    events: list[Json] | None = None
    record: dict[str, Json] | None = None


class CallShape(Shape):
    """A call as a case gives it: the caller, the session, and which tool with which arguments."""

    as_: AsShape = Field(default_factory=AsShape, alias="as")
    session: SessionShape = Field(default_factory=SessionShape)
    call: Annotated[dict[str, Json], Field(min_length=1, max_length=1)]


class CaseShape(CallShape):
    """Given a caller, a session and a call: what must come out."""

    name: Text
    expect: ExpectShape


class PolicyShape(Shape):
    """One policy file: one part of the bundle."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"tier": {"const": "tenant"}}, "required": ["tier"]},
            "then": {"required": ["tenant"]},
        }
    )

    apiVersion: Literal["toolgate/v1"]
    kind: Literal["Policy"]
    id: PartId
    tier: Literal["platform", "tenant", "project", "task"] = "platform"
    tenant: str | None = None
    boundary: bool = False
    mode: Literal["enforce", "shadow"] = "enforce"
    values: dict[ValueName, Json] = Field(default_factory=dict, json_schema_extra=_CLOSED)
    state: dict[ValueName, AggregateShape] = Field(default_factory=dict, json_schema_extra=_CLOSED)
    rules: Annotated[list[RuleShape], Field(min_length=1, max_length=10_000)]
    tests: list[CaseShape] = Field(default_factory=list)


class UpstreamShape(Shape):
    """The answer of the backend in a case: nothing is ever dialled."""

    status: int = Field(default=200, ge=100, le=599)
    body: Json = None


class CasesShape(Shape):
    """A file of cases. `specs` and `policies` hold file names, or the documents themselves."""

    apiVersion: Literal["toolgate/v1"]
    kind: Literal["Cases"]
    specs: list[str | dict[str, Json]] = Field(default_factory=list)
    policies: list[str | dict[str, Json]] = Field(default_factory=list)
    upstream: UpstreamShape | None = None
    cases: Annotated[list[CaseShape], Field(min_length=1)]
