"""Stage 8: the work itself, by the runner of the tool's backend, until the deadline. It never retries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.model import Failure, Intent, RawOutput
from gateway.ports import Clock, Runner
from gateway.problems import problem, refuse
from gateway.tool import Backend
from gateway.work import Work

# Runners end by themselves at the deadline and say more about it; this is for one that does not.
GRACE = 0.075  # seconds


async def execute(intent: Intent, runners: Mapping[type[Backend], Runner], clock: Clock) -> RawOutput:
    """What the tool gave. A tool that failed is an output too, with its problem in it.

    Raises:
        Refusal: nothing ran or was sent (`sandbox_unavailable`, `upstream_unreachable`, `egress_denied`, …).
    """
    call = intent.call
    runner = runners.get(type(call.tool.backend))
    if runner is None:
        raise refuse("sandbox_unavailable", "Nothing here can run this kind of tool.")
    tool, deadline = call.tool, intent.lease.deadline
    work = Work(
        call_id=call.id,
        tool=tool,
        arguments=call.arguments,
        tenant=call.caller.principal.tenant,
        deadline=deadline,
        now=call.now,
        seed=call.seed,
        require=intent.obligations.require,
    )
    try:
        async with asyncio.timeout(deadline - clock.monotonic() + GRACE):
            return await runner.run(work)
    except Failure as failure:
        return RawOutput("", problem=failure.problem)
    except TimeoutError:
        return RawOutput("", problem=problem("timeout", "The tool did not finish in the time it has."))
