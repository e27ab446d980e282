"""Stages 0 and 10, and the intent between them: what is written about a call, and the only maker of `Outcome`.

Nothing runs without a durable intent, and no result leaves before its outcome is durable. What identifies and measures
a call stands in plain in the record; arguments, results and clause values are its encrypted content.
"""

from __future__ import annotations

from contextlib import suppress

from gateway.model import (
    Caller,
    Intent,
    Lease,
    Outcome,
    Position,
    Problem,
    Refusal,
    Request,
    SafeOutput,
    Usage,
    Verdict,
)
from gateway.ports import Claims, Clock, Ledger, Outcomes, Sessions
from gateway.problems import problem
from gateway.stages.claim import keep
from gateway.stages.kept import Recalled
from gateway.stages.lines import MAY_HAVE_RUN, closing_line, line_of, repeated_line, status_of
from gateway.stages.opened import Opened

_NO_VERDICT = Verdict("allow", frozenset())


def open_record(request: Request, clock: Clock) -> Opened:
    """Stage 0. Nothing is durable yet."""
    return Opened(request, clock.now())


async def record_intent(opened: Opened, lease: Lease, ledger: Ledger) -> Intent:
    """Makes what is about to run durable. Raises `Refusal(audit_unavailable | audit_saturated)`: then nothing runs."""
    return Intent(lease, await ledger.append(line_of(opened, "call.intent", ledger)))


async def close_record(
    opened: Opened,
    result: SafeOutput | Problem | Recalled,
    ledger: Ledger,
    sessions: Sessions,
    outcomes: Outcomes,
    claims: Claims,
) -> Outcome:
    """Stage 10: the outcome, durable, and kept for repeats. When it cannot be made durable the result is withheld."""
    principal = opened.principal
    if isinstance(result, Recalled):
        result = await _told(opened, result, sessions)
    if isinstance(result, Recalled):
        return await _repeated(opened, result, ledger, outcomes)
    if principal is None:  # not a call: nobody is known to have made it
        return _outcome(opened, result, _usage(opened, result), None)
    if isinstance(result, SafeOutput) and opened.caller:
        result = await _spent(opened, opened.caller, result, sessions)
    usage = _usage(opened, result)
    try:
        position = await ledger.append(closing_line(opened, result, usage, ledger))
    except Refusal as refusal:
        await keep(opened, status_of(opened, result), None, claims)
        return _outcome(opened, _unrecorded(opened, result, refusal.problem), usage, None)
    for line in opened.beside:
        with suppress(Refusal):  # it says of the call what its own record shows too
            await ledger.append(line)
    outcome = _outcome(opened, result, usage, position)
    await keep(opened, outcome.status, outcome, claims)
    outcomes.keep(principal.key, outcome)
    return outcome


async def _told(opened: Opened, recalled: Recalled, sessions: Sessions) -> Recalled | Problem:
    """What a repeat is told, once the labels of the first call are in its own session too, which may be another."""
    caller = opened.caller
    if caller is not None and not recalled.verdict.labels <= caller.session.labels:
        try:
            await sessions.spend(caller.session, recalled.verdict.labels, 0.0)
        except Refusal as refusal:
            return refusal.problem
    return recalled


async def _repeated(opened: Opened, recalled: Recalled, ledger: Ledger, outcomes: Outcomes) -> Outcome:
    """What is on record of the first call, under the repeat's own id and record."""
    try:
        position = await ledger.append(repeated_line(opened, recalled, ledger))
    except Refusal as refusal:
        return _outcome(opened, refusal.problem, _usage(opened, refusal.problem), None)
    outcome = remembered(recalled, opened.request.call_id, position, repeat=True)
    if opened.principal is not None:
        outcomes.keep(opened.principal.key, outcome)
    return outcome


def remembered(recalled: Recalled, call_id: str, position: Position | None, *, repeat: bool) -> Outcome:
    """An outcome as it was kept: of the call itself, perhaps by another gateway, or of the one that it repeats."""
    return Outcome(
        call_id=call_id,
        tool=recalled.tool,
        status=recalled.status,
        text=recalled.text,
        structured=recalled.structured,
        problem=recalled.problem,
        verdict=recalled.verdict,
        usage=recalled.usage,
        position=position,
        truncated=recalled.truncated,
        artifacts=recalled.artifacts,
        repeat=repeat,
    )


async def _spent(opened: Opened, caller: Caller, safe: SafeOutput, sessions: Sessions) -> SafeOutput | Problem:
    """The result, once its labels are in the session: what could not be labelled must not be read."""
    try:
        await sessions.spend(caller.session, safe.verdict.labels, opened.tool.cost if opened.tool else 0.0)
    except Refusal:
        return problem("internal", "The call ran, but its session could not be kept, so its result is withheld.")
    return safe


def _unrecorded(opened: Opened, result: SafeOutput | Problem, refused: Problem) -> Problem:
    """The refusal of a closing line, in words that are true: after a call that may have run, not `nothing ran`."""
    if opened.intent is None or not (isinstance(result, SafeOutput) or result.code in MAY_HAVE_RUN):
        return refused
    detail = "The call ran, or may have run, but its outcome could not be recorded, so its result is withheld."
    return Problem(refused.code, detail, advice="Check what it did before calling again.")


def _outcome(opened: Opened, result: SafeOutput | Problem, usage: Usage, position: Position | None) -> Outcome:
    safe = result if isinstance(result, SafeOutput) else None
    return Outcome(
        call_id=opened.request.call_id,
        tool=opened.request.tool,
        status=status_of(opened, result),
        text=safe.text if safe else "",
        structured=safe.structured if safe else None,
        problem=result.problem if isinstance(result, SafeOutput) else result,
        verdict=safe.verdict if safe else _NO_VERDICT,
        usage=usage,
        position=position,
        truncated=safe.truncated if safe else False,
        artifacts=safe.artifacts if safe else (),
        standings=opened.standings,
        notes=tuple(opened.notes),
        etag=safe.raw.etag if safe else None,
    )


def _usage(opened: Opened, result: SafeOutput | Problem) -> Usage:
    if not isinstance(result, SafeOutput):
        return Usage(wall_ms=opened.wall_ms())
    cost = opened.tool.cost if opened.tool else 0.0
    size = len(result.text) if result.text.isascii() else len(result.text.encode())
    return Usage(opened.wall_ms(), result.raw.sandbox_ms, size, cost)
