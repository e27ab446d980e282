"""Stage 7: rates and concurrency, taken together or not at all, given back when the call ends."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.model import Call, Lease, Limit, Permit, Refusal
from gateway.ports import Clock, Counters, Taken
from gateway.problems import problem
from gateway.tool import Rate

DEFAULT_CONCURRENCY = 256  # calls of one principal to one tool at a time


@asynccontextmanager
async def admit(permit: Permit, counters: Counters, clock: Clock) -> AsyncIterator[Lease]:
    """A lease for the time of the call: its concurrency slot is given back at the end, its rate is spent.

    Raises:
        Refusal: `rate_limited` or `concurrency_limited`, with the time after which to call again.
    """
    call, obligations = permit.decision.call, permit.decision.obligations
    tool, principal = call.tool, call.caller.principal
    pair = f"{principal.key}\x1f{tool.name}"
    buckets: list[tuple[str, Rate]] = [(f"tool\x1f{pair}", tool.rate)] if tool.rate else []
    buckets += [(_bucket(limit, call), limit.rate) for limit in obligations.limits]
    slots = ((pair, tool.concurrency or DEFAULT_CONCURRENCY),)
    started = clock.monotonic()
    taken = counters.take(buckets, slots, started)
    if taken.refused is not None:
        raise _refused(taken)
    timeout = min(tool.timeout, obligations.timeout or math.inf)
    try:
        yield Lease(permit, started + timeout)
    finally:
        counters.leave(slots)


def _bucket(limit: Limit, call: Call) -> str:
    principal = call.caller.principal
    who = {
        "session": call.caller.session.uid,
        "agent": f"{principal.tenant}\x1f{principal.agent}",
        "user": f"{principal.tenant}\x1f{principal.user or principal.agent}",
        "tenant": principal.tenant,
    }[limit.key]
    return f"rule\x1f{limit.rule}\x1f{who}"


def _refused(taken: Taken) -> Refusal:
    wait_ms = max(1, math.ceil(taken.retry_after * 1000))
    if taken.kind == "concurrency":
        return Refusal(
            problem("concurrency_limited", "Too many calls of this tool are running.", retry_after_ms=wait_ms)
        )
    said = f"The rate limit is used up; call again in {wait_ms / 1000:.3g} s."
    return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
