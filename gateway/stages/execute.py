"""Stage 8: the work itself, by the runner of the tool's backend, until the deadline.

What the work calls is a call again, and so is what runs instead of it when its backend is out: neither goes out
unjudged, and neither has more rights, budget or time than the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from gateway.model import Allowance, Failure, Holder, Intent, Parent, RawOutput, Refusal, Request
from gateway.ports import Artifacts, Clock, Runner
from gateway.problems import problem, refuse
from gateway.reliability.resilience import Resilience, instead, refused_too
from gateway.reliability.retry import NOTHING_SENT
from gateway.stages.attempts import attempted
from gateway.stages.inputs import read_inputs
from gateway.stages.keys import key_of
from gateway.stages.nested import HOST_CALLS, NO_LABELS, Entry, Nested
from gateway.tool import Backend, SandboxBackend
from gateway.work import NestedRefusal, Work

# Runners end by themselves at the deadline and say more about it; this is for one that does not.
GRACE = 0.075  # seconds
_OUT = NOTHING_SENT | {"breaker_open"}


async def execute(
    intent: Intent,
    request: Request,
    entry: Entry,
    runners: Mapping[type[Backend], Runner],
    artifacts: Artifacts,
    clock: Clock,
    resilience: Resilience | None = None,
) -> RawOutput:
    """What the tool gave. A tool that failed is an output too, with its problem in it.

    Without `resilience` there is one attempt, whatever the tool's spec says.

    Raises:
        Refusal: nothing ran or was sent (`sandbox_unavailable`, `upstream_unreachable`, `breaker_open`,
        `egress_denied`, …).
    """
    runner = runners.get(type(intent.call.tool.backend))
    if runner is None:
        raise refuse("sandbox_unavailable", "Nothing here can run this kind of tool.")
    nested = _nested(intent, request, entry)
    files = await read_inputs(intent.call, artifacts)
    attempt = partial(_attempt, runner, intent, request, nested, files, clock)
    if resilience is None:
        return await attempt(intent.lease.deadline)
    try:
        return await attempted(attempt, intent, resilience, clock)
    except Refusal as refusal:
        if intent.call.tool.fallback is None or refusal.problem.code not in _OUT:
            raise
        return await _fallback(intent.call.tool.fallback, refusal, intent, request, entry)


async def _attempt(
    runner: Runner,
    intent: Intent,
    request: Request,
    nested: Nested | None,
    files: Mapping[str, bytes],
    clock: Clock,
    deadline: float,
) -> RawOutput:
    """One attempt, until a deadline no later than that of the call. Each has the same call id and key."""
    call = intent.call
    work = Work(
        call_id=call.id,
        tool=call.tool,
        arguments=call.arguments,
        tenant=call.caller.principal.tenant,
        deadline=deadline,
        now=call.now,
        seed=call.seed,
        require=intent.obligations.require,
        files=files,
        networks=_networks(intent),
        calls=nested,
        depth=request.parent.depth if request.parent else 0,
        holder=Holder(call.caller, call.id, call.tool.name, request.credential),
        key=key_of(call, intent.lease.ask.claim),
        etag=_previewed(intent),
    )
    try:
        async with asyncio.timeout(deadline - clock.monotonic() + GRACE):
            return await runner.run(work)
    except Failure as failure:
        failed = failure.problem
    except TimeoutError:
        failed = problem("timeout", "The tool did not finish in the time it has.")
    finally:
        if nested is not None:
            await nested.end()
    return RawOutput("", problem=failed, labels=nested.labels if nested else NO_LABELS)


async def _fallback(name: str, refusal: Refusal, intent: Intent, request: Request, entry: Entry) -> RawOutput:
    """What the tool that stands in gave, with the arguments as they came: a call of its own, decided on its own.

    Raises:
        Refusal: that of the call itself, when its fallback was refused too, or a person has to be asked about it first.
    """
    try:
        calls = Nested(_parent(intent, request, instead=True), request, entry)
        outcome = await calls.outcome(name, request.arguments)
    except NestedRefusal:
        raise refusal from None
    if outcome.problem is not None and outcome.status in ("refused", "parked"):
        raise Refusal(refused_too(refusal.problem, name, outcome.problem))
    return instead(outcome)


def _previewed(intent: Intent) -> str | None:
    """What identifies that which people were shown before they said yes."""
    approval = intent.lease.permit.approval
    return approval.preview.etag if approval and approval.preview else None


def _networks(intent: Intent) -> tuple[tuple[str, ...], ...]:
    """Where the call may go at most: as its permits say, and those of every call around it."""
    lists = dict.fromkeys(intent.obligations.networks)
    while intent.call.parent is not None:
        intent = intent.call.parent.intent
        lists.update(dict.fromkeys(intent.obligations.networks))
    return tuple(lists)


def _nested(intent: Intent, request: Request, entry: Entry) -> Nested | None:
    """The way back in, for tools whose code may use one."""
    backend = intent.call.tool.backend
    if not (isinstance(backend, SandboxBackend) and (backend.tools or backend.network)):
        return None
    return Nested(_parent(intent, request), request, entry)


def _parent(intent: Intent, request: Request, *, instead: bool = False) -> Parent:
    above, backend = request.parent, intent.call.tool.backend
    if above is not None:
        return Parent(intent, above.depth + 1, above.allowance, instead)
    limits = backend.limits if isinstance(backend, SandboxBackend) else {}
    return Parent(intent, 1, Allowance(int(limits.get("host_calls", HOST_CALLS))), instead)
