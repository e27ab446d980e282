"""The lines that are written about a call: what identifies and measures it in plain, the rest as encrypted content.

It appends nothing: `record.py` does.
"""

from __future__ import annotations

from typing import Literal

from gateway import strictjson
from gateway.model import Call, Decision, Principal, Problem, RawOutput, Request, SafeOutput, Session, Usage
from gateway.parked import Parked
from gateway.policy.variables import seen
from gateway.ports import Ledger, Line
from gateway.problems import TABLE
from gateway.reliability.resilience import answered_by
from gateway.reliability.written import written_entries, written_levels
from gateway.stages.decided import decided, reasoned
from gateway.stages.kept import Recalled
from gateway.stages.opened import Opened
from gateway.tool import FetchBackend, Json
from gateway.urls import BadUrl, parse_url

# Bytes of arguments kept of a refused call. Refusals spend no rate, so whoever has a key could fill the disk with them.
_REFUSED_KEPT = 16 * 1024
_PATH_KEPT = 512  # characters of a fetched URL's path
_WITH_LINK = "account_required"  # whoever reads records must not be able to connect an account for somebody else
# These end a call after its intent without the tool being known to have done nothing.
MAY_HAVE_RUN = frozenset({"cancelled", "internal"})
WAITS = "approval_required"
REPEATED = "call.repeated"


def line_of(
    opened: Opened, kind: str, ledger: Ledger, extra: dict[str, Json] | None = None, words: Json = None
) -> Line:
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
    if cause := _cause(request):
        fields["parent_call_id"] = cause
    if call and call.inputs:
        fields["inputs"] = [artifact.handle for artifact in call.inputs.values()]
    if request.trace:
        fields["trace_id"], fields["span_id"] = request.trace.trace_id, request.trace.span_id
    if kind == "call.intent":
        fields |= _admitted(opened)
    if extra:
        fields.update(extra)
    if session is None:  # and so no key to encrypt its content with
        return Line(kind, fields)
    kept = kind not in ("call.refused", "call.parked") or len(spelled) <= _REFUSED_KEPT
    content = _content(opened, kind, {"arguments": arguments} if kept else {"arguments_bytes": len(spelled)})
    if words is not None and isinstance(content, dict):
        content["refused"] = words
    return Line(kind, fields, content, session.uid, principal.tenant)


def _cause(request: Request) -> str | None:
    """The call because of which this one is made: by its code, instead of it, or by a stage that asks about it."""
    return request.cause or (request.parent.intent.call.id if request.parent else None)


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


def _admitted(opened: Opened) -> dict[str, Json]:
    """Who said yes, and what was taken for the call: so that limits can be counted anew from the ledger alone."""
    said: dict[str, Json] = {}
    if opened.permit and opened.permit.approval:
        said["approval"] = _approved(opened.permit.approval)
    if opened.lease is None:
        return said
    ask, taken = opened.lease.ask, opened.lease.taken
    if ask.claim:
        claim = ask.claim
        said["idempotency_key"] = {"claim": claim.key, "fingerprint": claim.fingerprint, "ttl": claim.ttl}
    if ask.buckets:
        whole = {each.bucket.key: each.reset for each in taken.standings}
        said["rates"] = [[each.key, each.rate.calls, each.rate.per, whole.get(each.key)] for each in ask.buckets]
    if ask.accounts:
        reserved = {str(name): amount for name, amount in taken.granted.items()}
        said["budgets"] = {"accounts": [each.key for each in ask.accounts], "reserved": reserved}
    return said


def _approved(approval: Parked) -> Json:
    """Which approval a call used up, and who had said yes to it."""
    by = [{"person": each.person, "token_id": each.token_id, "at": each.at} for each in approval.answers]
    return {"id": approval.id, "by": by}


def status_of(opened: Opened, result: SafeOutput | Problem) -> Literal["done", "failed", "refused", "parked"]:
    """How the call ended."""
    if isinstance(result, SafeOutput):
        return "failed" if result.problem else "done"
    if opened.intent is None and result.code == WAITS:
        return "parked"
    return "failed" if opened.intent and result.code in MAY_HAVE_RUN else "refused"


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


def closing_line(opened: Opened, result: SafeOutput | Problem, usage: Usage, ledger: Ledger) -> Line:
    problem = result.problem if isinstance(result, SafeOutput) else result
    said: dict[str, Json] = {
        "outcome": {
            "status": status_of(opened, result),
            "code": problem.code if problem else None,
            "retryable": TABLE[problem.code].retryable if problem else None,
            "rule": problem.rule if problem else None,
            **_again(problem),
            **({"limit": opened.limited} if opened.limited else {}),
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
        kind = "call.parked" if status_of(opened, result) == "parked" else "call.refused"
        if problem and problem.approval:
            said["approval"] = {"id": problem.approval}
        elif opened.permit and opened.permit.approval:
            said["approval"] = _approved(opened.permit.approval)
        told = _words(problem) if problem and opened.request.parent else None
        return line_of(opened, kind, ledger, said, told)
    said |= {"call_id": opened.request.call_id, "intent": opened.intent.position.seq}
    call = opened.intent.call
    principal, session = call.caller.principal, call.caller.session
    said |= {
        "session_id": session.id,
        "tenant": principal.tenant,
        "principal": {"agent": principal.agent, "user": principal.user},
        "tool": {"name": call.tool.name},
    }
    if cause := _cause(opened.request):
        said["parent_call_id"] = cause
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


def repeated_line(opened: Opened, recalled: Recalled, ledger: Ledger) -> Line:
    """That a call was answered with what is on record of an earlier one. Its arguments are those of that one."""
    code = recalled.problem.code if recalled.problem else None
    said: dict[str, Json] = {
        "repeat_of": recalled.of,
        "idempotency_key": {"claim": recalled.claim},
        "outcome": {"status": recalled.status, "code": code},
        "stages": opened.took,
        "usage": {"wall_ms": opened.wall_ms()},
    }
    return Line(REPEATED, line_of(opened, REPEATED, ledger, said).fields)


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
        **_attempts(raw),
    }


def _ran_in(raw: RawOutput) -> dict[str, Json]:
    """What code ran in, and how it ended before anything was made of that: what it takes to run it again."""
    return {"sandbox": {**raw.sandbox, "code": raw.problem.code if raw.problem else None}} if raw.sandbox else {}


def _attempts(raw: RawOutput) -> dict[str, Json]:
    """How often it was tried, when that was not once: never where something else answered."""
    if raw.attempts == 1:
        return {}
    return {"attempt": raw.attempts, **({} if raw.attempts else {"answered_by": answered_by(raw)})}


def _shown(safe: SafeOutput) -> Json:
    shown: dict[str, Json] = {"text": safe.text, "structured": safe.structured}
    if safe.problem:
        shown |= _words(safe.problem)
    if safe.artifacts:
        shown["artifacts"] = {artifact.handle: artifact.name for artifact in safe.artifacts}
    if safe.raw.text != safe.text or safe.raw.structured != safe.structured:
        shown["raw"] = {"text": safe.raw.text, "structured": safe.raw.structured}
    return shown
