"""Asks a backend what became of a call that may have happened, by another tool that its spec names for that.

The question is a call of its own: authenticated, decided, run, screened and recorded like any other, with `cause` set.
It never takes anything but a plain yes or no for an answer.
"""

from __future__ import annotations

from typing import Protocol

from gateway.admission import Claim, Claimed
from gateway.model import Call, Outcome, Problem, Request, Verdict
from gateway.ports import Catalogue, Claims, Ledger, Line
from gateway.problems import problem
from gateway.stages.inputs import labels_of
from gateway.stages.kept import write_done
from gateway.stages.nested import Entry
from gateway.tool import Json

KEY = "idempotency_key"  # the argument that gets what the backend was told to know the call by
_FOUND = "found"
_RESULT = "result"


class Asking(Entry, Protocol):
    """What it takes to ask, and to keep the answer: the line of stages, where claims and tools are, the ledger."""

    @property
    def claims(self) -> Claims: ...
    @property
    def catalogue(self) -> Catalogue: ...
    @property
    def ledger(self) -> Ledger: ...


async def reconcile(claim: Claim, there: Claimed, told: str, call: Call, request: Request, by: Asking) -> bool:
    """Settles the claim of a call that may have happened; False when that is still not known.

    The tool is asked with those of the original's arguments that its schema has, and `told`, the key that the backend
    had, as `idempotency_key`. It answers `{"found": true, "result": …}` or `{"found": false}`.

    Raises:
        Refusal: those of `Ledger.append`; `overloaded` when the claim cannot be settled.
    """
    asking = by.catalogue.find(call.tool.idempotency.reconcile or "")
    if asking is None:
        return False
    named = asking.input_schema.get("properties")
    known = named if isinstance(named, dict) else {}
    arguments = {name: value for name, value in {**call.arguments, KEY: told}.items() if name in known}
    outcome = await by.handle(
        Request(
            by.new_call_id(),
            asking.name,
            arguments,
            request.credential,
            call.caller.session.id,
            trace=request.trace,
            parent=request.parent,
            cause=there.call_id,
        )
    )
    said = outcome.structured
    found = said.get(_FOUND) if isinstance(said, dict) and outcome.status == "done" else None
    if not isinstance(found, bool):
        return False
    await by.ledger.append(_line(there, call, outcome, found))
    if not found:
        await by.claims.release(claim.key, there.call_id)
        return True
    session, tenant = call.caller.session.uid, call.caller.principal.tenant
    await by.claims.close(claim, there.call_id, _found(call, outcome), session, tenant)
    return True


def _line(there: Claimed, call: Call, outcome: Outcome, found: bool) -> Line:
    principal = call.caller.principal
    said: dict[str, Json] = {
        "call_id": there.call_id,
        "as": "done" if found else "not-done",
        "asked": outcome.call_id,
        "session_id": call.caller.session.id,
        "tenant": principal.tenant,
        "principal": {"agent": principal.agent, "user": principal.user},
        "tool": {"name": call.tool.name},
    }
    return Line("call.reconciled", said)


def _found(call: Call, outcome: Outcome) -> bytes:
    """What a repeat is told: the result, as far as the tool that was asked has it, and in the form that is declared.

    It has the labels that it would have had from the tool itself too: whoever is told it by another has read the same.
    """
    said = outcome.structured
    result = said.get(_RESULT) if isinstance(said, dict) else None
    failed: Problem | None = None
    check = call.tool.output_check
    if check is not None and (result is None or check.check(result)):
        result = None
        failed = problem("output_invalid", "The call was done; of its result, only what is above is known.")
    seen = outcome.verdict
    verdict = Verdict(seen.action, seen.labels | call.tool.labels | labels_of(call), seen.findings)
    return write_done(call.tool.name, outcome.text, result, verdict, failed)
