"""What is told of a decision: for each rule how it came out, and where that mattered its clauses with what they read.

It never decides. Values are shortened for people and records; the decision itself stood on the whole ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from gateway.model import Call, Clause, Effect, Reason
from gateway.policy.engine import Bound, Truth
from gateway.policy.rules import Reads, Rule
from gateway.policy.syntax import Path
from gateway.policy.variables import Values
from gateway.specs import facts
from gateway.tool import Json

Result = Literal["true", "false", "error"]
Shown = dict[Reads, Mapping[str, Json]]
_WORDS: dict[Truth, Result] = {truth: truth.value for truth in Truth}
_MAX_CHARS, _MAX_ITEMS, _MAX_KEYS = 120, 8, 4


def reason_of(rule: Rule, result: Result, clauses: tuple[Clause, ...] = ()) -> Reason:
    """How a rule came out."""
    return Reason(rule.id, rule.source, rule.effect, result, clauses, rule.message)


def matters(reason: Reason, effect: Effect, unpermitted: bool) -> bool:
    """What decided, what could not be judged, and, when nothing permitted, every permit that might have."""
    if reason.result == "false":
        return unpermitted and reason.effect is Effect.PERMIT
    return reason.result == "error" or reason.effect is effect


def told(rule: Rule, reason: Reason, bound: Bound, values: Values, call: Call, shown: Shown) -> Reason:
    """The reason with its clauses. `shown` remembers, within one decision, what clauses that read the same read."""
    if not rule.conditions:
        return reason
    clauses = []
    for condition in rule.conditions:
        word = "true" if reason.result == "true" else _WORDS[condition.program.eval(bound)]
        reads = condition.reads
        read = shown.get(reads)
        if read is None:
            read = shown[reads] = {label: _read(values, path, call) for path, label in reads.paths}
        clauses.append(Clause(condition.text, word, read))
    return reason_of(rule, reason.result, tuple(clauses))


def _read(values: Values, path: Path, call: Call) -> Json:
    """What a clause read at a path; of what is not there, why the argument has no such meaning, where that is why."""
    value: Any = values
    try:
        for step in path:
            value = value[step]
    except (KeyError, TypeError, IndexError):  # not there, or nothing that has names
        pass
    else:
        return _short(value)
    name = path[1] if path[0] == "arg" and len(path) > 1 else ""
    if name in call.tool.facts and name in call.arguments:
        return {"absent": facts.why_not(call.tool.facts[name], call.arguments[name]) or True}
    return {"absent": True}


def _short(value: Json, within: bool = False) -> Json:
    if type(value) is str:
        return value if len(value) <= _MAX_CHARS else value[: _MAX_CHARS - 1] + "…"
    if isinstance(value, float):
        return "infinite" if math.isinf(value) else value  # JSON has no such number
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, dict):
        # One with a single key could be taken for our own words, such as `absent`.
        if within or not 1 < len(value) <= _MAX_KEYS or max(map(len, value)) > _MAX_CHARS:
            return f"a mapping of {len(value)}"
        return {key: _short(each, within=True) for key, each in value.items()}
    if isinstance(value, list):
        more = [f"… {len(value) - _MAX_ITEMS} more"] if len(value) > _MAX_ITEMS else []
        return [_short(each, within) for each in value[:_MAX_ITEMS]] + more
    return f"a {type(value).__name__}"
