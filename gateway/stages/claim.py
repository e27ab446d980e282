"""Idempotency keys: which call a request is, and what came of it if it was made before. It never takes a claim.

`admit.py` takes it, together with all else; `record.py` keeps what came of the call. A repeat is answered from there
before policy is asked, and before anything that its first run used up could refuse it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, Protocol

from gateway import strictjson
from gateway.admission import Claim, Claimed
from gateway.model import Call, Outcome, Refusal, Request
from gateway.ports import Claims, Clock
from gateway.problems import TABLE, problem, refuse
from gateway.stages.kept import NotKept, Recalled, read, write
from gateway.stages.keys import client_key, digest, forwarded
from gateway.stages.opened import Opened
from gateway.stages.reconcile import Asking, reconcile

LONGEST = 255  # characters of a client's key
LASTS = 24 * 3600.0  # seconds for which a client's key is remembered
GRACE = 5.0  # seconds beyond its time in which a call that took a claim has surely ended
WAIT_MS = 500
# After these nobody knows what the backend did.
UNSURE = frozenset({"timeout", "upstream_error", "cancelled", "internal", "outcome_unknown"})


class Recalling(Asking, Protocol):
    """What it takes to say what came of a call."""

    @property
    def clock(self) -> Clock: ...


def claim_of(call: Call, request: Request) -> Claim | None:
    """The claim of a request with an idempotency key, or whose tool has one derived; None for any other.

    The key is the caller's own: tenant, agent and user are in it, and with a derived one the session.

    Raises:
        Refusal: `malformed` for a key that is not 1 to 255 printable ASCII characters.
    """
    given, derived = request.idempotency_key, call.tool.idempotency.derive
    if given is None and derived is None:
        return None
    principal, spelled = call.caller.principal.key, strictjson.canonical(call.arguments)
    fingerprint = digest("call", call.tool.name, spelled.decode())
    if given is None:
        key = digest("derived", principal, call.caller.session.uid, fingerprint)
        lasts = max(derived or 0.0, call.tool.timeout + GRACE)
        return Claim(key, fingerprint, forwarded(call.id), lasts)
    if not (0 < len(given) <= LONGEST and given.isascii() and given.isprintable()):
        raise refuse("malformed", f"Idempotency-Key must be 1 to {LONGEST} printable ASCII characters.")
    key = client_key(principal, given)
    return Claim(key, fingerprint, forwarded(key), LASTS)


async def recall(claim: Claim, call: Call, request: Request, asking: Recalling) -> Recalled | None:
    """What came of the call that has the claim; None when no call has it, so that this one may run.

    Raises:
        Refusal: `in_progress`, `key_reused`, `outcome_unknown`; `overloaded` when it cannot be looked up.
    """
    there = await _known(claim, asking)
    if there is None or there.state == "done":
        return _kept(claim, there)
    if not await _settled(claim, there, call, request, asking):
        raise _unknown(there)
    there = await _known(claim, asking)
    if there is not None and there.state == "unknown":
        raise _unknown(there)
    return _kept(claim, there)


async def _known(claim: Claim, asking: Recalling) -> Claimed | None:
    """Who has the claim, once nothing runs under it any more."""
    there = await asking.claims.find(claim.key)
    if there is None:
        return None
    if there.fingerprint != claim.fingerprint:
        raise refuse("key_reused", "This Idempotency-Key was used for another tool or other arguments.")
    if there.state == "in_progress" and asking.clock.steady() < there.until:
        said = "A call with this key is under way; its outcome will be the answer to this one too."
        raise refuse("in_progress", said, retry_after_ms=WAIT_MS)
    return there


async def _settled(claim: Claim, there: Claimed, call: Call, request: Request, asking: Recalling) -> bool:
    """Whether it is known by now what came of a call that may have happened."""
    if call.tool.idempotency.reconcile is not None:
        told = claim.forwarded if request.idempotency_key is not None else forwarded(there.call_id)
        return await reconcile(claim, there, told, call, request, asking)
    if call.tool.idempotent:  # to run it once more changes nothing
        await asking.claims.release(claim.key, there.call_id)
        return True
    return False


async def keep(opened: Opened, status: str, outcome: Outcome | None, claims: Claims) -> None:
    """Keeps what came of a call for its repeats, before anybody is answered. `outcome`: None when it is not on record.

    A call of an idempotent tool that may as well be made again leaves its key free. Where a store cannot be told, it is
    as soon as it can be; till then the claim is under way for all one knows, is given up on in time, and then in doubt.
    """
    if opened.lease is None or (claim := opened.lease.ask.claim) is None or status not in ("done", "failed"):
        return
    call = opened.lease.permit.decision.call
    with suppress(Refusal):
        fate = _fate(call, outcome)
        if fate == "free":
            await claims.release(claim.key, call.id)
            return
        if fate == "done" and outcome is not None:
            session, tenant = call.caller.session.uid, call.caller.principal.tenant
            await claims.close(claim, call.id, write(outcome), session, tenant)
            return
        await claims.doubt(claim, call.id)


def _fate(call: Call, outcome: Outcome | None) -> Literal["done", "free", "doubt"]:
    if outcome is None:
        return "doubt"
    code = outcome.problem.code if outcome.problem else None
    if code is None:
        return "done"
    if call.tool.idempotent and (code in UNSURE or TABLE[code].retryable):
        return "free"
    return "doubt" if code in UNSURE and call.tool.idempotency.reconcile else "done"


def _kept(claim: Claim, there: Claimed | None) -> Recalled | None:
    if there is None:
        return None
    try:
        return read(there.call_id, claim.key, there.kept)
    except NotKept:
        said = f"The call was made ({there.call_id}), but what came of it is not kept any more."
        raise refuse("outcome_unknown", said) from None


def _unknown(there: Claimed) -> Refusal:
    said = f"This very call was made before ({there.call_id}); it may have happened, and how it ended is not known."
    advice = "Do not repeat it under another key. First check, by other means, what it did; an operator can settle it."
    return Refusal(problem("outcome_unknown", said, advice=advice))
