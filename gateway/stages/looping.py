"""A call as one of a run that may be a loop: when it may go on, and what its caller is told. It counts nothing itself.

Calls that code in a sandbox makes do not count, nor those made for another call: no model chose them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway import strictjson
from gateway.model import Call, Refusal, SafeOutput
from gateway.ports import Line
from gateway.problems import problem
from gateway.reliability.loops import Loops, Run
from gateway.stages.opened import Opened

_ADVICE = (
    "Stop: do not make this call again. Use the results you have, change the arguments, go another way, or tell the "
    "person what you are missing."
)


@dataclass(slots=True)
class Turn:
    """One call, as the loops of its session count it."""

    call: Call
    opened: Opened
    loops: Loops
    repeats: int
    number: int | None = None  # of the call, while it counts

    def begin(self, now: float) -> None:
        """Counts the call. `now` is in monotonic seconds.

        Raises:
            Refusal: `loop_detected`; `rate_limited` when it comes too soon for a run that is that long.
        """
        call = self.call
        if call.parent is not None or self.opened.request.cause is not None:
            return
        self.number = hash((call.tool.digest, strictjson.canonical(call.arguments)))
        run = self.loops.begin(call.caller.session.uid, self.number, call.tool.name, self.repeats, now)
        if run is not None:
            self._long(run)

    def _long(self, run: Run) -> None:
        opened, told = self.opened, words(run)
        if run.kind == "warn":
            said = f"{told} It is stopped after {self.repeats} of them: go on only if this leads anywhere."
            opened.notes.append(said)
            opened.beside.append(_line(self.call, run))
            return
        opened.limited = "loop"
        if run.kind == "cool":
            wait_ms = max(1, math.ceil(run.wait * 1000))
            said = f"{told} It is stopped after {self.repeats} of them, and until then slowed down."
            raise Refusal(problem("rate_limited", said, retry_after_ms=wait_ms, advice=_ADVICE))
        raise Refusal(problem("loop_detected", told, advice=_ADVICE))

    def end(self, safe: SafeOutput) -> None:
        """The call has that result."""
        if self.number is not None:
            structured = b"" if safe.text or safe.structured is None else strictjson.canonical(safe.structured)
            failed = safe.problem.code if safe.problem else ""
            self.loops.end(self.call.caller.session.uid, self.number, hash((safe.text, structured, failed)))

    def back(self) -> None:
        """The call was not made after all."""
        if self.number is not None:
            self.loops.back(self.call.caller.session.uid, self.number)


def words(run: Run) -> str:
    """What was repeated, and how often."""
    named = ", ".join(f"`{name}`" for name in run.tools[:8])
    if run.worn:
        return (
            f"None of the last {run.times} calls of this session, now of {named}, had arguments it had not had before."
        )
    if run.calls == 1:
        same = "with the same arguments, and gave the same result each time"
        return f"The tool {named} was asked for {run.times} times in a row {same}."
    return (
        f"The last {run.times} calls of this session go round in a circle of {run.calls} ({named}), with the same "
        f"arguments and the same results each time."
    )


def _line(call: Call, run: Run) -> Line:
    principal, session = call.caller.principal, call.caller.session
    return Line(
        "loop.warned",
        {
            "call_id": call.id,
            "session_id": session.id,
            "tenant": principal.tenant,
            "principal": {"agent": principal.agent, "user": principal.user},
            "tools": list(run.tools),
            "times": run.times,
        },
    )
