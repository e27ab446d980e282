"""The decision: what the rules say of one call. Read `combine` first.

Pure: no I/O, no clock, no store. The same call under the same bundle gives the same decision, byte for byte. An error
never permits: it makes a permit not apply, and a forbid forbid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model import Call, Clause, Decision, Effect, Principal, Problem, Reason
from gateway.obligations import Obligations
from gateway.policy.engine import Bound, Truth, Unbindable, bind
from gateway.policy.obligations import BACKENDS, REQUIRE, merge
from gateway.policy.rules import Part, Reads, Rule
from gateway.policy.syntax import Path
from gateway.policy.variables import Reading, Values, reading
from gateway.problems import problem
from gateway.tool import Json, SandboxBackend, Tool

Shown = dict[Reads, Mapping[str, Json]]
Merged = dict[tuple[str, ...], Obligations]
Result = Literal["true", "false", "error"]
_WORDS: dict[Truth, Result] = {truth: truth.value for truth in Truth}
_TRUE, _FALSE = Truth.TRUE, Truth.FALSE
_MISSING = object()
_MAX_MERGED = 64
_MAX_CHARS, _MAX_ITEMS = 120, 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision without its call."""

    effect: Effect
    reasons: tuple[Reason, ...]
    obligations: Obligations
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule that matches, and its reason for each way it can come out, without clauses."""

    rule: Rule
    true: Reason
    false: Reason
    error: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one principal's calls of one tool can meet, worked out once.

    `verdict` is there when no candidate has a condition. `merged` remembers what several permits require together.
    """

    tool: Tool
    candidates: tuple[Candidate, ...]
    boundaries: tuple[Part, ...]
    reading: Reading
    merged: Merged
    verdict: Verdict | None


def plan(rules: Sequence[Rule], parts: Iterable[Part], tool: Tool, principal: Principal) -> Plan:
    """Prepare for the calls of a tool by a principal. `rules` are those that match both, in bundle order."""
    candidates = tuple(
        Candidate(rule, _reason(rule, "true"), _reason(rule, "false"), _reason(rule, "error")) for rule in rules
    )
    boundaries = tuple(part for part in parts if part.boundary and part.covers(principal))
    values = {name: value for rule in rules for name, value in rule.part.values.items()}
    paths = {path for rule in rules for condition in rule.conditions for path, _ in condition.reads.paths}
    prepared = Plan(tool, candidates, boundaries, reading(paths, values, tool, principal), {}, None)
    if any(rule.conditions for rule in rules):
        return prepared
    return replace(prepared, verdict=combine(prepared, tuple(candidate.true for candidate in candidates)))


def decide(prepared: Plan, call: Call, digest: str, *, full: bool = False) -> Decision:
    """The decision on a call, under the bundle of that digest. Never raises for what the call holds.

    The reasons that mattered carry their clauses; with `full`, all of them do.
    """
    verdict = prepared.verdict or _judge(prepared, call, full)
    return Decision(call, verdict.effect, digest, verdict.reasons, verdict.obligations, verdict.problem)


def combine(prepared: Plan, reasons: tuple[Reason, ...]) -> Verdict:
    """Forbid overrides; an error in a forbid denies; each boundary must permit; something must permit.

    `reasons` tells for each candidate, in the same order, how it came out.
    """
    met, failed = [], None
    for candidate, reason in zip(prepared.candidates, reasons, strict=True):
        forbids = reason.effect is Effect.FORBID
        if reason.result == "true":
            if forbids:
                detail = reason.message or "A rule of the policy forbids this call."
                return _forbid(reasons, "forbidden", detail, reason.rule)
            met.append(candidate.rule)
        elif forbids and failed is None and reason.result == "error":
            failed = reason
    if failed is not None:
        detail = "A rule of the policy could not be judged for this call, so the call is refused."
        return _forbid(reasons, "policy_error", detail, failed.rule)
    name = prepared.tool.name
    for part in prepared.boundaries:
        if not any(rule.part is part for rule in met):
            return _forbid(
                reasons, "no_permit", f"The policy part {part.id} does not permit this call of {name}.", part.id
            )
    if not met:
        return _forbid(reasons, "no_permit", f"No rule permits this call of {name}.", None)
    return _permit(_together(met, prepared.merged), reasons, prepared.tool)


def _together(met: Sequence[Rule], merged: Merged) -> Obligations:
    """What the permits that are met require, remembered for the next call that meets the same ones."""
    if len(met) == 1:
        return met[0].obligations
    key = tuple(rule.id for rule in met)
    found = merged.get(key)
    if found is None:
        found = merge([rule.obligations for rule in met])
        if len(merged) < _MAX_MERGED:
            merged[key] = found
    return found


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
    if obligations.require and own is None:
        named = " and ".join(obligations.origin.get(REQUIRE, ()))
        detail = f"The policy requires a sandbox with certain guarantees, and {tool.name} runs in none."
        return _forbid(reasons, "policy_error", detail, named)
    return Verdict(Effect.PERMIT, reasons, obligations, None)


def _forbid(reasons: tuple[Reason, ...], code: str, detail: str, rule: str | None) -> Verdict:
    return Verdict(Effect.FORBID, reasons, Obligations(), problem(code, detail, rule=rule))


def _judge(prepared: Plan, call: Call, full: bool) -> Verdict:
    values = prepared.reading.values(call)
    try:
        bound = bind(values)
    except Unbindable:
        detail = "The policy could not read this call, so the call is refused."
        return _forbid((), "policy_error", detail, None)
    verdict = combine(prepared, tuple(_outcome(candidate, bound) for candidate in prepared.candidates))
    unpermitted = verdict.problem is not None and verdict.problem.code == "no_permit"
    shown: Shown = {}
    reasons = tuple(
        _told(candidate.rule, reason, bound, values, shown)
        if full or _matters(reason, verdict.effect, unpermitted)
        else reason
        for candidate, reason in zip(prepared.candidates, verdict.reasons, strict=True)
    )
    return Verdict(verdict.effect, reasons, verdict.obligations, verdict.problem)


def _outcome(candidate: Candidate, bound: Bound) -> Reason:
    program = candidate.rule.program
    truth = _TRUE if program is None else program.eval(bound)
    return candidate.true if truth is _TRUE else candidate.false if truth is _FALSE else candidate.error


def _reason(rule: Rule, result: Result, clauses: tuple[Clause, ...] = ()) -> Reason:
    return Reason(rule.id, rule.source, rule.effect, result, clauses, rule.message)


# ── what a rule's clauses were and what they read, where it mattered ─────────────────────────────────────────────────


def _matters(reason: Reason, effect: Effect, unpermitted: bool) -> bool:
    """What decided, what could not be judged, and, when nothing permitted, every permit that might have."""
    if reason.result == "true":
        return reason.effect is effect
    return reason.result == "error" or (unpermitted and reason.effect is Effect.PERMIT)


def _told(rule: Rule, reason: Reason, bound: Bound, values: Values, shown: Shown) -> Reason:
    clauses = []
    for condition in rule.conditions:
        word = "true" if reason.result == "true" else _WORDS[condition.program.eval(bound)]
        reads = condition.reads
        read = shown.get(reads)
        if read is None:
            read = shown[reads] = {label: _short(_follow(values, path)) for path, label in reads.paths}
        clauses.append(Clause(condition.text, word, read))
    return _reason(rule, reason.result, tuple(clauses))


def _follow(value: Json, path: Path) -> Json:
    for step in path:
        value = value.get(step, _MISSING) if isinstance(value, dict) else _MISSING
    return value


def _short(value: Json) -> Json:
    if isinstance(value, str):
        return value if len(value) <= _MAX_CHARS else value[: _MAX_CHARS - 1] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return f"a mapping of {len(value)}"
    if isinstance(value, list):
        more = [f"… {len(value) - _MAX_ITEMS} more"] if len(value) > _MAX_ITEMS else []
        return [_short(each) for each in value[:_MAX_ITEMS]] + more
    return {"absent": True}
