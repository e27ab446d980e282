"""The REST door's hot route: `POST /v1/tools/{name}/call`. Raw ASGI; it turns bytes into a `Request` and back."""

from __future__ import annotations

from typing import Protocol

from gateway import strictjson
from gateway.doors import render
from gateway.doors.asgi import (
    MAX_BODY,
    Head,
    Receive,
    Scope,
    Send,
    read_body,
    read_head,
    require_json,
    send_json,
    send_problem,
    while_connected,
)
from gateway.doors.limits import Reports, rate_headers, tokens_told
from gateway.model import Caller, Outcome, Problem, Refusal, Request
from gateway.problems import problem, refuse
from gateway.tool import Json


class Calls(Reports, Protocol):
    """What this door needs of the pipeline."""

    async def authenticate(self, credential: str | None, session: str | None) -> Caller: ...
    async def handle(self, request: Request) -> Outcome: ...
    def new_call_id(self) -> str: ...


class CallRoute:
    """One tool call. The caller is known before a byte of the body is read."""

    def __init__(self, gate: Calls) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send, tool: str) -> None:
        call_id = self._gate.new_call_id()
        try:
            if scope["method"] != "POST":
                raise refuse("method_not_allowed", "A tool is called with POST.")
            head = read_head(scope)
            caller = await self._known(head)
        except Refusal as refusal:
            await send_problem(send, refusal.problem, call_id)
            return
        arguments, defect = await _arguments(head, receive)
        untold = await tokens_told(self._gate, caller, head.get("toolgate-tokens"))
        trace = head.trace
        request = Request(
            call_id=call_id,
            tool=tool,
            arguments=arguments,
            credential=head.credential,
            session=head.get("toolgate-session"),
            idempotency_key=head.get("idempotency-key"),
            trace=trace,
            defect=defect or untold,
        )
        outcome = await while_connected(self._gate.handle(request), receive)
        if outcome is not None:
            await send_outcome(send, outcome, trace.trace_id if trace else None)

    async def _known(self, head: Head) -> Caller | None:
        """Refuses who is not known. A known caller in a session that is closed is for the pipeline to refuse."""
        try:
            return await self._gate.authenticate(head.credential, head.get("toolgate-session"))
        except Refusal as refusal:
            if refusal.principal is None:
                raise
            return None


async def _arguments(head: Head, receive: Receive) -> tuple[Json, Problem | None]:
    """The arguments of the body, or what is wrong with it: the refusal belongs on record, so the pipeline makes it."""
    try:
        require_json(head)
        body = await read_body(head, receive)
        said = strictjson.loads(body, max_bytes=MAX_BODY)
    except Refusal as refusal:
        return None, refusal.problem
    except strictjson.MalformedJson as error:
        return None, problem("malformed", f"The body is not strict JSON: {error}.")
    if not isinstance(said, dict) or set(said) != {"arguments"}:
        return None, problem("malformed", 'The body must be {"arguments": {…}} and nothing else.')
    return said["arguments"], None


async def send_outcome(send: Send, outcome: Outcome, trace_id: str | None) -> None:
    """Answers with an outcome: problem+json for a refusal, the outcome itself for everything that ran or waits.

    202 and where to look, for a call that waits for a person.
    """
    if outcome.status == "refused" and outcome.problem is not None:
        await send_problem(send, outcome.problem, outcome.call_id, trace_id, rate_headers(outcome.standings))
        return
    headers = [(b"toolgate-call-id", outcome.call_id.encode()), *rate_headers(outcome.standings)]
    if outcome.repeat:
        headers.append((b"idempotency-replayed", b"true"))
    parked = outcome.status == "parked"
    if parked:
        headers.append((b"location", f"/v1/calls/{outcome.call_id}".encode()))
    await send_json(send, 202 if parked else 200, render.outcome_json(outcome, trace_id), headers)
