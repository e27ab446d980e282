"""Whether two bundles say the same of one principal's calls of one tool: then one decision answers for both.

It compares what is written, and so takes two ways of saying the same for different. Shadows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.policy.evaluate import Plan
from gateway.policy.rules import Rule


def alike(a: Plan, b: Plan) -> bool:
    """Whether the same call and levels are decided alike under both, reserves included."""
    return _said(a) == _said(b)


def _said(plan: Plan) -> Sequence[object]:
    rules = [_rule(candidate.rule) for candidate in plan.candidates]
    state = [[each.stem for each in some] for some in (plan.reads, plan.feeds)]
    return [plan.tool.digest, rules, [part.id for part in plan.boundaries], state]


def _rule(rule: Rule) -> Sequence[object]:
    """All that its outcome and its obligations go back to: names of constants begin with the place of their part."""
    judged = [*rule.conditions, rule.asks] if rule.asks else rule.conditions
    read = {path[0] for condition in judged for path, _ in condition.reads.paths}
    values = {name.partition(".")[2]: value for name, value in rule.part.values.items() if name in read}
    texts = [condition.text for condition in judged]
    return [rule.id, rule.effect, texts, rule.obligations, rule.unasked, rule.message, rule.part.id, values]
