"""Stage 7: rates, concurrency and declared state, taken together or not at all. It never takes what was not asked for.

The slot is given back when the call ends; what was reserved, and what a budget gave, is taken back only where nothing
was dispatched.
"""

from __future__ import annotations

import math

from gateway.aggregates import Ended, Reservation
from gateway.model import Call, Decision, Intent, Lease, Permit, Refusal, SafeOutput
from gateway.obligations import Limit
from gateway.ports import Clock, Counters, Sessions, Taken
from gateway.problems import problem, refuse
from gateway.tool import Rate

DEFAULT_CONCURRENCY = 256  # calls of one principal to one tool at a time
ROUNDS = 3  # decisions on one call, when other calls keep changing what they stand on


class StateChanged(Exception):
    """Another call changed what the decision read: decide again."""


class admit:
    """A lease for the time of the call: its concurrency slot is given back at the end, its rate is spent.

    What the call adds to the state that policy declares is reserved, and settled at the end: given back where nothing
    was dispatched, else kept, whatever came of it.

    Named like the other stages, which are functions: it is used as `async with admit(…) as lease`.

    Raises, on entering:
        Refusal: `budget_exhausted`, `session_closed`; `rate_limited` or `concurrency_limited`, with the time after
        which to call again.
        StateChanged: what the decision read of the past is not so any more; nothing was taken.
    """

    __slots__ = ("_clock", "_counters", "_ended", "_permit", "_reservation", "_sessions", "_slots")

    def __init__(self, permit: Permit, counters: Counters, sessions: Sessions, clock: Clock) -> None:
        self._slots = (slot(permit.decision.call),)
        self._permit, self._counters, self._sessions, self._clock = permit, counters, sessions, clock
        self._reservation = _reservation(permit)
        self._ended: Ended = "refused"

    async def __aenter__(self) -> Lease:
        decision = self._permit.decision
        call, obligations, tool = decision.call, decision.obligations, decision.call.tool
        started = self._clock.monotonic()
        self._sessions.take(call.caller.session, tool.cost)
        taken = self._counters.take(buckets(decision), self._slots, started, self._reservation)
        if taken.refused is not None:
            self._sessions.give_back(call.caller.session, tool.cost)
            raise StateChanged if taken.kind == "changed" else _refused(taken)
        deadline = started + min(tool.timeout, obligations.timeout or math.inf)
        if call.parent is not None:
            deadline = min(deadline, call.parent.intent.lease.deadline)
        return Lease(self._permit, deadline, self._reservation)

    def begins(self, intent: Intent) -> Intent:
        """Notes that from here on the call may happen, and gives its intent on.

        Raises `Refusal(session_closed)` when the session was closed while the intent was written.
        """
        if not self._sessions.is_open(intent.call.caller.session):
            raise refuse("session_closed", "The session was closed meanwhile.")
        self._ended = "failed"
        return intent

    def ended(self, safe: SafeOutput) -> SafeOutput:
        """Notes how the call ended, and gives its result on."""
        if safe.problem is None:
            self._ended = "done"
        return safe

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._counters.leave(self._slots)
        ended: Ended = "refused" if isinstance(error, Refusal) else self._ended
        if ended == "refused":
            call = self._permit.decision.call
            self._sessions.give_back(call.caller.session, call.tool.cost)
        if self._reservation is not None:
            self._counters.settle(self._reservation, ended)


def slot(call: Call) -> tuple[str, int]:
    """Whose calls of what share slots with this one, and how many there are."""
    return f"{call.caller.principal.key}\x1f{call.tool.name}", call.tool.concurrency or DEFAULT_CONCURRENCY


def buckets(decision: Decision) -> list[tuple[str, Rate]]:
    """The rates that a permitted call spends, by the keys of their buckets: those of its rules and of its tool."""
    call = decision.call
    found = [(_bucket(limit, call), limit.rate) for limit in decision.obligations.limits]
    if call.tool.rate:
        found.append((f"tool\x1f{call.caller.principal.key}\x1f{call.tool.name}", call.tool.rate))
    return found


def _reservation(permit: Permit) -> Reservation | None:
    decision = permit.decision
    if not (decision.reads or decision.reserves):
        return None
    return Reservation(decision.call.id, decision.call.now, decision.reads, decision.reserves)


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
    if taken.kind == "full":
        said = "This caller has had too many different values for the policy to keep apart."
        return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
    said = f"The rate limit is used up; call again in {wait_ms / 1000:.3g} s."
    return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
