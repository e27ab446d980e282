"""What a replay comes to: what was served, missed, decided or screened otherwise, and what nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.model import Finding, Outcome, SafeOutput
from gateway.replay.answers import Answer, Denied, Instead, Result
from gateway.replay.script import Script, Turn
from gateway.tool import Json

_SECRET, _FILE = "secret.issued", "file."
# What a machine did, not a rule: no check makes it happen again, so it is given again as it was.
UNREPEATABLE = frozenset(
    {
        "in_progress",
        "key_reused",
        "outcome_unknown",
        "precondition_pending",
        "budget_exhausted",
        "cancelled",
        "internal",
    }
)
_PERMITTED = "permitted"


@dataclass(slots=True)
class Report:
    """Grows with each call. Every list holds objects with `call_id` (of the record), `tool`, and what is off."""

    script: Script
    lost: Sequence[str] = ()
    served: int = 0
    missed: list[dict[str, Json]] = field(default_factory=list)
    otherwise: list[dict[str, Json]] = field(default_factory=list)
    screened: list[dict[str, Json]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the session was replayed whole, and nothing of it is otherwise."""
        return not (self.missed or self.otherwise or self.screened or self.script.never())

    def add(self, turn: Turn, outcome: Outcome) -> None:
        """Counts one call."""
        then, now = turn.recorded, outcome.problem.code if outcome.problem else None
        said: dict[str, Json] = {"call_id": turn.recorded_id, "replayed_as": outcome.call_id, "tool": turn.tool}
        if then is None and outcome.repeat:
            self.served += 1  # the same call once more, by its key
        elif then is None or (turn.admitted and now == "replay_miss"):
            self.missed.append(said | {"code": now, "detail": outcome.problem.detail if outcome.problem else ""})
        elif _same(then.answer, outcome, admitted=turn.admitted):
            self.served += 1
        else:
            self.otherwise.append(said | {"then": _then(then.answer), "now": now or _PERMITTED})

    def screen(self, turn: Turn, then: Result, now: SafeOutput) -> None:
        """Notes what screening finds otherwise today."""
        differs: Json = list(screened_otherwise(then, now))
        if differs:
            self.screened.append({"call_id": turn.recorded_id, "tool": turn.tool, "differs": differs})

    def to_json(self) -> dict[str, Json]:
        """All of it."""
        never: Json = [{"call_id": call.id, "tool": call.tool} for call in self.script.never()]
        return {
            "ok": self.ok,
            "served": self.served,
            "missed": list(self.missed),
            "decided_otherwise": list(self.otherwise),
            "never_asked_for": never,
            "screened_otherwise": list(self.screened),
            "unreadable": list(self.lost),
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        never = self.script.never()
        yield f"served: {self.served}"
        yield f"missed: {len(self.missed)}"
        yield from (f"  {each['tool']}: {each['detail']}" for each in self.missed)
        yield f"decided otherwise: {len(self.otherwise)}"
        yield from (f"  {each['call_id']} {each['tool']}: {each['then']}, now {each['now']}" for each in self.otherwise)
        yield f"never asked for: {len(never)}"
        yield from (f"  {call.id} {call.tool}" for call in never)
        yield f"screened otherwise: {len(self.screened)}"
        for each in self.screened:
            yield f"  {each['call_id']} {each['tool']}: {'; '.join(map(str, _list(each['differs'])))}"


def screened_otherwise(then: Result, now: SafeOutput) -> Iterator[str]:
    """In which ways a result would be shown otherwise today.

    Issued secrets are not there to be looked for, nor the files that were left; and of a result that did not have the
    declared form, nobody knows which form it had.
    """
    if then.problem is not None and then.problem.code == "output_invalid":
        return
    was, found = _findings(then.verdict.findings), _findings(now.verdict.findings)
    yield from (f"{rule} would be found ({action})" for rule, action in sorted(found - was))
    yield from (f"{rule} would not be found ({action})" for rule, action in sorted(was - found))
    if any(each.rule == _SECRET for each in then.verdict.findings):
        return
    if then.text != now.text:
        yield "its text would be another"
    if then.structured != now.structured:
        yield "its structured part would be another"


def _findings(all_of: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(f.rule, f.action) for f in all_of if f.rule != _SECRET and not f.rule.startswith(_FILE)}


def _same(then: Answer, outcome: Outcome, *, admitted: bool) -> bool:
    code, rule = (outcome.problem.code, outcome.problem.rule) if outcome.problem else (None, None)
    if isinstance(then, Denied):
        return then.code == code and (then.rule == rule or then.code in UNREPEATABLE)
    if isinstance(then, Instead):
        return (admitted or outcome.repeat) and then.problem.code == code
    if isinstance(then, Result):
        wanted = then.problem.code if then.problem else None
        return (admitted or outcome.repeat) and (then.text, wanted) == (outcome.text, code)
    return False


def _then(answer: Answer) -> str:
    return f"refused ({answer.code})" if isinstance(answer, Denied) else _PERMITTED


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else ()
