"""The closed table of everything that can go wrong, the makers of `Problem` values, and their words for a model.

It never renders anything for a protocol: `doors/render.py` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.model import Problem, Refusal
from gateway.tool import Fix


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of problem: its class, a title for people, the HTTP status (RFC 9110), whether trying again can help."""

    cls: str
    title: str
    status: int
    retryable: bool
    advice: str


_CHANGE = "Change the request; do not repeat the same call."
_NEVER = "Do not repeat the same call."

TABLE: dict[str, Row] = {
    # identity
    "unauthenticated": Row("identity", "Not authenticated", 401, False, "Send a valid key as a Bearer token."),
    "insufficient_scope": Row("identity", "Scope not sufficient", 403, False, _NEVER),
    "account_required": Row(
        "identity", "An account has to be connected first", 403, False, "Open the link, then call again."
    ),
    "session_closed": Row("identity", "Session is closed or not yours", 403, False, "Open a new session."),
    # request
    "malformed": Row("request", "Malformed request", 400, False, _CHANGE),
    "bad_origin": Row("request", "Host or Origin not allowed", 403, False, _NEVER),
    "not_found": Row("request", "Not found", 404, False, _NEVER),
    "method_not_allowed": Row("request", "Method not allowed", 405, False, _CHANGE),
    "request_timeout": Row("request", "Request took too long to arrive", 408, True, "Send the whole request at once."),
    "too_large": Row("request", "Request too large", 413, False, "Send less."),
    "unsupported_media_type": Row("request", "Content type must be application/json", 415, False, _CHANGE),
    "headers_too_large": Row("request", "Headers too large", 431, False, "Send fewer or shorter headers."),
    "unknown_tool": Row("request", "Unknown tool", 404, False, "List the tools and use one of those names."),
    "invalid_arguments": Row("request", "Arguments do not fit the tool's schema", 422, False, "Repair and call again."),
    # policy
    "no_permit": Row("policy", "No rule permits this call", 403, False, _NEVER),
    "forbidden": Row("policy", "A rule forbids this call", 403, False, _NEVER),
    "policy_error": Row("policy", "The policy could not be evaluated, so the call is refused", 403, False, _NEVER),
    "precondition_pending": Row(
        "policy", "Another call that this one depends on is under way", 409, True, "Wait, then call again."
    ),
    "tool_changed": Row("policy", "The tool changed since it was pinned", 409, False, "Ask the operator to review it."),
    # limits
    "rate_limited": Row("limits", "Too many calls", 429, True, "Wait, then call again."),
    "concurrency_limited": Row("limits", "Too many calls at once", 429, True, "Wait for running calls to end."),
    "budget_exhausted": Row(
        "limits", "A budget is used up", 403, False, "Do not repeat the call: it would be refused again."
    ),
    "loop_detected": Row("limits", "The same call is made again and again", 403, False, "Stop. Do something else."),
    "overloaded": Row("limits", "The gateway cannot take this call now", 503, True, "Wait, then call again."),
    # approval
    "approval_required": Row(
        "approval", "A person has to say yes first", 202, False, "Call again with the same arguments when approved."
    ),
    "approval_denied": Row("approval", "A person said no", 403, False, _NEVER),
    "approval_expired": Row("approval", "The approval is over", 403, False, "Make the call anew to ask again."),
    # idempotency
    "key_reused": Row("idempotency", "The idempotency key is that of another call", 422, False, "Use a new key."),
    "in_progress": Row("idempotency", "A call with this key is under way", 409, True, "Wait, then call again."),
    "outcome_unknown": Row("idempotency", "Nobody knows how the call ended", 409, False, "Check what it did."),
    # execution
    "tool_error": Row("execution", "The tool reported an error", 200, False, "Read the error, change the call."),
    "timeout": Row("execution", "The tool did not finish in time", 200, False, "Ask for less work per call."),
    "cancelled": Row("execution", "The call was cancelled", 200, False, "It may have run in part."),
    "sandbox_limit": Row("execution", "The sandbox reached a limit", 200, False, "Use less of the named resource."),
    "upstream_error": Row("execution", "The tool's backend failed", 200, False, "It may have run; check first."),
    "breaker_open": Row("execution", "The tool's backend is failing", 503, True, "Wait, then call again."),
    "sandbox_unavailable": Row("execution", "No sandbox is available", 503, True, "Wait, then call again."),
    "upstream_unreachable": Row("execution", "The tool's backend cannot be reached", 502, True, "Nothing was sent."),
    "egress_denied": Row("execution", "The address is not allowed", 403, False, "Use an allowed address."),
    # output
    "output_invalid": Row("output", "The tool's result breaks its own schema", 200, False, _NEVER),
    "output_too_large": Row("output", "The tool's result is too large", 200, False, "Ask for less."),
    "output_withheld": Row("output", "The result was withheld", 200, False, "The call ran. Do not repeat it."),
    # record
    "audit_unavailable": Row(
        "record", "The audit log cannot be written", 503, True, "Nothing ran. Wait, then call again."
    ),
    "audit_saturated": Row("record", "The audit log is busy", 503, True, "Wait, then call again."),
    "replay_miss": Row("record", "The recorded session has no such call", 409, False, "Call as it was recorded."),
    # internal
    "internal": Row("internal", "Something failed inside the gateway", 500, True, "Report the call id."),
}


def problem(
    code: str,
    detail: str,
    *,
    retry_after_ms: int | None = None,
    advice: str | None = None,
    fix: tuple[Fix, ...] = (),
    rule: str | None = None,
    needs: tuple[str, ...] = (),
) -> Problem:
    """A `Problem` of the table. `detail` must be safe to show to a model. Raises `KeyError` for an unknown code."""
    return Problem(code, detail, retry_after_ms, advice or TABLE[code].advice, fix, rule, needs)


def refuse(code: str, detail: str, *, retry_after_ms: int | None = None, advice: str | None = None) -> Refusal:
    """A `Refusal` to raise, with a problem of the table."""
    return Refusal(problem(code, detail, retry_after_ms=retry_after_ms, advice=advice))


def text(problem: Problem) -> str:
    """One short paragraph for a model: what happened, why, and what to do now."""
    row = TABLE[problem.code]
    said = [f"{row.title} ({problem.code}).", problem.detail]
    if problem.retry_after_ms:
        said.append(f"Wait {math.ceil(problem.retry_after_ms / 100) / 10:g} s before calling again.")
    if problem.advice and problem.advice not in problem.detail:
        said.append(problem.advice)
    return " ".join(part for part in said if part)
