"""The decision: what the rules say of one call. Read `combine` first.

Pure: no I/O, no clock, no store. The same call and levels under the same bundle give the same decision, byte for byte.
An error never permits: it makes a permit not apply, and a forbid forbid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.aggregates import Cell, Entry, Level
from gateway.model import Call, Decision, Effect, Principal, Problem, Reason
from gateway.obligations import Obligations
from gateway.policy.aggregates import Aggregate, cell_of, entry_of, shown
from gateway.policy.engine import Bound, Joint, Truth, Unbindable, bind
from gateway.policy.obligations import BACKENDS, REQUIRE, merge
from gateway.policy.reasons import Shown, matters, reason_of, told
from gateway.policy.rules import Condition, Part, Rule
from gateway.policy.variables import Reading, TooMuch, Values, reading
from gateway.problems import problem
from gateway.tool import SandboxBackend, Tool

Past = Sequence[tuple[Aggregate, Cell, Level]]
Reasons = tuple[Reason, ...]
Tell = Literal["all", "what mattered", "nothing"]  # which rules' clauses a decision carries
_TRUE, _FALSE = Truth.TRUE, Truth.FALSE
_MAX_MERGED = 64
_AT_ONCE = 16  # conditions in one run of the engine
_PENDING_MS = 1000  # after which a call that waits for another one may ask again


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes of how the rules came out."""

    effect: Effect
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
class Ballot:
    """Candidates of one part, by their places, judged at once."""

    places: tuple[int, ...]
    joint: Joint


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one principal's calls of one tool can meet, worked out once.

    `reads` are the aggregates that the candidates read, `feeds` those that the calls add to. `settled` is there when no
    candidate has a condition. `permits` remembers what comes of permits that are met together. `shadow` is the plan
    with all rules and parts in shadow in force, where there are any.
    """

    tool: Tool
    candidates: tuple[Candidate, ...]
    ballots: tuple[Ballot, ...]
    boundaries: tuple[Part, ...]
    reading: Reading
    reads: tuple[Aggregate, ...]
    feeds: tuple[Aggregate, ...]
    permits: dict[tuple[tuple[str, ...], tuple[str, ...]], Verdict]
    settled: tuple[Verdict, Reasons] | None = None
    shadow: Plan | None = None


def plan(
    rules: Sequence[Rule],
    parts: Iterable[Part],
    tool: Tool,
    principal: Principal,
    aggregates: Sequence[Aggregate] = (),
) -> Plan:
    """Prepare for the calls of a tool by a principal.

    `rules` are those that match both, in bundle order; `parts` and `aggregates` all that there are.
    """
    boundaries = [part for part in parts if part.boundary and part.covers(principal)]
    feeds = tuple(each for each in aggregates if each.part.covers(principal) and each.feeds_on(tool))
    enforced = [rule for rule in rules if not rule.shadow]
    strict = [part for part in boundaries if not part.shadow]
    prepared = _plan(enforced, strict, tool, principal, aggregates, feeds)
    if len(enforced) == len(rules) and len(strict) == len(boundaries):
        return prepared
    return replace(prepared, shadow=_plan(rules, boundaries, tool, principal, aggregates, feeds))


def _plan(
    rules: Sequence[Rule],
    boundaries: Sequence[Part],
    tool: Tool,
    principal: Principal,
    aggregates: Sequence[Aggregate],
    feeds: tuple[Aggregate, ...],
) -> Plan:
    candidates = tuple(
        Candidate(rule, reason_of(rule, "true"), reason_of(rule, "false"), reason_of(rule, "error")) for rule in rules
    )
    values = {name: value for rule in rules for name, value in rule.part.values.items()}
    judged = [condition for rule in rules for condition in (*rule.conditions, rule.asks) if condition is not None]
    paths = {path for condition in judged for path, _ in condition.reads.paths}
    roots = {path[0] for path in paths}
    reads = tuple(each for each in aggregates if each.variable in roots)
    read = reading(paths, values, tool, principal, any(condition.pairs for condition in judged))
    prepared = Plan(tool, candidates, tuple(_ballots(rules)), tuple(boundaries), read, reads, feeds, {})
    if judged:
        return prepared
    reasons = tuple(candidate.true for candidate in candidates)
    return replace(prepared, settled=(combine(prepared, reasons, None), reasons))


def _ballots(rules: Sequence[Rule]) -> Iterator[Ballot]:
    """The rules that have conditions, by part, some at a time: too much at once for the engine is asked one by one."""
    places: dict[int, list[int]] = {}
    for place, rule in enumerate(rules):
        if rule.conditions:
            places.setdefault(id(rule.part), []).append(place)
    for found in places.values():
        for start in range(0, len(found), _AT_ONCE):
            some = tuple(found[start : start + _AT_ONCE])
            yield Ballot(some, rules[some[0]].part.scope.together(tuple(rules[place].text for place in some)))


def cells(prepared: Plan, call: Call) -> Sequence[Cell]:
    """What of the past the decision on a call reads, the one in shadow included. None for a call that is too large."""
    reads = (prepared.shadow or prepared).reads
    try:
        return [cell for each in reads if (cell := cell_of(each, call)) is not None] if reads else ()
    except TooMuch:
        return ()


def entries(prepared: Plan, call: Call) -> tuple[Entry, ...]:
    """What a call adds to the past once it is admitted. None for a call that is too large, which never is."""
    try:
        return _entries(prepared, call)
    except TooMuch:
        return ()


def decide(
    prepared: Plan, call: Call, digest: str, levels: Mapping[str, Level], tell: Tell = "what mattered"
) -> Decision:
    """The decision on a call, under the bundle of that digest. Never raises for what the call holds.

    `levels` are those of `cells`, by key; a clause that reads one that is not there is in error. `tell` says which
    reasons carry their clauses; with `nothing`, what is in shadow is not asked either.
    """
    past: Past = ()
    reasons: Reasons = ()
    reserves: tuple[Entry, ...] = ()
    try:
        past = _past(prepared, call, levels) if prepared.reads else ()
        verdict, reasons = prepared.settled or _judge(prepared, call, past, tell)
        if prepared.feeds and verdict.effect is Effect.PERMIT:
            reserves = _entries(prepared, call)
    except TooMuch as much:
        verdict = _forbid("policy_error", str(much), None)
    shadow = None if tell == "nothing" else prepared.shadow
    return Decision(
        call,
        verdict.effect,
        digest,
        reasons,
        verdict.obligations,
        verdict.problem,
        tuple((cell, level) for _, cell, level in past) if past else (),
        reserves,
        None if shadow is None else decide(shadow, call, digest, levels, tell),
    )


def combine(prepared: Plan, reasons: Sequence[Reason], bound: Bound | None) -> Verdict:
    """Forbid overrides; an error in a forbid denies; each boundary must permit; something must permit.

    `reasons` tells for each candidate, in the same order, how it came out; `bound` is what they were judged on.
    """
    met, failed = [], None
    for candidate, reason in zip(prepared.candidates, reasons, strict=True):
        if reason.result == "false":
            continue
        forbids = reason.effect is Effect.FORBID
        if reason.result == "true":
            if forbids:
                detail = reason.message or "A rule of the policy forbids this call."
                return _forbid("forbidden", detail, reason.rule)
            met.append(candidate.rule)
        elif forbids and failed is None:
            failed = reason
    if failed is not None:
        detail = "A rule of the policy could not be judged for this call, so the call is refused."
        return _forbid("policy_error", detail, failed.rule)
    name = prepared.tool.name
    for part in prepared.boundaries:
        if not any(rule.part is part for rule in met):
            said = _said([each for each in prepared.candidates if each.rule.part is part])
            detail = said or f"The policy part {part.id} does not permit this call of {name}."
            return _forbid("no_permit", detail, part.id)
    if not met:
        return _forbid("no_permit", _said(prepared.candidates) or f"No rule permits this call of {name}.", None)
    return _together(prepared, met, bound)


def _said(unmet: Sequence[Candidate]) -> str | None:
    """What the first permit that has something to say to those who do not meet its conditions says to them."""
    return next((each.rule.message for each in unmet if each.rule.effect is Effect.PERMIT and each.rule.message), None)


def _together(prepared: Plan, met: Sequence[Rule], bound: Bound | None) -> Verdict:
    """What comes of the permits that are met, remembered for the next call that meets the same ones.

    An approval is asked for unless its condition is false: one that cannot be judged asks.
    """
    spared = () if bound is None else tuple([rule.id for rule in met if rule.asks and _spares(rule.asks, bound)])
    key = tuple([rule.id for rule in met]), spared
    found = prepared.permits.get(key)
    if found is None:
        obligations = merge([rule.unasked if rule.id in spared else rule.obligations for rule in met])
        found = _permit(obligations, prepared.tool)
        if len(prepared.permits) < _MAX_MERGED:
            prepared.permits[key] = found
    return found


def _spares(asks: Condition, bound: Bound) -> bool:
    return asks.program.eval(bound) is _FALSE


def _permit(obligations: Obligations, tool: Tool) -> Verdict:
    """A permit whose sandbox obligation nothing can meet is no permit."""
    allowed = obligations.backends
    named = " and ".join(obligations.origin.get(BACKENDS, ()))
    if allowed is not None and not allowed:
        detail = f"The rules {named} leave no sandbox that may run this call."
        return _forbid("policy_error", detail, named)
    own = tool.backend.backend if isinstance(tool.backend, SandboxBackend) else None
    if allowed is not None and own not in allowed:
        detail = f"The sandbox that {tool.name} runs in is not one that the policy allows for it."
        return _forbid("policy_error", detail, named)
    if obligations.require and own is None:
        named = " and ".join(obligations.origin.get(REQUIRE, ()))
        detail = f"The policy requires a sandbox with certain guarantees, and {tool.name} runs in none."
        return _forbid("policy_error", detail, named)
    return Verdict(Effect.PERMIT, obligations, None)


def _forbid(code: str, detail: str, rule: str | None, retry_after_ms: int | None = None) -> Verdict:
    return Verdict(Effect.FORBID, Obligations(), problem(code, detail, rule=rule, retry_after_ms=retry_after_ms))


def _judge(prepared: Plan, call: Call, past: Past, tell: Tell) -> tuple[Verdict, Reasons]:
    values = prepared.reading.values(call)
    for aggregate, _, level in past:
        values[aggregate.variable] = shown(aggregate.kind, level)
    try:
        bound = bind(values)
    except Unbindable:
        detail = "The policy could not read this call, so the call is refused."
        return _forbid("policy_error", detail, None), ()
    reasons = _weigh(prepared, bound)
    verdict = combine(prepared, reasons, bound)
    unpermitted = verdict.problem is not None and verdict.problem.code == "no_permit"
    seen: Shown = {}
    for place, reason in enumerate(reasons if tell != "nothing" else ()):
        if tell == "all" or matters(reason, verdict.effect, unpermitted):
            reasons[place] = told(prepared.candidates[place].rule, reason, bound, values, call, seen)
    if unpermitted and past and _waits(prepared, values, past):
        detail = f"A call that this call of {call.tool.name} depends on is still under way."
        verdict = _forbid("precondition_pending", detail, None, _PENDING_MS)
    return verdict, tuple(reasons)


def _weigh(prepared: Plan, bound: Bound) -> list[Reason]:
    """How each candidate came out."""
    candidates = prepared.candidates
    reasons = [candidate.true for candidate in candidates]  # as it is for those without a condition
    for ballot in prepared.ballots:
        truths = ballot.joint.eval(bound) or [_truth(candidates[place].rule, bound) for place in ballot.places]
        for place, truth in zip(ballot.places, truths, strict=True):
            if truth is not _TRUE:
                reasons[place] = candidates[place].false if truth is _FALSE else candidates[place].error
    return reasons


def _truth(rule: Rule, bound: Bound) -> Truth:
    return _TRUE if rule.program is None else rule.program.eval(bound)


# ── what of the past a decision stands on ────────────────────────────────────────────────────────────────────────────


def _past(prepared: Plan, call: Call, levels: Mapping[str, Level]) -> Past:
    """The levels that are known, in the order of the bundle."""
    found = ((each, cell_of(each, call)) for each in prepared.reads)
    return [(each, cell, levels[cell.key]) for each, cell in found if cell is not None and cell.key in levels]


def _entries(prepared: Plan, call: Call) -> tuple[Entry, ...]:
    return tuple(entry for each in prepared.feeds if (entry := entry_of(each, call)) is not None)


def _waits(prepared: Plan, values: Values, past: Past) -> bool:
    """Whether the call would be permitted once the calls under way that others wait for are done."""
    pending = {each.variable: True for each, _, level in past if each.kind == "formerly" and level.pending}
    if not pending:
        return False
    bound = bind(values | pending)
    return combine(prepared, _weigh(prepared, bound), bound).effect is Effect.PERMIT
