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
    Problem,
    Reason,
    Refusal,
    Request,
    SafeOutput,
    Usage,
    Verdict,
)
from gateway.ports import Clock, Ledger, Line, Outcomes, Sessions
from gateway.problems import TABLE
from gateway.tool import Json, Tool

Seen = TypeVar("Seen", Caller, Tool, Call, Decision, Permit, Lease, Intent, SafeOutput)
_STAGE: dict[type, str] = {
    Caller: "authenticate",
    Tool: "resolve",
    Call: "validate",
    Decision: "decide",
    Permit: "approve",
    Lease: "admit",
    Intent: "record",
    SafeOutput: "screen",
}
_NO_VERDICT = Verdict("allow", frozenset())
# These end a call after its intent without the tool being known to have done nothing.
_MAY_HAVE_RUN = frozenset({"cancelled", "internal"})


class Opened:
    """The open record of one call: what each stage gave so far and how long it took (microseconds)."""

    __slots__ = ("_last", "caller", "decision", "intent", "now", "request", "started", "took", "tool", "what")

    def __init__(self, request: Request, now: float) -> None:
        self.request = request
        self.now = now
        self.started = self._last = time.perf_counter()
        self.took: dict[str, int] = {}
        self.caller: Caller | None = None
        self.tool: Tool | None = None
        self.decision: Decision | None = None
        self.intent: Intent | None = None
        self.what: Call | None = None

    def mark(self, stage: str) -> None:
        """Notes that `stage` ends now."""
        now = time.perf_counter()
        self.took[stage] = round((now - self._last) * 1e6)
        self._last = now

    def saw(self, value: Seen) -> Seen:
        """Keeps what a stage gave, and gives it on."""
        kind = type(value)
        self.mark(_STAGE[kind])
        if isinstance(value, Caller):
            self.caller = value
        elif isinstance(value, Tool):
            self.tool = value
        elif isinstance(value, Call):
            self.what = value
        elif isinstance(value, Decision):
            self.decision = value
        elif isinstance(value, Intent):
            self.intent = value
        return value


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
    caller = opened.caller
    if caller is None:  # not a call: nobody is known to have made it
        return _outcome(opened, result, None)
    if isinstance(result, SafeOutput):
        cost = opened.tool.cost if opened.tool else 0.0
        await sessions.spend(caller.session, result.verdict.labels, cost)
    try:
        position = await ledger.append(_closing_line(opened, result, ledger))
    except Refusal as refusal:
        return _outcome(opened, refusal.problem, None)
    outcome = _outcome(opened, result, position)
    outcomes.keep(caller.principal.key, outcome)
    return outcome


def _outcome(opened: Opened, result: SafeOutput | Problem, position: Position | None) -> Outcome:
    safe = result if isinstance(result, SafeOutput) else None
    return Outcome(
        call_id=opened.request.call_id,
        tool=opened.request.tool,
        status=_status(opened, result),
        text=safe.text if safe else "",
        structured=safe.structured if safe else None,
        problem=result.problem if isinstance(result, SafeOutput) else result,
        verdict=safe.verdict if safe else _NO_VERDICT,
        usage=_usage(opened, safe),
        position=position,
        truncated=safe.truncated if safe else False,
    )


def _status(opened: Opened, result: SafeOutput | Problem) -> Literal["done", "failed", "refused"]:
    if isinstance(result, SafeOutput):
        return "failed" if result.problem else "done"
    return "failed" if opened.intent and result.code in _MAY_HAVE_RUN else "refused"


def _usage(opened: Opened, safe: SafeOutput | None) -> Usage:
    wall_ms = (time.perf_counter() - opened.started) * 1000
    if safe is None:
        return Usage(wall_ms=round(wall_ms, 3))
    cost = opened.tool.cost if opened.tool else 0.0
    return Usage(round(wall_ms, 3), safe.raw.sandbox_ms, len(safe.text.encode()), cost)


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _line(opened: Opened, kind: str, ledger: Ledger, extra: dict[str, Json] | None = None) -> Line:
    """A line that says who calls what with which arguments, and what was decided."""
    caller, request = opened.caller, opened.request
    if caller is None:
        raise ValueError("a line needs a known caller")
    principal, session = caller.principal, caller.session
    call, tool = opened.what, opened.tool
    arguments: Json = call.arguments if call else request.arguments
    fields: dict[str, Json] = {
        "call_id": request.call_id,
        "session_id": session.id,
        "tenant": principal.tenant,
        "principal": {
            "agent": principal.agent,
            "user": principal.user,
            "authn": principal.authn,
            "token_id": principal.token_id,
        },
        "tool": {"name": tool.name, "version": tool.version, "digest": tool.digest}
        if tool
        else {"name": request.tool[:128]},
        "args_digest": ledger.digest(principal.tenant, strictjson.canonical(arguments)),
        "decision": _decision(opened.decision),
        "opened_at": opened.now,
    }
    if request.trace:
        fields["trace_id"], fields["span_id"] = request.trace.trace_id, request.trace.span_id
    if extra:
        fields.update(extra)
    return Line(kind, fields, _content(opened, arguments), session.uid, principal.tenant)


def _content(opened: Opened, arguments: Json) -> Json:
    decision = opened.decision
    if decision and decision.obligations.record == "metadata":
        return None
    content: dict[str, Json] = {"arguments": arguments}
    if opened.what:
        content["seed"] = opened.what.seed
    if decision:
        content["reasons"] = [_reason(reason) for reason in decision.reasons]
    return content


def _decision(decision: Decision | None) -> Json:
    if decision is None:
        return None
    duties = decision.obligations
    return {
        "effect": decision.effect.value,
        "code": decision.problem.code if decision.problem else None,
        "rules": list(decision.rules),
        "bundle_digest": decision.bundle,
        "obligations": {
            "timeout": duties.timeout,
            "output": duties.output,
            "labels": sorted(duties.labels),
            "limits": [[x.rule, x.key, x.rate.calls, x.rate.per] for x in duties.limits],
            "record": duties.record,
            "backends": sorted(duties.backends) if duties.backends is not None else None,
            "require": sorted(duties.require),
            "origin": {key: list(rules) for key, rules in duties.origin.items()},
        },
    }


def _reason(reason: Reason) -> Json:
    return {
        "rule": reason.rule,
        "source": reason.source,
        "effect": reason.effect.value,
        "result": reason.result,
        "clauses": [{"text": c.text, "result": c.result, "values": dict(c.values)} for c in reason.clauses],
        "message": reason.message,
    }


def _closing_line(opened: Opened, result: SafeOutput | Problem, ledger: Ledger) -> Line:
    problem = result.problem if isinstance(result, SafeOutput) else result
    said: dict[str, Json] = {
        "outcome": {
            "status": _status(opened, result),
            "code": problem.code if problem else None,
            "retryable": TABLE[problem.code].retryable if problem else None,
            "rule": problem.rule if problem else None,
        },
        "stages": dict(opened.took),
    }
    if opened.intent is None:
        return _line(opened, "call.refused", ledger, said)
    said |= {"call_id": opened.request.call_id, "intent": opened.intent.position.seq}
    call = opened.intent.call
    principal, session = call.caller.principal, call.caller.session
    said |= {
        "session_id": session.id,
        "tenant": principal.tenant,
        "principal": {"agent": principal.agent, "user": principal.user},
        "tool": {"name": call.tool.name},
    }
    content: Json = None
    if isinstance(result, SafeOutput):
        said |= _measured(opened, result, ledger, principal.tenant)
        if opened.intent.obligations.record == "request_response":
            content = _shown(result)
    return Line("call.outcome", said, content, session.uid, principal.tenant)


def _measured(opened: Opened, safe: SafeOutput, ledger: Ledger, tenant: str) -> dict[str, Json]:
    usage = _usage(opened, safe)
    verdict, raw = safe.verdict, safe.raw
    shown_digest = ledger.digest(tenant, safe.text.encode())
    return {
        "raw_digest": shown_digest if raw.text == safe.text else ledger.digest(tenant, raw.text.encode()),
        "shown_digest": shown_digest,
        "bytes": usage.bytes_out,
        "truncated": safe.truncated,
        "origin": raw.origin,
        "guarantees": sorted(raw.guarantees),
        "screen": {
            "action": verdict.action,
            "findings": [
                [f.stage, f.rule, f.action, f.path, list(f.span) if f.span else None] for f in verdict.findings
            ],
        },
        "labels_added": sorted(verdict.labels),
        "usage": {"wall_ms": usage.wall_ms, "sandbox_ms": usage.sandbox_ms, "cost": usage.cost},
    }


def _shown(safe: SafeOutput) -> Json:
    shown: dict[str, Json] = {"text": safe.text, "structured": safe.structured}
    if safe.problem:
        shown["detail"] = safe.problem.detail
    if safe.raw.text != safe.text:
        shown["raw"] = {"text": safe.raw.text, "structured": safe.raw.structured}
    return shown
