"""The shape of a policy file and of cases: YAML bytes in, checked shapes with their places out.

It never compiles an expression and never looks at a tool (`compile.py` does); it opens no file. What the language has
a word for but the gateway cannot honour yet is refused here, by name, never ignored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.policy.findings import nearest, shape_errors
from gateway.policy.quantities import Duration, RateText, Size
from gateway.problems import TABLE
from gateway.specs import yaml
from gateway.tool import Json

EFFECTS = ("read", "write", "destructive", "egress", "exec")
WANTED = ("permit", "deny", "refused", "done")
BACKENDS = ("wasm-python", "wasm-js", "wasm", "docker", "process")

PartId = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
RuleId = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
Glob = Annotated[str, Field(min_length=1, max_length=128)]
Globs = Annotated[list[Glob], Field(min_length=1, max_length=1000)]
ValueName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=500)]
ClauseText = Annotated[str, Field(min_length=1, max_length=4096)]


class Shape(BaseModel):
    """A mapping of a file: closed and exact, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MatchShape(Shape):
    """Which calls a rule is about. Each key given must match; one left out matches any. `*` stands for any run."""

    tools: Globs | None = None
    effects: Annotated[list[Literal["read", "write", "destructive", "egress", "exec"]], Field(min_length=1)] | None = (
        None
    )
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


class WithShape(Shape):
    """Obligations: what a permit requires of the rest of the line."""

    timeout: Duration | None = None
    limits: LimitsShape | None = None
    limit: LimitShape | None = None
    label: list[Label] = Field(default_factory=list)
    record: Literal["metadata", "request", "request_response"] | None = None
    sandbox: SandboxShape | None = None


class RuleShape(Shape):
    """One rule. `when` holds CEL clauses that must all be true; `message` is what a refused model reads."""

    id: RuleId
    effect: Literal["permit", "forbid"]
    mode: Literal["enforce"] = "enforce"
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


class SessionShape(Shape):
    """The session a case's call meets. `age` in seconds."""

    id: str = "s_case"
    labels: list[Label] = Field(default_factory=list)
    calls: int = Field(default=0, ge=0)
    cost: float = Field(default=0.0, ge=0)
    age: float = Field(default=0.0, ge=0)


class ExpectShape(Shape):
    """What a case wants: exactly one of permit, deny, refused, done."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [key]} for key in WANTED]})

    permit: str | None = None
    deny: str | None = None
    refused: str | None = None
    done: Json = None
    obligations: WithShape | None = None
    events: list[Json] | None = None
    record: dict[str, Json] | None = None


class CaseShape(Shape):
    """Given a caller, a session and a call: what must come out."""

    name: Text
    as_: AsShape = Field(default_factory=AsShape, alias="as")
    session: SessionShape = Field(default_factory=SessionShape)
    call: Annotated[dict[str, Json], Field(min_length=1, max_length=1)]
    expect: ExpectShape


class PolicyShape(Shape):
    """One policy file: one part of the bundle."""

    apiVersion: Literal["toolgate/v1"]
    kind: Literal["Policy"]
    id: PartId
    tier: Literal["platform", "tenant", "project", "task"] = "platform"
    tenant: str | None = None
    boundary: bool = False
    mode: Literal["enforce"] = "enforce"
    values: dict[ValueName, Json] = Field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class Part:
    """A policy file that has the right shape. `digest` is the SHA-256 of its bytes, in hex."""

    shape: PolicyShape
    located: yaml.Located
    digest: str

    @property
    def boundary(self) -> bool:
        """A task part only ever narrows."""
        return self.shape.boundary or self.shape.tier == "task"

    def source(self, *path: str | int) -> str:
        """`file:line` of a part of the file."""
        return f"{self.located.file}:{self.located.place(yaml.pointer(*path))[0]}"

    def error(self, sentence: str, *path: str | int) -> yaml.SpecError:
        """A finding at a part of the file."""
        return self.located.error(yaml.pointer(*path), sentence)


def read_part(raw: bytes, file: str) -> Part:
    """A policy file. Raises SpecErrors with all findings of its shape."""
    located = _read(raw, file)
    found = _later(located)
    if found:
        raise yaml.SpecErrors(found)
    try:
        shape = PolicyShape.model_validate(located.value)
    except ValidationError as error:
        raise yaml.SpecErrors(shape_errors(located, error, PolicyShape)) from None
    part = Part(shape, located, hashlib.sha256(raw).hexdigest())
    cases = [*case_errors(located, shape.tests, "tests"), *_beyond_decisions(part)]
    found = [*_part_errors(part), *_rule_errors(part), *cases]
    if found:
        raise yaml.SpecErrors(found)
    return part


def read_cases(raw: bytes, file: str) -> tuple[CasesShape, yaml.Located]:
    """A file of cases. Raises SpecErrors with all findings of its shape."""
    located = _read(raw, file)
    try:
        shape = CasesShape.model_validate(located.value)
    except ValidationError as error:
        raise yaml.SpecErrors(shape_errors(located, error, CasesShape)) from None
    found = case_errors(located, shape.cases, "cases")
    if found:
        raise yaml.SpecErrors(found)
    return shape, located


def schema_of(kind: Literal["policy", "cases"]) -> dict[str, Json]:
    """The JSON Schema (2020-12) of a file kind, for editors."""
    shape: type[BaseModel] = PolicyShape if kind == "policy" else CasesShape
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **shape.model_json_schema()}


def case_errors(located: yaml.Located, cases: list[CaseShape], key: str) -> list[yaml.SpecError]:
    """What is wrong with cases beyond their shape."""
    found = []
    for index, case in enumerate(cases):
        wanted = case.expect.model_fields_set & set(WANTED)
        at = yaml.pointer(key, index, "expect")
        if len(wanted) != 1:
            found.append(located.error(at, "a case expects exactly one of permit, deny, refused or done"))
        elif case.expect.obligations is not None and wanted != {"permit"}:
            found.append(located.error(at, "obligations come only with permit"))
        elif case.expect.refused is not None and case.expect.refused not in TABLE:
            found.append(
                located.error(at, f"{case.expect.refused!r} is no problem code: {nearest(case.expect.refused, TABLE)}")
            )
    return found


def _read(raw: bytes, file: str) -> yaml.Located:
    try:
        return yaml.load(raw, file)
    except yaml.SpecError as error:
        raise yaml.SpecErrors([error]) from None


def _part_errors(part: Part) -> list[yaml.SpecError]:
    found = []
    shape = part.shape
    if shape.tier == "tenant" and shape.tenant is None:
        found.append(part.error("a part of tier tenant names its tenant: add `tenant:`", "tier"))
    if shape.boundary is False and "boundary" in shape.model_fields_set and shape.tier == "task":
        found.append(part.error("a task part is always a boundary: leave `boundary: false` out", "boundary"))
    return found


def _beyond_decisions(part: Part) -> list[yaml.SpecError]:
    sentence = "a policy's tests stop at the decision: put a case with done, events or record into a Cases file"
    return [
        part.error(sentence, "tests", index, "expect")
        for index, case in enumerate(part.shape.tests)
        if case.expect.model_fields_set & {"done", "events", "record"}
    ]


def _rule_errors(part: Part) -> list[yaml.SpecError]:
    found = []
    for index, rule in enumerate(part.shape.rules):
        if rule.id in TABLE:
            sentence = f"{rule.id!r} is a problem code: give the rule a name of its own"
            found.append(part.error(sentence, "rules", index, "id"))
        if rule.effect == "forbid" and rule.with_ is not None:
            sentence = "a forbid carries no obligations: leave `with` out, or put it on a permit"
            found.append(part.error(sentence, "rules", index, "with"))
        if rule.effect == "permit" and rule.message is not None:
            sentence = "a message is what a refused caller reads: only a forbid has one"
            found.append(part.error(sentence, "rules", index, "message"))
    return found


# ── words of the language that are not supported yet ─────────────────────────────────────────────────────────────────

_LATER_TOP = ("state", "signature")
_LATER_WITH = ("approval", "network", "screen", "cache")
_LATER_SESSION = ("history", "budget")  # of a case


def _later(located: yaml.Located) -> list[yaml.SpecError]:
    top = located.value
    if not isinstance(top, dict):
        return [located.error("", "a policy file is a mapping that starts with `apiVersion: toolgate/v1`")]
    found = [_not_yet(located, key, key) for key in _LATER_TOP if key in top]
    if top.get("mode") == "shadow":
        found.append(_not_yet(located, "mode: shadow", "mode"))
    rules = top.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else []):
        if isinstance(rule, dict):
            found += _later_in_rule(located, rule, index)
    tests = top.get("tests")
    for index, case in enumerate(tests if isinstance(tests, list) else []):
        session = case.get("session") if isinstance(case, dict) else None
        for key in _LATER_SESSION:
            if isinstance(session, dict) and key in session:
                found.append(_not_yet(located, f"the {key} of a session", "tests", index, "session", key))
    return found


def _later_in_rule(located: yaml.Located, rule: dict[str, Json], index: int) -> list[yaml.SpecError]:
    found = []
    if rule.get("mode") == "shadow":
        found.append(_not_yet(located, "mode: shadow", "rules", index, "mode"))
    given = rule.get("with")
    for key in _LATER_WITH:
        if isinstance(given, dict) and key in given:
            found.append(_not_yet(located, f"the obligation {key}", "rules", index, "with", key))
    return found


def _not_yet(located: yaml.Located, what: str, *path: str | int) -> yaml.SpecError:
    return located.error(yaml.pointer(*path), f"{what} is not supported yet: leave it out")
