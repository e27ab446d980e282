"""Whether an agent goes round in circles: calls of one session that bring nothing new, one after the other.

A call is new when the session has not made it lately, or when it ends otherwise than it did before. A run of calls none
of which is new is a loop, whether it is one call again and again or several in turn. Only what this process saw counts;
what it keeps is bounded, and what nobody did for `FORGOTTEN` seconds is forgotten. It reads no clock and stops nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

SESSIONS = 2_000  # whose calls are remembered
CALLS = 32  # different ones that are remembered of a session: no longer circle is seen
FORGOTTEN = 600.0  # seconds
WORN = 10  # times `repeats`: how often calls that are known may be made whatever they give
PAUSE = 1.0  # seconds between calls of a run that is near its end


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has grown long: `times` calls were made in it, this one included, of which `calls` are different.

    `warn`: the call goes on, and its caller is told. `cool`: it comes too soon after the one before, and may be made
    again in `wait` seconds. `halt`: no more of it. `worn`: the results changed, the calls did not.
    """

    kind: Literal["warn", "cool", "halt"]
    times: int
    calls: int
    tools: tuple[str, ...]
    worn: bool = False
    wait: float = 0.0


class _Session:
    """The calls of one session: what each gave, oldest first, and how many there were since the last new one."""

    __slots__ = ("at", "known", "parts", "same", "stale")

    def __init__(self) -> None:
        self.known: dict[int, int | None] = {}  # what a call gave last; None until it has ended
        self.parts: dict[int, str] = {}  # the calls since the last that was new in any way, with their tools
        self.stale = 0  # how many they are, by now
        self.same = 0  # calls since the last with new arguments
        self.at = -math.inf  # when the last one began


class Loops:
    """The runs of many sessions. A call is a number that stands for its tool and arguments, a result one for what it
    gave; equal ones are taken to be the same."""

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def begin(self, session: str, call: int, tool: str, repeats: int, now: float) -> Run | None:
        """Counts a call that is about to be made; what is to be said of it, where it is one of a long run.

        `repeats` is the most that a run may have; `now` is in seconds and never goes back.
        """
        there = self._session(session, now)
        before, there.at = there.at, now
        if call not in there.known:
            if len(there.known) >= CALLS:
                del there.known[next(iter(there.known))]
            there.known[call] = None
            there.parts, there.stale, there.same = {call: tool}, 1, 1
            return None
        there.known[call] = there.known.pop(call)  # the one made last stands last
        there.parts[call] = tool
        there.stale += 1
        there.same += 1
        if there.stale * 2 < repeats and there.same <= WORN * repeats:
            return None
        return _judged(there, repeats, now - before)

    def end(self, session: str, call: int, result: int) -> None:
        """The call ended, with that result: another one than before begins a new run."""
        there = self._sessions.get(session)
        if there is None or call not in there.known:
            return
        before = there.known[call]
        there.known[call] = result
        if before is not None and before != result:
            there.parts, there.stale = {call: there.parts.get(call, "")}, 1

    def back(self, session: str, call: int) -> None:
        """The call was not made after all."""
        there = self._sessions.get(session)
        if there is not None and call in there.parts:
            there.stale = max(0, there.stale - 1)
            there.same = max(0, there.same - 1)

    def _session(self, session: str, now: float) -> _Session:
        there = self._sessions.pop(session, None)
        if there is None or now - there.at > FORGOTTEN:
            there = _Session()
        self._sessions[session] = there
        if len(self._sessions) > SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return there


def _judged(there: _Session, repeats: int, since: float) -> Run | None:
    of = len(there.parts), tuple(dict.fromkeys(there.parts.values()))
    if there.stale > repeats:
        return Run("halt", there.stale, *of)
    if there.same > WORN * repeats:
        return Run("halt", there.same, *of, worn=True)
    if there.stale == max(2, -(-repeats // 2)):
        return Run("warn", there.stale, *of)
    if there.stale * 5 > repeats * 4 and since < PAUSE:
        return Run("cool", there.stale, *of, wait=PAUSE - since)
    return None
