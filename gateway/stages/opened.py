"""The open record of one call: what each stage gave so far, and how long it took. It writes nothing."""

from __future__ import annotations

import time
from typing import TypeVar

from gateway.admission import Standing
from gateway.model import (
    Call,
    Caller,
    Decision,
    Intent,
    Lease,
    Permit,
    Principal,
    Problem,
    Refusal,
    Request,
    SafeOutput,
)
from gateway.ports import Line
from gateway.tool import Tool

Seen = TypeVar("Seen", Caller, Tool, Call, Decision, Permit, Lease, Intent, SafeOutput)
# Which stage gives it, and where it is kept.
_SEEN: dict[type, tuple[str, str | None]] = {
    Caller: ("authenticate", "caller"),
    Tool: ("resolve", "tool"),
    Call: ("validate", "call"),
    Decision: ("decide", "decision"),
    Permit: ("approve", "permit"),
    Lease: ("admit", "lease"),
    Intent: ("record", "intent"),
    SafeOutput: ("screen", None),
}


class Opened:
    """The open record of one call: what each stage gave so far and how long it took (microseconds)."""

    __slots__ = (
        "_last",
        "beside",
        "call",
        "caller",
        "decision",
        "intent",
        "known",
        "lease",
        "limited",
        "notes",
        "now",
        "permit",
        "request",
        "standings",
        "started",
        "took",
        "tool",
    )

    def __init__(self, request: Request, now: float) -> None:
        self.request = request
        self.now = now
        self.started = self._last = time.perf_counter_ns()
        self.took: dict[str, int] = {}
        self.caller: Caller | None = None
        self.known: Principal | None = None
        self.tool: Tool | None = None
        self.decision: Decision | None = None
        self.permit: Permit | None = None
        self.lease: Lease | None = None
        self.intent: Intent | None = None
        self.call: Call | None = None
        self.standings: tuple[Standing, ...] = ()  # of the rates that it spent, or had no room in
        self.limited: str | None = None  # the name of the limit that refused it
        self.beside: list[Line] = []  # records of limits, to be written after its own
        self.notes: list[str] = []  # what its caller is told of limits

    def mark(self, stage: str) -> None:
        """Notes that `stage` ends now. Stages of a second round add to those of the first."""
        now = time.perf_counter_ns()
        self.took[stage] = self.took.get(stage, 0) + (now - self._last) // 1000
        self._last = now

    def saw(self, value: Seen) -> Seen:
        """Keeps what a stage gave, and gives it on."""
        stage, kept_as = _SEEN[type(value)]
        self.mark(stage)
        if kept_as is not None:
            setattr(self, kept_as, value)
        return value

    def refused(self, refusal: Refusal) -> Problem:
        """Keeps who was refused, and gives the problem on."""
        self.known = refusal.principal
        return refusal.problem

    @property
    def principal(self) -> Principal | None:
        """Who calls, with or without a session to call in; None when nobody is known to."""
        return self.caller.principal if self.caller else self.known

    def wall_ms(self) -> float:
        """Milliseconds since the record was opened."""
        return (time.perf_counter_ns() - self.started) // 1000 / 1000
