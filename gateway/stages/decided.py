"""What was decided, as it stands on record. It decides nothing and writes nothing.

Everything comes out as plain values: encoding them takes a fraction of what encoding our own types does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from gateway.model import Decision, Reason
from gateway.obligations import Obligations
from gateway.tool import Json

_MOST = 1000
_written: dict[int, tuple[Obligations, Json]] = {}


def decided(decision: Decision | None) -> Json:
    """What stands in plain: effect, code, rules, bundle, obligations; the same of the rules in shadow."""
    if decision is None:
        return None
    said: dict[str, Json] = {
        "effect": decision.effect,
        "code": decision.problem.code if decision.problem else None,
        "rule": decision.problem.rule if decision.problem else None,
        "rules": decision.rules,
        "bundle_digest": decision.bundle,
        "obligations": required(decision.obligations),
    }
    if decision.shadow:
        said["shadow"] = decided(decision.shadow)
    return said


def required(obligations: Obligations) -> Json:
    """What a permit requires, sets as sorted lists; written out once for all the calls that share it."""
    found = _written.get(id(obligations))
    if found is None:
        if len(_written) >= _MOST:
            _written.clear()
        plain = {
            key: sorted(each) if isinstance(each, frozenset) else each for key, each in asdict(obligations).items()
        }
        # Kept with the obligations themselves: while they live nothing else has their id.
        found = _written[id(obligations)] = obligations, plain
    return found[1]


def reasoned(reasons: Sequence[Reason]) -> Json:
    """How each rule came out, clause by clause. The values of clauses quote arguments: this is content."""
    return [
        {
            "rule": reason.rule,
            "source": reason.source,
            "effect": reason.effect,
            "result": reason.result,
            "clauses": [{"text": each.text, "result": each.result, "values": each.values} for each in reason.clauses],
            "message": reason.message,
        }
        for reason in reasons
    ]
