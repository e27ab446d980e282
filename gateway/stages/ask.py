"""Everything that a permitted call asks for before it may run, as one `Ask`. Pure: it takes and refuses nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gateway.admission import PARTIAL, UNITS, Account, Amounts, Ask, Bounds, Bucket, Claim, Dimension, Slot
from gateway.aggregates import Reservation
from gateway.model import Call, Decision, Permit, Session
from gateway.obligations import Limit
from gateway.reliability.budgets import accounts
from gateway.tool import Rate, SandboxBackend

NO_BOUNDS = Bounds()
SETTINGS = "limits-"  # how the names of rates begin that settings ask for
GRACE = 5.0  # seconds beyond its deadline after which a call that nobody ended has surely ended


def ask_of(permit: Permit, claim: Claim | None, line: Sequence[Session], bounds: Bounds, now: float) -> Ask:
    """Everything that a permitted call asks for."""
    decision = permit.decision
    call, tool, session = decision.call, decision.call.tool, decision.call.caller.session
    drawn = accounts(line or (session,), call.caller.principal, bounds, now)
    return Ask(
        call_id=call.id,
        now=now,
        lasts=tool.timeout + GRACE,
        buckets=buckets(decision, bounds),
        slots=slots(call, bounds),
        accounts=drawn,
        wants=_wants(permit, drawn) if drawn else {},
        claim=claim,
        seen=(session.uid, session.version),
        reservation=_reservation(permit),
        effects=tool.effects != {"read"},
    )


def slots(call: Call, bounds: Bounds = NO_BOUNDS) -> tuple[Slot, ...]:
    """The places that a call takes: among those of its caller and tool, and, but for nested calls, of the tool."""
    own = Slot(f"{call.caller.principal.key}\x1f{call.tool.name}", call.tool.concurrency or bounds.concurrency)
    return (own,) if call.parent is not None else (own, Slot(f"tool\x1f{call.tool.name}", bounds.bulkhead))


def buckets(decision: Decision, bounds: Bounds = NO_BOUNDS) -> tuple[Bucket, ...]:
    """The rates that a permitted call spends: those of its rules, of its tool, and of the settings.

    The first part of a key says which kind it is, so that no two owners share a bucket, whatever they are called.
    """
    call, limits = decision.call, decision.obligations.limits
    found = [Bucket(_of_rule(limit, call), limit.rate, f"rule-{limit.rule}") for limit in limits]
    principal = call.caller.principal
    if call.tool.rate:
        found.append(Bucket(f"tool\x1f{principal.key}\x1f{call.tool.name}", call.tool.rate, "tool"))
    if bounds.rates:
        found += _of_settings(call, bounds.rates)
    return tuple(found)


def _of_settings(call: Call, rates: Mapping[str, Rate]) -> list[Bucket]:
    principal = call.caller.principal
    owners = {
        "tool": f"{principal.key}\x1f{call.tool.name}",
        "session": call.caller.session.uid,
        "principal": principal.key,
        "tenant": principal.tenant,
        "all": "",
    }
    return [Bucket(f"limits\x1f{over}\x1f{owners[over]}", rate, f"{SETTINGS}{over}") for over, rate in rates.items()]


def _wants(permit: Permit, drawn: Sequence[Account]) -> Amounts:
    """What a call may use up at most, of what is bounded.

    A nested one takes neither time nor bytes: the call around it, whose deadline it has, took its time with its own,
    and what it gives goes to code, not to whoever called.
    """
    call, obligations = permit.decision.call, permit.decision.obligations
    most = min(call.tool.timeout, obligations.timeout or math.inf)
    cost = math.ceil(call.tool.cost * UNITS["cost"] - 1e-6)  # up, so that many small ones are not for nothing
    wants: dict[Dimension, int] = {"calls": 1, "cost": cost}
    if call.parent is None:
        wants["wall"] = math.ceil(most * 1000)
        limit = call.tool.output_limit
        wants["bytes"] = limit if obligations.output is None else min(limit, obligations.output)
        if isinstance(call.tool.backend, SandboxBackend):
            wants["sandbox"] = math.ceil(min(most, float(call.tool.backend.limits.get("wall", most))) * 1000)
    bounded = {name for account in drawn for name in account.most} | {"calls", "cost"}
    return {name: amount for name, amount in wants.items() if name in bounded or name not in PARTIAL}


def _reservation(permit: Permit) -> Reservation | None:
    decision = permit.decision
    if not (decision.reads or decision.reserves):
        return None
    return Reservation(decision.call.id, decision.call.now, decision.reads, decision.reserves)


def _of_rule(limit: Limit, call: Call) -> str:
    principal = call.caller.principal
    if limit.key == "session":
        who = call.caller.session.uid
    elif limit.key == "agent":
        who = f"{principal.tenant}\x1f{principal.agent}"
    elif limit.key == "user":
        who = f"{principal.tenant}\x1f{principal.user or ''}\x1f{'' if principal.user else principal.agent}"
    else:
        who = principal.tenant
    return f"rule\x1f{limit.rule}\x1f{limit.key}\x1f{who}"
