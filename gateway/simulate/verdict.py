"""What a call met, on record or decided again, in one form: so that the two can be compared.

A call that needs a yes is refused without one; one on record holds for whoever it was asked of. It decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from gateway.audit.content import encode
from gateway.model import Decision, Effect
from gateway.obligations import Obligations
from gateway.tool import Json

RATE_LIMITED, NO_SLOT = "rate_limited", "concurrency_limited"
UNASKED = "approval_required"  # the code of a call that needs a yes which it has not, refused by a person or not
# The key of an obligation in a policy file, where it is not the name it is held under.
_WRITTEN_AS = {
    "output": "limits.output",
    "labels": "label",
    "limits": "limit",
    "backends": "sandbox.backends",
    "require": "sandbox.require",
    "networks": "network",
    "injection": "screen.injection",
    "redact": "screen.redact",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether policy, rates and slots let a call through. `code` is why not; `rule`, where named, is not compared.

    `rules` determined the decision; `obligations` are in the form of a record, empty where it was forbidden.
    """

    permitted: bool
    code: str | None = None
    rule: str | None = field(default=None, compare=False)
    rules: tuple[str, ...] = ()
    obligations: Mapping[str, Json] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """What it goes back to, in few words: the rule, or the code where no rule is named."""
        if self.permitted:
            return " + ".join(self.rules)
        return f"{self.rule} ({self.code})" if self.rule else str(self.code)


Yes = frozenset[tuple[str, ...]]  # of whom a yes was asked that a call has: for each rule those who could say it


def yes_of(decision: Mapping[str, Any], approval: Mapping[str, Any]) -> Yes:
    """The yes that a call on record had; `approval` is what its record says of that."""
    return frozenset(tuple(each["by"]) for each in decision["obligations"]["approvals"] if approval.get("by"))


def on_record(decision: Mapping[str, Any], code: str | None, yes: Yes = frozenset()) -> Verdict:
    """The verdict of a decision on record whose call ended with `code` before anything ran, or None where it ran.

    Raises `KeyError` or `TypeError` for what is not as this version writes it.
    """
    rules, obligations = tuple(decision["rules"]), cast(Mapping[str, Any], decision["obligations"])
    if decision["effect"] != Effect.PERMIT.value:
        return Verdict(False, str(decision["code"]), decision["rule"], rules, {})
    if obligations["approvals"] and not yes:
        return Verdict(False, UNASKED, _asking(obligations["approvals"]), rules, obligations)
    if code in (RATE_LIMITED, NO_SLOT):
        return Verdict(False, code, None, rules, obligations)
    return Verdict(True, None, None, rules, obligations)


class Decided:
    """Makes verdicts of decisions. Obligations are written out once for all the calls that share them."""

    def __init__(self) -> None:
        self._written: dict[int, tuple[Obligations, Mapping[str, Json]]] = {}

    def verdict(self, decision: Decision, full: str | None, has_slot: bool = True, yes: Yes = frozenset()) -> Verdict:
        """`full` is the key of the bucket that has no room for the call, if there is one; `yes` what people said."""
        problem = decision.problem
        if problem is not None:
            return Verdict(False, problem.code, problem.rule, decision.rules, {})
        obligations = self._plain(decision.obligations)
        open_ = [each for each in decision.obligations.approvals if each.by not in yes]
        if open_:
            rule = " and ".join(dict.fromkeys(each.rule for each in open_))
            return Verdict(False, UNASKED, rule, decision.rules, obligations)
        if full is not None:
            kind, _, rest = full.partition("\x1f")
            rule = rest.partition("\x1f")[0] if kind == "rule" else ""
            return Verdict(False, RATE_LIMITED, rule or None, decision.rules, obligations)
        if not has_slot:
            return Verdict(False, NO_SLOT, None, decision.rules, obligations)
        return Verdict(True, None, None, decision.rules, obligations)

    def _plain(self, obligations: Obligations) -> Mapping[str, Json]:
        found = self._written.get(id(obligations))
        if found is None:
            if len(self._written) >= 1000:
                self._written.clear()
            # Kept with the obligations themselves: while they live nothing else has their id.
            found = self._written[id(obligations)] = obligations, json.loads(encode(cast(Json, obligations)))
        return found[1]


@dataclass(frozen=True, slots=True)
class Changed:
    """An obligation that is another one now: its key in a policy file, and the rules it comes from."""

    key: str
    before: Json
    after: Json
    rule: str


def changed(before: Verdict, after: Verdict) -> Sequence[Changed]:
    """The obligations in which two verdicts that permit differ."""
    was, now = before.obligations, after.obligations
    if was == now:
        return ()
    names = [name for name in now if name != "origin" and _unnamed(was.get(name)) != _unnamed(now[name])]
    return [
        Changed(_WRITTEN_AS.get(name, name), was.get(name), now[name], _origin(name, now) or _origin(name, was))
        for name in names
    ]


def _unnamed(obligation: Json) -> Json:
    """Without the names of rules: what a rule is called is not what it asks for."""
    if not (isinstance(obligation, list) and all(isinstance(each, dict) for each in obligation)):
        return obligation
    several = [{key: value for key, value in each.items() if key != "rule"} for each in cast(Any, obligation)]
    return sorted(several, key=repr)


def _origin(name: str, obligations: Mapping[str, Any]) -> str:
    """The rules an obligation comes from."""
    return " + ".join(obligations.get("origin", {}).get(_WRITTEN_AS.get(name, name), ()))


def _asking(approvals: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(dict.fromkeys(str(each["rule"]) for each in approvals))
