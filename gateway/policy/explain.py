"""A decision in plain lines for people: which rules, which clauses, with which values, and what came nearest.

For operators only: the caller sees the problem, never these lines. It never decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.model import Clause, Decision, Effect, Principal, Reason
from gateway.obligations import Obligations
from gateway.policy.bundle import PolicyBundle
from gateway.policy.rules import Match
from gateway.strictjson import canonical
from gateway.tool import Json


@dataclass(frozen=True, slots=True)
class Nearest:
    """The permit that came nearest: the rule, its `file:line`, and in a sentence what it lacks."""

    rule: str
    source: str
    lacks: str


def explain(decision: Decision, bundle: PolicyBundle) -> list[str]:
    """The lines, with every clause of every rule. `bundle` is the one that decided."""
    if decision.bundle == bundle.digest:
        decision = bundle.explain(decision.call, {cell.key: level for cell, level in decision.reads})
    call = decision.call
    head = f"{decision.effect.value} {call.tool.name} for {_who(call.caller.principal)}"
    lines = [head, f"bundle {decision.bundle}"]
    if decision.problem is not None:
        lines.append(f"code {decision.problem.code}: {decision.problem.detail}")
    for reason in decision.reasons:
        lines += _rule(reason)
    found = nearest(decision, bundle)
    if found is not None:
        lines.append(f"nearest permit {found.rule} ({found.source}): {found.lacks}")
    return lines + [f"obligation {line}" for line in _obligations(decision.obligations)]


def nearest(decision: Decision, bundle: PolicyBundle) -> Nearest | None:
    """For a call that nothing permitted: the permit with the fewest clauses not true, and the first of those.

    When no permit is about this caller, one that is about the tool, and whom it is for.
    """
    if any(reason.effect is Effect.PERMIT and reason.result == "true" for reason in decision.reasons):
        return None
    judged = [reason for reason in decision.reasons if reason.effect is Effect.PERMIT]
    if judged:
        best = min(judged, key=lambda reason: len(_not_true(reason)))
        clause = _not_true(best)[0]
        return Nearest(best.rule, best.source, f"{clause.text} is {clause.result}{_values(clause.values)}")
    call = decision.call
    for rule in bundle.rules.values():
        if rule.effect is Effect.PERMIT and rule.match.takes_tool(call.tool):
            return Nearest(rule.id, rule.source, f"is for {_whom(rule.match, rule.part.tenant)} only")
    return None


def _not_true(reason: Reason) -> list[Clause]:
    """False clauses before those in error: that is what decided."""
    return sorted((each for each in reason.clauses if each.result != "true"), key=lambda each: each.result == "error")


def _who(principal: Principal) -> str:
    user = f", user {principal.user}" if principal.user else ""
    groups = f", groups {' '.join(sorted(principal.groups))}" if principal.groups else ""
    return f"agent {principal.agent}{user}{groups}, tenant {principal.tenant}"


def _whom(match: Match, tenant: str | None) -> str:
    keys = {
        "agents": match.agents,
        "users": match.users,
        "groups": match.groups,
        "tenants": match.tenants or ((tenant,) if tenant else None),
    }
    return ", ".join(f"{key} {' '.join(globs)}" for key, globs in keys.items() if globs) or "other callers"


def _rule(reason: Reason) -> Iterator[str]:
    yield f"{reason.effect.value} {reason.rule} ({reason.source}): {reason.result}"
    for clause in reason.clauses:
        yield f"  {clause.result:5} {clause.text}{_values(clause.values)}"


def _values(values: Mapping[str, Json]) -> str:
    parts = [f"{name} = {_value(value)}" for name, value in values.items()]
    return f"  [{', '.join(parts)}]" if parts else ""


def _value(value: Json) -> str:
    return "absent" if value == {"absent": True} else canonical(value).decode()


def _obligations(obligations: Obligations) -> Iterator[str]:
    limits = ", ".join(f"{each.rate.calls} calls in {each.rate.per:g} s per {each.key}" for each in obligations.limits)
    shown = {
        "timeout": f"{obligations.timeout} s",
        "limits.output": f"{obligations.output} bytes",
        "limit": limits,
        "label": " ".join(sorted(obligations.labels)),
        "record": obligations.record,
        "sandbox.backends": " ".join(sorted(obligations.backends or ())),
        "sandbox.require": " ".join(sorted(obligations.require)),
    }
    for key, rules in obligations.origin.items():
        yield f"{key}: {shown[key]}, from {' and '.join(rules)}"
