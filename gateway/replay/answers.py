"""What came of a recorded call, as far as its record can still say: a result, a problem, a refusal, or nothing.

It reads records only and guesses nothing: what is not there, or cannot be read any more, is told as a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.artifacts import media_type
from gateway.audit.content import Contents, Unreadable
from gateway.audit.query import Record
from gateway.model import Artifact, Finding, Problem, RawOutput, SafeOutput, Verdict
from gateway.problems import TABLE, problem
from gateway.screening import Shown
from gateway.tool import Json

UNLIKE = "its record is not as this version writes it"
NOT_KEPT = "its result is not on record, as its rule wanted"
ELSEWHERE = "it was a repeat of a call that is not of this session"
NOT_ENDED = "The call has no end on record: it was still under way."
UNKNOWN = "The call was under way when the gateway stopped; nobody has said how it ended."
_RESOLVED = {
    "done": "The call was under way when the gateway stopped; an operator said later that it was done.",
    "not-done": "The call was under way when the gateway stopped; an operator said later that it was not done.",
}
_CUT = frozenset({"text.too-large", "structured.too-large"})


@dataclass(frozen=True, slots=True)
class Result:
    """A result that was shown: `raw` as the tool gave it, the rest as it left the gateway."""

    raw: RawOutput
    text: str
    structured: Json
    problem: Problem | None
    verdict: Verdict
    truncated: bool
    artifacts: tuple[Artifact, ...]

    def again(self, now: Callable[[SafeOutput], None]) -> Shown:
        """The same, for the screen stage to show again."""
        return Shown(self.text, self.structured, self.problem, self.verdict, self.truncated, self.artifacts, now)


@dataclass(frozen=True, slots=True)
class Instead:
    """The problem that a call ended with, after its intent, without a result."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Denied:
    """A call that was refused before its intent."""

    code: str
    rule: str | None = None
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing can be given again, and why."""

    reason: str


Answer = Result | Instead | Denied | Lost


def answer_of(first: Record, last: Record | None, contents: Contents, owner: str) -> Answer:
    """What came of a call. `first` is its intent, refusal or wait, `last` what ended it; `owner` a `Principal.key`."""
    try:
        if first["type"] in ("call.refused", "call.parked"):
            said = cast(Any, first["outcome"])
            return Denied(str(said["code"]), said.get("rule"), said.get("retry_after_ms"))
        if first["type"] == "call.repeated":
            return Lost(ELSEWHERE)
        if last is None:
            return Instead(problem("outcome_unknown", NOT_ENDED))
        if last["type"] == "call.in_doubt":
            return Instead(problem("outcome_unknown", UNKNOWN))
        if last["type"] == "call.resolved":
            return Instead(problem("outcome_unknown", _RESOLVED[str(last["as"])]))
        return _outcome(last, contents.open(last), owner)
    except Unreadable as why:
        return Lost(f"its result cannot be read: {why}")
    except (KeyError, TypeError, ValueError, AttributeError):
        return Lost(UNLIKE)


def _outcome(last: Record, content: Json, owner: str) -> Answer:
    if not isinstance(content, dict):
        return Lost(NOT_KEPT)
    said = cast(Any, last["outcome"])
    failed = None if said["code"] is None else _problem(said, content)
    if "screen" in last:
        return _result(last, content, failed, owner)
    return Lost(UNLIKE) if failed is None else Instead(failed)


def _problem(said: Mapping[str, Any], content: Mapping[str, Json]) -> Problem:
    advice = content.get("advice")
    return problem(
        str(said["code"]),
        str(content["detail"]),
        retry_after_ms=said.get("retry_after_ms"),
        advice=None if advice is None else str(advice),
        rule=said.get("rule"),
    )


def _result(last: Record, content: Mapping[str, Json], failed: Problem | None, owner: str) -> Result:
    screened, text, structured = cast(Any, last["screen"]), str(content["text"]), content["structured"]
    findings = tuple(_finding(each) for each in screened["findings"])
    verdict = Verdict(str(screened["action"]), frozenset(map(str, cast(Any, last["labels_added"]))), findings)
    truncated = bool(last["truncated"])
    given = cast(Mapping[str, Json], content.get("raw") or {"text": text, "structured": structured})
    raw = RawOutput(
        str(given["text"]),
        given["structured"],
        # What screening made of it itself was no problem of the tool's.
        problem=None if failed is None or TABLE[failed.code].cls == "output" else failed,
        truncated=truncated and not any(each.rule in _CUT for each in findings),
        sandbox_ms=cast(Any, last["usage"])["sandbox_ms"],
        origin=cast("str | None", last["origin"]),
        guarantees=frozenset(map(str, cast(Any, last["guarantees"]))),
    )
    return Result(raw, text, structured, failed, verdict, truncated, _artifacts(last, content, owner))


def _finding(said: Mapping[str, Any]) -> Finding:
    span = said["span"]
    return Finding(
        str(said["stage"]),
        str(said["rule"]),
        str(said["action"]),
        str(said["path"]),
        None if span is None else (int(span[0]), int(span[1])),
    )


def _artifacts(last: Record, content: Mapping[str, Json], owner: str) -> tuple[Artifact, ...]:
    names = cast(Mapping[str, str], content.get("artifacts") or {})
    return tuple(
        Artifact(
            handle=each["handle"],
            owner=owner,
            name=(name := names[each["handle"]]),
            size=int(each["size"]),
            media_type=each.get("media_type") or media_type(name, is_text=False),
            labels=frozenset(each["labels"]),
            action="allow",
            call_id=str(last["call_id"]),
            kept_at=0.0,
        )
        for each in cast(Any, last["artifacts"])
    )
