"""Cases: given a caller, a session and a call, what must come out. Those of a policy file run here, on decisions alone.

It never dials, never runs a tool and reads no clock: every case happens at the same instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from gateway.aggregates import Ended, Reservation
from gateway.model import Arguments, Call, Caller, Decision, Effect, Principal, Session
from gateway.obligations import Obligations
from gateway.policy import language, shapes
from gateway.policy.bundle import PolicyBundle
from gateway.policy.obligations import obligations_of
from gateway.policy.past import Misfit, Past, past_of, reserved
from gateway.ports import Bundle
from gateway.reliability.cells import Cells
from gateway.specs import yaml
from gateway.tool import Json, Tool

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@dataclass(frozen=True, slots=True)
class Expect:
    """What a case wants. `value` is the rule, the rule or code, the problem code, or the partial result of `done`.

    `parked`: permitted once somebody has said yes, whom the named rule asks for.
    """

    kind: Literal["permit", "parked", "deny", "refused", "done"]
    value: Json
    obligations: shapes.WithShape | None = None
    events: Sequence[Json] | None = None
    record: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `source` is `file:line`; `arguments` are as an agent would send them, not yet checked.

    `history` are the caller's past calls in the session.
    """

    name: str
    source: str
    principal: Principal
    session: Session
    tool: str
    arguments: Json
    expect: Expect
    history: tuple[Past, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file of `kind: Cases`: `specs` and `policies` are file names or whole documents, `upstream` (status, body)."""

    specs: tuple[str | dict[str, Json], ...]
    policies: tuple[str | dict[str, Json], ...]
    upstream: tuple[int, Json] | None
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case came out; `got` and `wanted` are short sentences for people."""

    name: str
    source: str
    ok: bool
    got: str
    wanted: str


def load_cases(raw: bytes, file: str) -> CaseFile:
    """A file of cases. Raises SpecErrors."""
    shape, located = language.read_cases(raw, file)
    upstream = (shape.upstream.status, shape.upstream.body) if shape.upstream else None
    cases = tuple(_case(each, located, "cases", index) for index, each in enumerate(shape.cases))
    return CaseFile(tuple(shape.specs), tuple(shape.policies), upstream, cases)


def load_call(raw: bytes, file: str) -> Case:
    """A call to be explained, written like a case that expects nothing. Raises SpecErrors."""
    shape = language.read_call(raw, file)
    ((tool, arguments),) = shape.call.items()
    return _build(shape, file, tool, arguments, f"{file}:1", Expect("done", {}))


def cases_of(bundle: PolicyBundle) -> list[Case]:
    """The `tests` of all parts of a bundle."""
    return [
        _case(each, part.located, "tests", index)
        for part in bundle.parts
        for index, each in enumerate(part.shape.tests)
    ]


def run_cases(bundle: PolicyBundle, cases: Iterable[Case] | None = None) -> list[CaseResult]:
    """Run cases over a bundle and the tools it was loaded with; by default its own. Pure."""
    return [_run(bundle, case) for case in (cases_of(bundle) if cases is None else cases)]


def tell(
    case: Case,
    bundle: Bundle,
    tools: Mapping[str, Tool],
    reserve: Callable[[Reservation], object],
    settle: Callable[[Reservation, Ended], None],
) -> None:
    """Tells a store of the case's history, oldest call first. Raises Misfit for a call that nobody could have made."""
    made = reserved(case.history, Caller(case.principal, case.session), NOW, bundle, tools)
    for reservation, ended in made:
        reserve(reservation)
        if ended is not None:
            settle(reservation, ended)


def _case(shape: shapes.CaseShape, located: yaml.Located, key: str, index: int) -> Case:
    ((tool, arguments),) = shape.call.items()
    line = located.place(yaml.pointer(key, index))[0]
    return _build(shape, shape.name, tool, arguments, f"{located.file}:{line}", _expect(shape.expect))


def case_of(shape: shapes.CaseShape, tool: str, source: str) -> Case:
    """A case that stands in the spec of `tool`: its `call` holds the arguments, or `{TOOL: arguments}` as elsewhere."""
    named = shape.call.get(tool)
    arguments = named if len(shape.call) == 1 and isinstance(named, dict) else shape.call
    return _build(shape, shape.name, tool, arguments, source, _expect(shape.expect))


def _build(shape: shapes.CallShape, name: str, tool: str, arguments: Json, source: str, expect: Expect) -> Case:
    caller, given = shape.as_, shape.session
    scopes = frozenset({"agent"})
    principal = Principal(caller.agent, caller.tenant, caller.user, frozenset(caller.groups), scopes)
    opened = NOW - given.age
    session = Session(
        id=given.id,
        uid=given.id,
        owner=principal.key,
        opened_at=opened,
        expires_at=NOW + 3600,
        labels=frozenset(given.labels),
        calls=given.calls,
        cost=given.cost,
    )
    return Case(name, source, principal, session, tool, arguments, expect, past_of(given.history))


def _expect(shape: shapes.ExpectShape) -> Expect:
    (kind,) = shape.model_fields_set & set(shapes.WANTED)
    named = cast(Literal["permit", "parked", "deny", "refused", "done"], kind)
    return Expect(named, getattr(shape, kind), shape.obligations, shape.events, shape.record)


def _run(bundle: PolicyBundle, case: Case) -> CaseResult:
    wanted = f"{case.expect.kind} {case.expect.value}"
    tool = bundle.tools.get(case.tool)
    # A hidden tool does not exist for the caller; with `deny` a case asks what policy itself says of it.
    if tool is None or (case.expect.kind == "refused" and case.tool not in bundle.visible(case.principal)):
        return _refused(case, "unknown_tool", wanted)
    if tool.check.check(case.arguments):
        return _refused(case, "invalid_arguments", wanted)
    arguments = tool.check.fill(dict(cast(Mapping[str, Json], case.arguments)))
    caller = Caller(case.principal, case.session)
    call = Call("c_case", caller, tool, Arguments(arguments), NOW, 0)
    past = Cells()
    try:
        tell(case, bundle, bundle.tools, past.reserve, past.settle)
    except Misfit as misfit:
        return CaseResult(case.name, case.source, False, str(misfit), wanted)
    decision = bundle.decide(call, past.look(bundle.cells(call), NOW))
    ok, got = _compare(case.expect, decision)
    return CaseResult(case.name, case.source, ok, got, wanted)


def _refused(case: Case, code: str, wanted: str) -> CaseResult:
    ok = case.expect.kind == "refused" and case.expect.value == code
    return CaseResult(case.name, case.source, ok, f"refused {code}", wanted)


def _compare(expect: Expect, decision: Decision) -> tuple[bool, str]:
    if decision.effect is Effect.FORBID:
        assert decision.problem is not None
        code, rule = decision.problem.code, decision.problem.rule
        names = (
            {code, rule, *decision.rules} if expect.kind == "deny" else {code} if expect.kind == "refused" else set()
        )
        return expect.value in names, f"deny {code}" + (f" by {rule}" if rule else "")
    asking = tuple(each.rule for each in decision.obligations.approvals)
    got = f"permit {', '.join(decision.rules)}" + (f", asking for {', '.join(asking)}" if asking else "")
    named = {"permit": decision.rules, "parked": asking}.get(expect.kind, ())
    if expect.value not in named:
        return False, got
    lacks = missing(expect.obligations, decision.obligations)
    return not lacks, got + (f", but not with {', '.join(lacks)}" if lacks else "")


def missing(wanted: shapes.WithShape | None, got: Obligations) -> list[str]:
    """The obligations that were wanted and did not come out so, by their key in a policy file."""
    if wanted is None:
        return []
    want = obligations_of("", wanted)
    same = {
        "timeout": want.timeout == got.timeout,
        "limits.output": want.output == got.output,
        "label": want.labels == got.labels,
        "limit": all(any((w.key, w.rate) == (g.key, g.rate) for g in got.limits) for w in want.limits),
        "record": want.record == got.record,
        "sandbox.backends": want.backends == got.backends,
        "sandbox.require": want.require == got.require,
        "network": set(want.networks) <= set(got.networks),
        "screen.injection": want.injection == got.injection,
        "screen.redact": want.redact == got.redact,
        "cache": want.cache == got.cache,
        "approval": all(any((w.by, w.ttl) == (g.by, g.ttl) for g in got.approvals) for w in want.approvals),
    }
    return [key for key in want.origin if not same[key]]
