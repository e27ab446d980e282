"""The calls that are made in the course of another one: put in at the front of the line, so that nothing goes out
unjudged. It never makes the proof that it is given (`execute.py` does), nor judges a call itself.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway import strictjson
from gateway.model import Outcome, Parent, Problem, Request
from gateway.problems import problem, text
from gateway.tool import Json, Labels
from gateway.work import NestedRefusal

HOST_CALLS = 64  # nested calls of a tool whose spec names no number, those of its nested code counted in
MAX_ARGUMENTS = 1024 * 1024  # bytes of a nested call's arguments
NO_LABELS: Labels = frozenset()


class Entry(Protocol):
    """Where calls go in: the line of stages (`pipeline.Gate`)."""

    async def handle(self, request: Request) -> Outcome: ...
    def new_call_id(self) -> str: ...


class Nested:
    """The calls that the code of one call makes, or that are made instead of it; implements `work.Calls`.

    Each goes through all ten stages with that call as its parent. `labels` are those of every result so far.
    """

    __slots__ = ("_entry", "_parent", "_request", "_running", "labels")

    def __init__(self, parent: Parent, request: Request, entry: Entry) -> None:
        self._parent, self._request, self._entry = parent, request, entry
        self._running: set[asyncio.Task[object]] = set()
        self.labels = NO_LABELS

    async def call(self, name: str, arguments: bytes) -> bytes:
        """The result as JSON: the structured part when there is one, else the text. Raises NestedRefusal."""
        outcome = await self.outcome(name, *read_arguments(arguments))
        return answer(outcome.text, outcome.structured, outcome.problem, truncated=outcome.truncated)

    async def outcome(self, name: str, arguments: Json, defect: Problem | None = None) -> Outcome:
        """What one call came to. Raises NestedRefusal when there may be no more."""
        allowance = self._parent.allowance
        if allowance.left <= 0:
            raise spent()
        allowance.left -= 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            outcome = await self._entry.handle(self._asked(name, arguments, defect))
        finally:
            self._running.discard(task)
        self.labels |= outcome.verdict.labels
        if task.cancelling():
            # The line turned it into an outcome, which is on record now; whoever cancelled us must still hear of it.
            raise asyncio.CancelledError
        return outcome

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

    def _asked(self, name: str, arguments: Json, defect: Problem | None) -> Request:
        return Request(
            self._entry.new_call_id(),
            name,
            arguments,
            self._request.credential,
            self._parent.intent.call.caller.session.id,
            trace=self._request.trace,
            defect=defect,
            parent=self._parent,
        )


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
