"""The decision: what the rules say of one call. Read `combine` first.

Pure: no I/O, no clock, no store. The same call under the same bundle gives the same decision, byte for byte. An error
never permits: it makes a permit not apply, and a forbid forbid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.model import Call, Clause, Decision, Effect, Obligations, Principal, Problem, Reason
from gateway.policy.engine import Bound, Truth, Unbindable, bind
from gateway.policy.obligations import BACKENDS, merge
from gateway.policy.rules import Condition, Part, Rule
from gateway.policy.syntax import Path
from gateway.policy.variables import Reading, Values, reading
from gateway.problems import problem
from gateway.tool import Json, SandboxBackend, Tool

Result = Literal["true", "false", "error"]
_ABSENT = {"absent": True}
_MISSING = object()
_MAX_CHARS, _MAX_ITEMS = 120, 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision without its call."""

    effect: Effect
    reasons: tuple[Reason, ...]
    obligations: Obligations
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one principal's calls of one tool can meet, worked out once.

    `certain` holds the reason of each candidate that has no conditions. `verdict` is there when none has.
    """

    tool: Tool
    candidates: tuple[Rule, ...]
    boundaries: tuple[Part, ...]
    certain: tuple[Reason | None, ...]
    reading: Reading
    verdict: Verdict | None


def plan(candidates: tuple[Rule, ...], parts: Iterable[Part], tool: Tool, principal: Principal) -> Plan:
    """Prepare for the calls of a tool by a principal. `candidates` are the rules that match both, in bundle order."""
    boundaries = tuple(part for part in parts if part.boundary and part.covers(principal))
    values = {name: value for rule in candidates for name, value in rule.part.values.items()}
    paths = {path for rule in candidates for condition in rule.conditions for path in condition.reads}
    certain = tuple(None if rule.conditions else _reason(rule, "true", ()) for rule in candidates)
    settled = tuple(reason for reason in certain if reason is not None)
    verdict = combine(candidates, settled, boundaries, tool) if len(settled) == len(candidates) else None
    return Plan(tool, candidates, boundaries, certain, reading(paths, values, tool, principal), verdict)


def decide(prepared: Plan, call: Call, digest: str) -> Decision:
    """The decision on a call, under the bundle of that digest. Never raises for what the call holds."""
    verdict = prepared.verdict or _judge(prepared, call)
    return Decision(call, verdict.effect, digest, verdict.reasons, verdict.obligations, verdict.problem)


def combine(rules: Sequence[Rule], reasons: tuple[Reason, ...], boundaries: Iterable[Part], tool: Tool) -> Verdict:
    """Forbid overrides; an error in a forbid denies; each boundary must permit; something must permit.

    `reasons` tells for each of `rules`, in the same order, how it came out.
    """
    met = [rule for rule, reason in zip(rules, reasons, strict=True) if reason.result == "true"]
    for rule in met:
        if rule.effect is Effect.FORBID:
            return _forbid(reasons, "forbidden", rule.message or "A rule of the policy forbids this call.", rule.id)
    for reason in reasons:
        if reason.effect is Effect.FORBID and reason.result == "error":
            detail = "A rule of the policy could not be judged for this call, so the call is refused."
            return _forbid(reasons, "policy_error", detail, reason.rule)
    for part in boundaries:
        if not any(rule.part is part for rule in met):
            detail = f"The policy part {part.id} does not permit this call of {tool.name}."
            return _forbid(reasons, "no_permit", detail, part.id)
    if not met:
        return _forbid(reasons, "no_permit", f"No rule permits this call of {tool.name}.", None)
    return _permit(merge([rule.obligations for rule in met]), reasons, tool)


def _permit(obligations: Obligations, reasons: tuple[Reason, ...], tool: Tool) -> Verdict:
    """A permit whose sandbox obligation nothing can meet is no permit."""
    allowed = obligations.backends
    named = " and ".join(obligations.origin.get(BACKENDS, ()))
    if allowed is not None and not allowed:
        detail = f"The rules {named} leave no sandbox that may run this call."
        return _forbid(reasons, "policy_error", detail, named)
    own = tool.backend.backend if isinstance(tool.backend, SandboxBackend) else None
    if allowed is not None and own not in allowed:
        detail = f"The sandbox that {tool.name} runs in is not one that the policy allows for it."
        return _forbid(reasons, "policy_error", detail, named)
    return Verdict(Effect.PERMIT, reasons, obligations, None)


def _forbid(reasons: tuple[Reason, ...], code: str, detail: str, rule: str | None) -> Verdict:
    return Verdict(Effect.FORBID, reasons, Obligations(), problem(code, detail, rule=rule))


def _judge(prepared: Plan, call: Call) -> Verdict:
    values = prepared.reading.values(call)
    try:
        bound = bind(values)
    except Unbindable:
        detail = "The policy could not read this call, so the call is refused."
        return _forbid((), "policy_error", detail, None)
    shown: dict[Path, Json] = {}
    reasons = tuple(
        reason or _judge_rule(rule, bound, values, shown)
        for rule, reason in zip(prepared.candidates, prepared.certain, strict=True)
    )
    return combine(prepared.candidates, reasons, prepared.boundaries, prepared.tool)


def _judge_rule(rule: Rule, bound: Bound, values: Values, shown: dict[Path, Json]) -> Reason:
    """False if any clause is false; else error if any is in error; else true. So their order cannot matter."""
    result: Result = "true"
    clauses = []
    for condition in rule.conditions:
        truth = condition.program.eval(bound)
        if truth is Truth.FALSE:
            result = "false"
        elif truth is Truth.ERROR and result == "true":
            result = "error"
        clauses.append(Clause(condition.text, truth.value, _read(condition, values, shown)))
    return _reason(rule, result, tuple(clauses))


def _reason(rule: Rule, result: Result, clauses: tuple[Clause, ...]) -> Reason:
    return Reason(rule.id, rule.source, rule.effect, result, clauses, rule.message)


# ── the values a clause read, short enough to be kept with every decision ────────────────────────────────────────────


def _read(condition: Condition, values: Values, shown: dict[Path, Json]) -> Mapping[str, Json]:
    found: dict[str, Json] = {}
    for path, label in condition.reads.items():
        if path not in shown:
            shown[path] = _short(_follow(values, path))
        found[label] = shown[path]
    return found


def _follow(value: Json, path: Path) -> Json:
    for step in path:
        value = value.get(step, _MISSING) if isinstance(value, Mapping) else _MISSING
    return value


def _short(value: Json) -> Json:
    if isinstance(value, str):
        return value if len(value) <= _MAX_CHARS else value[: _MAX_CHARS - 1] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, list):
        more = [f"… {len(value) - _MAX_ITEMS} more"] if len(value) > _MAX_ITEMS else []
        return [_short(each) for each in value[:_MAX_ITEMS]] + more
    return dict(_ABSENT)
