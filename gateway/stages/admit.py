"""Stage 7: rates and concurrency, taken together or not at all, given back when the call ends."""

from __future__ import annotations

import math

from gateway.model import Call, Lease, Limit, Permit, Refusal
from gateway.ports import Clock, Counters, Taken
from gateway.problems import problem

DEFAULT_CONCURRENCY = 256  # calls of one principal to one tool at a time


class admit:
    """A lease for the time of the call: its concurrency slot is given back at the end, its rate is spent.

    Named like the other stages, which are functions: it is used as `async with admit(…) as lease`.

    Raises, on entering:
        Refusal: `rate_limited` or `concurrency_limited`, with the time after which to call again.
    """

    __slots__ = ("_clock", "_counters", "_permit", "_slots")

    def __init__(self, permit: Permit, counters: Counters, clock: Clock) -> None:
        call = permit.decision.call
        pair = f"{call.caller.principal.key}\x1f{call.tool.name}"
        self._slots = ((pair, call.tool.concurrency or DEFAULT_CONCURRENCY),)
        self._permit, self._counters, self._clock = permit, counters, clock

    async def __aenter__(self) -> Lease:
        call, obligations = self._permit.decision.call, self._permit.decision.obligations
        tool = call.tool
        buckets = [(_bucket(limit, call), limit.rate) for limit in obligations.limits]
        if tool.rate:
            buckets.append((f"tool\x1f{self._slots[0][0]}", tool.rate))
        started = self._clock.monotonic()
        taken = self._counters.take(buckets, self._slots, started)
        if taken.refused is not None:
            raise _refused(taken)
        deadline = started + min(tool.timeout, obligations.timeout or math.inf)
        if call.parent is not None:
            deadline = min(deadline, call.parent.intent.lease.deadline)
        return Lease(self._permit, deadline)

    async def __aexit__(self, *_: object) -> None:
        self._counters.leave(self._slots)


def _bucket(limit: Limit, call: Call) -> str:
    principal = call.caller.principal
    if limit.key == "session":
        who = call.caller.session.uid
    elif limit.key == "agent":
        who = f"{principal.tenant}\x1f{principal.agent}"
    elif limit.key == "user":
        who = f"{principal.tenant}\x1f{principal.user or principal.agent}"
    else:
        who = principal.tenant
    return f"rule\x1f{limit.rule}\x1f{who}"


def _refused(taken: Taken) -> Refusal:
    wait_ms = max(1, math.ceil(taken.retry_after * 1000))
    if taken.kind == "concurrency":
        return Refusal(
            problem("concurrency_limited", "Too many calls of this tool are running.", retry_after_ms=wait_ms)
        )
    said = f"The rate limit is used up; call again in {wait_ms / 1000:.3g} s."
    return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
