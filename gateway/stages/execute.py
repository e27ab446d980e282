"""Stage 8: the work itself, by the runner of the tool's backend, until the deadline. It never retries.

What the work calls is a call again: `Nested` puts it in at the front of the line, so that nothing goes out unjudged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from gateway import strictjson
from gateway.model import Allowance, Failure, Holder, Intent, Outcome, Parent, Problem, RawOutput, Request
from gateway.ports import Artifacts, Clock, Runner
from gateway.problems import problem, refuse, text
from gateway.stages.inputs import read_inputs
from gateway.stages.keys import key_of
from gateway.tool import Backend, Json, Labels, SandboxBackend
from gateway.work import NestedRefusal, Work

# Runners end by themselves at the deadline and say more about it; this is for one that does not.
GRACE = 0.075  # seconds
HOST_CALLS = 64  # nested calls of a tool whose spec names no number, those of its nested code counted in
MAX_ARGUMENTS = 1024 * 1024  # bytes of a nested call's arguments
_NO_LABELS: Labels = frozenset()


class Entry(Protocol):
    """Where calls go in: the line of stages (`pipeline.Gate`)."""

    async def handle(self, request: Request) -> Outcome: ...
    def new_call_id(self) -> str: ...


async def execute(
    intent: Intent,
    request: Request,
    entry: Entry,
    runners: Mapping[type[Backend], Runner],
    artifacts: Artifacts,
    clock: Clock,
) -> RawOutput:
    """What the tool gave. A tool that failed is an output too, with its problem in it.

    Raises:
        Refusal: nothing ran or was sent (`sandbox_unavailable`, `upstream_unreachable`, `egress_denied`, …).
    """
    call = intent.call
    runner = runners.get(type(call.tool.backend))
    if runner is None:
        raise refuse("sandbox_unavailable", "Nothing here can run this kind of tool.")
    tool, deadline = call.tool, intent.lease.deadline
    nested = _nested(intent, request, entry)
    work = Work(
        call_id=call.id,
        tool=tool,
        arguments=call.arguments,
        tenant=call.caller.principal.tenant,
        deadline=deadline,
        now=call.now,
        seed=call.seed,
        require=intent.obligations.require,
        files=await read_inputs(call, artifacts),
        networks=_networks(intent),
        calls=nested,
        depth=request.parent.depth if request.parent else 0,
        holder=Holder(call.caller, call.id, tool.name, request.credential),
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
    return RawOutput("", problem=failed, labels=nested.labels if nested else _NO_LABELS)


class Nested:
    """The calls that the code of one call makes; implements `work.Calls`.

    Each goes through all ten stages with that call as its parent. `labels` are those of every result so far.
    """

    __slots__ = ("_entry", "_parent", "_request", "_running", "labels")

    def __init__(self, parent: Parent, request: Request, entry: Entry) -> None:
        self._parent, self._request, self._entry = parent, request, entry
        self._running: set[asyncio.Task[object]] = set()
        self.labels = _NO_LABELS

    async def call(self, name: str, arguments: bytes) -> bytes:
        """The result as JSON: the structured part when there is one, else the text. Raises NestedRefusal."""
        allowance = self._parent.allowance
        if allowance.left <= 0:
            raise spent()
        allowance.left -= 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            outcome = await self._entry.handle(self._asked(name, arguments))
        finally:
            self._running.discard(task)
        self.labels |= outcome.verdict.labels
        if task.cancelling():
            # The line turned it into an outcome, which is on record now; whoever cancelled us must still hear of it.
            raise asyncio.CancelledError
        return answer(outcome.text, outcome.structured, outcome.problem, truncated=outcome.truncated)

    async def end(self) -> None:
        """Cancels what still runs, and waits until it is on record: a call ends after those that it made."""
        cancelled = False
        for task in self._running:
            task.cancel()
        while self._running:
            try:
                await asyncio.wait(self._running)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    def _asked(self, name: str, arguments: bytes) -> Request:
        sent, defect = read_arguments(arguments)
        return Request(
            self._entry.new_call_id(),
            name,
            sent,
            self._request.credential,
            self._parent.intent.call.caller.session.id,
            trace=self._request.trace,
            defect=defect,
            parent=self._parent,
        )


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
    backend, above = intent.call.tool.backend, request.parent
    if not (isinstance(backend, SandboxBackend) and (backend.tools or backend.network)):
        return None
    if above is not None:
        return Nested(Parent(intent, above.depth + 1, above.allowance), request, entry)
    return Nested(Parent(intent, 1, Allowance(int(backend.limits.get("host_calls", HOST_CALLS)))), request, entry)


def spent() -> NestedRefusal:
    """What code is told that has caused as many calls as it may; no record is made of it."""
    return NestedRefusal(text(problem("sandbox_limit", "The code has caused as many calls as it may.")))


def read_arguments(arguments: bytes) -> tuple[Json, Problem | None]:
    """What code sent as arguments, or what is wrong with it, so that it is refused on record."""
    try:
        return strictjson.loads(arguments, max_bytes=MAX_ARGUMENTS), None
    except strictjson.TooLarge as bad:
        return None, problem("too_large", f"The arguments are too large: {bad}.")
    except strictjson.MalformedJson as bad:
        return None, problem("malformed", f"The arguments are not strict JSON: {bad}.")


def answer(shown: str, structured: Json, failed: Problem | None, *, truncated: bool) -> bytes:
    """What code gets of an outcome, as JSON. Raises `NestedRefusal` for a problem, and for half a result."""
    if failed is not None:
        words = (shown.rstrip("\n"), text(failed))
        raise NestedRefusal("\n".join(part for part in words if part))
    if structured is not None:
        return strictjson.canonical(structured)
    if truncated:  # a program would take the beginning for the whole
        raise NestedRefusal(text(problem("output_too_large", "The result is larger than this call may give.")))
    return strictjson.canonical(shown)
