"""Stages 0 and 10, and the intent between them: what is written about a call, and the only maker of `Outcome`.

Nothing runs without a durable intent, and no result leaves before its outcome is durable. What identifies and measures
a call stands in plain in the record; arguments, results and clause values are its encrypted content.
"""

from __future__ import annotations

import time
from typing import Literal, TypeVar

from gateway import strictjson
from gateway.model import (
    Call,
    Caller,
    Decision,
    Intent,
    Lease,
    Outcome,
    Permit,
    Position,
    Principal,
    Problem,
    RawOutput,
    Refusal,
    Request,
    SafeOutput,
    Session,
    Usage,
    Verdict,
)
from gateway.policy.variables import seen
from gateway.ports import Clock, Ledger, Line, Outcomes, Sessions
from gateway.problems import TABLE, problem
from gateway.reliability.written import written_entries, written_levels
from gateway.stages.decided import decided, reasoned
from gateway.tool import FetchBackend, Json, Tool
from gateway.urls import BadUrl, parse_url

Seen = TypeVar("Seen", Caller, Tool, Call, Decision, Permit, Lease, Intent, SafeOutput)
# Which stage gives it, and where it is kept; a Permit and a Lease say nothing that the Intent does not.
_SEEN: dict[type, tuple[str, str | None]] = {
    Caller: ("authenticate", "caller"),
    Tool: ("resolve", "tool"),
    Call: ("validate", "call"),
    Decision: ("decide", "decision"),
    Permit: ("approve", None),
    Lease: ("admit", None),
    Intent: ("record", "intent"),
    SafeOutput: ("screen", None),
}
# Bytes of arguments kept of a refused call. Refusals spend no rate, so whoever has a key could fill the disk with them.
_REFUSED_KEPT = 16 * 1024
_PATH_KEPT = 512  # characters of a fetched URL's path
_WITH_LINK = "account_required"  # whoever reads records must not be able to connect an account for somebody else
_NO_VERDICT = Verdict("allow", frozenset())
# These end a call after its intent without the tool being known to have done nothing.
_MAY_HAVE_RUN = frozenset({"cancelled", "internal"})


class Opened:
    """The open record of one call: what each stage gave so far and how long it took (microseconds)."""

    __slots__ = (
        "_last",
        "call",
        "caller",
        "decision",
        "intent",
        "known",
        "now",
        "request",
        "started",
        "took",
        "tool",
    )

    def __init__(self, request: Request, now: float) -> None:
        self.request = request
        self.now = now
        self.started = self._last = time.perf_counter_ns()
        self.took: dict[str, int] = {}
        self.caller: Caller | None = None
        self.known: Principal | None = None
        self.tool: Tool | None = None
        self.decision: Decision | None = None
        self.intent: Intent | None = None
        self.call: Call | None = None

    def mark(self, stage: str) -> None:
        """Notes that `stage` ends now. Stages of a second round add to those of the first."""
        now = time.perf_counter_ns()
        self.took[stage] = self.took.get(stage, 0) + (now - self._last) // 1000
        self._last = now

    def saw(self, value: Seen) -> Seen:
        """Keeps what a stage gave, and gives it on."""
        stage, kept_as = _SEEN[type(value)]
        self.mark(stage)
        if kept_as is not None:
            setattr(self, kept_as, value)
        return value

    def refused(self, refusal: Refusal) -> Problem:
        """Keeps who was refused, and gives the problem on."""
        self.known = refusal.principal
        return refusal.problem

    @property
    def principal(self) -> Principal | None:
        """Who calls, with or without a session to call in; None when nobody is known to."""
        return self.caller.principal if self.caller else self.known

    def wall_ms(self) -> float:
        """Milliseconds since the record was opened."""
        return (time.perf_counter_ns() - self.started) // 1000 / 1000


def open_record(request: Request, clock: Clock) -> Opened:
    """Stage 0. Nothing is durable yet."""
    return Opened(request, clock.now())


async def record_intent(opened: Opened, lease: Lease, ledger: Ledger) -> Intent:
    """Makes what is about to run durable. Raises `Refusal(audit_unavailable | audit_saturated)`: then nothing runs."""
    return Intent(lease, await ledger.append(_line(opened, "call.intent", ledger)))


async def close_record(
    opened: Opened, result: SafeOutput | Problem, ledger: Ledger, sessions: Sessions, outcomes: Outcomes
) -> Outcome:
    """Stage 10: the outcome, durable. When it cannot be made durable the result is withheld."""
    principal = opened.principal
    if principal is None:  # not a call: nobody is known to have made it
        return _outcome(opened, result, _usage(opened, result), None)
    if isinstance(result, SafeOutput) and opened.caller:
        result = await _spent(opened, opened.caller, result, sessions)
    usage = _usage(opened, result)
    try:
        position = await ledger.append(_closing_line(opened, result, usage, ledger))
    except Refusal as refusal:
        return _outcome(opened, _unrecorded(opened, result, refusal.problem), usage, None)
    outcome = _outcome(opened, result, usage, position)
    outcomes.keep(principal.key, outcome)
    return outcome


async def _spent(opened: Opened, caller: Caller, safe: SafeOutput, sessions: Sessions) -> SafeOutput | Problem:
    """The result, once its labels are in the session: what could not be labelled must not be read."""
    try:
        await sessions.spend(caller.session, safe.verdict.labels, opened.tool.cost if opened.tool else 0.0)
    except Refusal:
        return problem("internal", "The call ran, but its session could not be kept, so its result is withheld.")
    return safe


def _unrecorded(opened: Opened, result: SafeOutput | Problem, refused: Problem) -> Problem:
    """The refusal of a closing line, in words that are true: after a call that may have run, not `nothing ran`."""
    if opened.intent is None or not (isinstance(result, SafeOutput) or result.code in _MAY_HAVE_RUN):
        return refused
    detail = "The call ran, or may have run, but its outcome could not be recorded, so its result is withheld."
    return Problem(refused.code, detail, advice="Check what it did before calling again.")


def _outcome(opened: Opened, result: SafeOutput | Problem, usage: Usage, position: Position | None) -> Outcome:
    safe = result if isinstance(result, SafeOutput) else None
    return Outcome(
        call_id=opened.request.call_id,
        tool=opened.request.tool,
        status=_status(opened, result),
        text=safe.text if safe else "",
        structured=safe.structured if safe else None,
        problem=result.problem if isinstance(result, SafeOutput) else result,
        verdict=safe.verdict if safe else _NO_VERDICT,
        usage=usage,
        position=position,
        truncated=safe.truncated if safe else False,
        artifacts=safe.artifacts if safe else (),
    )


def _status(opened: Opened, result: SafeOutput | Problem) -> Literal["done", "failed", "refused"]:
    if isinstance(result, SafeOutput):
        return "failed" if result.problem else "done"
    return "failed" if opened.intent and result.code in _MAY_HAVE_RUN else "refused"


def _usage(opened: Opened, result: SafeOutput | Problem) -> Usage:
    if not isinstance(result, SafeOutput):
        return Usage(wall_ms=opened.wall_ms())
    cost = opened.tool.cost if opened.tool else 0.0
    size = len(result.text) if result.text.isascii() else len(result.text.encode())
    return Usage(opened.wall_ms(), result.raw.sandbox_ms, size, cost)


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _line(opened: Opened, kind: str, ledger: Ledger, extra: dict[str, Json] | None = None, words: Json = None) -> Line:
    """A line that says who calls what with which arguments, and what was decided. `words`: what code was told."""
    principal, request = opened.principal, opened.request
    if principal is None:
        raise ValueError("a line needs a known principal")
    session = opened.caller.session if opened.caller else None
    call, tool = opened.call, opened.tool
    arguments: Json = call.arguments if call else request.arguments
    spelled = strictjson.canonical(arguments)
    fields: dict[str, Json] = {
        "call_id": request.call_id,
        "session_id": session.id if session else (request.session or "")[:128],
        "tenant": principal.tenant,
        "principal": _principal(principal),
        "tool": {"name": tool.name, "version": tool.version, "digest": tool.digest}
        if tool
        else {"name": request.tool[:128]},
        "args_digest": ledger.digest(principal.tenant, spelled),
        "decision": decided(opened.decision),
        "opened_at": opened.now,
    }
    if session:
        fields["session"] = _session(session, call)
    if request.parent:
        fields["parent_call_id"] = request.parent.intent.call.id
    if call and call.inputs:
        fields["inputs"] = [artifact.handle for artifact in call.inputs.values()]
    if request.trace:
        fields["trace_id"], fields["span_id"] = request.trace.trace_id, request.trace.span_id
    if extra:
        fields.update(extra)
    if session is None:  # and so no key to encrypt its content with
        return Line(kind, fields)
    kept = kind != "call.refused" or len(spelled) <= _REFUSED_KEPT
    content = _content(opened, kind, {"arguments": arguments} if kept else {"arguments_bytes": len(spelled)})
    if words is not None and isinstance(content, dict):
        content["refused"] = words
    return Line(kind, fields, content, session.uid, principal.tenant)


def _principal(principal: Principal) -> Json:
    """Who calls, with what is known of the process and of those between, where there are any."""
    said: dict[str, Json] = {
        "agent": principal.agent,
        "user": principal.user,
        "groups": sorted(principal.groups),
        "authn": principal.authn,
        "token_id": principal.token_id,
    }
    if principal.workload is not None:
        said["workload"] = principal.workload
    if principal.actors:
        said["actors"] = list(principal.actors)
    return said


def _session(session: Session, call: Call | None) -> Json:
    """What of the session a decision stands on, as it was before the call: so that it can be made again."""
    return {
        "labels": sorted(seen(call) if call else session.labels),
        "calls": session.calls,
        "cost": session.cost,
        "opened_at": session.opened_at,
    }


def _content(opened: Opened, kind: str, content: dict[str, Json]) -> Json:
    decision = opened.decision
    entries = decision.reserves if decision and kind == "call.intent" else ()
    if decision and decision.obligations.record == "metadata":
        # Nothing of what was said; but what counts goes on counting after a restart.
        return {"reserves": written_entries(entries)} if entries else None
    if opened.call:
        content["seed"] = opened.call.seed
    if decision:
        content["reasons"] = reasoned(decision.reasons)
        content |= _details(decision)
        if decision.reads:
            content["reads"] = written_levels(decision.reads)
        if entries:
            content["reserves"] = written_entries(entries)
        if decision.shadow:
            content["shadow_reasons"] = reasoned(decision.shadow.reasons)
    return content


def _details(decision: Decision) -> dict[str, Json]:
    """In which words it refused, and would have with the rules in shadow in force."""
    said = {"detail": decision.problem, "shadow_detail": decision.shadow.problem if decision.shadow else None}
    return {key: problem.detail for key, problem in said.items() if problem}


def _closing_line(opened: Opened, result: SafeOutput | Problem, usage: Usage, ledger: Ledger) -> Line:
    problem = result.problem if isinstance(result, SafeOutput) else result
    said: dict[str, Json] = {
        "outcome": {
            "status": _status(opened, result),
            "code": problem.code if problem else None,
            "retryable": TABLE[problem.code].retryable if problem else None,
            "rule": problem.rule if problem else None,
            **_again(problem),
        },
        "stages": opened.took,
        "usage": {
            "wall_ms": usage.wall_ms,
            "sandbox_ms": usage.sandbox_ms,
            "bytes_out": usage.bytes_out,
            "cost": usage.cost,
        },
    }
    if opened.intent is None:
        told = _words(problem) if problem and opened.request.parent else None
        return _line(opened, "call.refused", ledger, said, told)
    said |= {"call_id": opened.request.call_id, "intent": opened.intent.position.seq}
    call = opened.intent.call
    principal, session = call.caller.principal, call.caller.session
    said |= {
        "session_id": session.id,
        "tenant": principal.tenant,
        "principal": {"agent": principal.agent, "user": principal.user},
        "tool": {"name": call.tool.name},
    }
    if call.parent is not None:
        said["parent_call_id"] = call.parent.intent.call.id
        if isinstance(call.tool.backend, FetchBackend):
            said["network"] = [_sent(call, result, opened.intent.obligations.record != "metadata")]
    content: Json = None
    if isinstance(result, SafeOutput):
        said |= _screened(result, ledger, principal.tenant)
        if opened.intent.obligations.record == "request_response":
            content = _shown(result)
    elif opened.intent.obligations.record != "metadata":
        content = _words(result)
    return Line("call.outcome", said, content, session.uid, principal.tenant)


def _again(problem: Problem | None) -> dict[str, Json]:
    """When to call again, where that was said."""
    return {"retry_after_ms": problem.retry_after_ms} if problem and problem.retry_after_ms is not None else {}


def _words(problem: Problem) -> dict[str, Json]:
    """What a problem says beside its code; the advice only where it is not that of the table, nor a link to go by."""
    said: dict[str, Json] = {"detail": problem.detail}
    plain = problem.code == _WITH_LINK or problem.advice == TABLE[problem.code].advice
    return said if plain else said | {"advice": problem.advice}


def _sent(call: Call, result: SafeOutput | Problem, with_path: bool) -> Json:
    """What a fetch asked for and got. Not its query nor its headers, which may hold what is nobody's business.

    A path is content as well, where policy wants none on record.
    """
    given = call.arguments
    try:
        url = parse_url(str(given["url"]))
        host, path = url.authority, url.path[:_PATH_KEPT]
    except BadUrl:
        host = path = ""
    sent: dict[str, Json] = {"method": given["method"], "host": host, "status": None, "bytes": 0}
    if with_path:
        sent["path"] = path
    got = result.raw.structured if isinstance(result, SafeOutput) else None
    if isinstance(got, dict):
        sent |= {"status": got["status"], "bytes": len(got["body"].encode())}
    return sent


def _screened(safe: SafeOutput, ledger: Ledger, tenant: str) -> dict[str, Json]:
    verdict, raw = safe.verdict, safe.raw
    shown_digest = ledger.digest(tenant, safe.text.encode())
    return {
        "raw_digest": shown_digest if raw.text == safe.text else ledger.digest(tenant, raw.text.encode()),
        "shown_digest": shown_digest,
        "truncated": safe.truncated,
        "artifacts": [
            {"handle": a.handle, "size": a.size, "labels": sorted(a.labels), "media_type": a.media_type}
            for a in safe.artifacts
        ],
        "origin": raw.origin,
        "guarantees": sorted(raw.guarantees),
        "screen": {"action": verdict.action, "findings": verdict.findings},
        "labels_added": sorted(verdict.labels),
        **_ran_in(raw),
    }


def _ran_in(raw: RawOutput) -> dict[str, Json]:
    """What code ran in, and how it ended before anything was made of that: what it takes to run it again."""
    return {"sandbox": {**raw.sandbox, "code": raw.problem.code if raw.problem else None}} if raw.sandbox else {}


def _shown(safe: SafeOutput) -> Json:
    shown: dict[str, Json] = {"text": safe.text, "structured": safe.structured}
    if safe.problem:
        shown |= _words(safe.problem)
    if safe.artifacts:
        shown["artifacts"] = {artifact.handle: artifact.name for artifact in safe.artifacts}
    if safe.raw.text != safe.text or safe.raw.structured != safe.structured:
        shown["raw"] = {"text": safe.raw.text, "structured": safe.raw.structured}
    return shown
