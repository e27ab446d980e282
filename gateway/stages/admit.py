"""Stage 7: rates, slots, budgets, declared state and the claim, taken together or not at all. It never decides again.

The slot is given back when the call ends; what was reserved is taken back only where nothing was dispatched, else what
was really spent counts.
"""

from __future__ import annotations

import math

from gateway import strictjson
from gateway.admission import Amounts, Ask, Bounds, Claim, Dimension, Taken
from gateway.aggregates import Ended
from gateway.model import Intent, Lease, Permit, RawOutput, Refusal, SafeOutput
from gateway.ports import Clock, Counters, Sessions
from gateway.problems import problem, refuse
from gateway.reliability.watch import Watch
from gateway.stages.ask import ask_of
from gateway.stages.looping import Turn
from gateway.stages.opened import Opened
from gateway.stages.warned import shortened, warn

ROUNDS = 3  # decisions on one call, when other calls keep changing what they stand on


class StateChanged(Exception):
    """Another call changed what the decision read: decide again."""

    def __init__(self, session: bool = False) -> None:
        super().__init__()
        self.session = session  # whether it is the session that is not as it was seen


class Held(Exception):
    """Another call took the claim meanwhile: look at what came of it."""


class admit:
    """A lease for the time of the call: its slots are given back at the end, its rates are spent.

    What the call adds to the state that policy declares, and what it may use up of budgets, is reserved, and settled at
    the end: given back where nothing was dispatched, else what was spent counts.

    Named like the other stages, which are functions: it is used as `async with admit(…) as lease`.

    Raises, on entering:
        Refusal: `budget_exhausted`, `session_closed`, `loop_detected`; `rate_limited` or `concurrency_limited`, with
        the time after which to call again; `overloaded` when the store cannot be asked.
        StateChanged: what the decision read of the past is not so any more; nothing was taken.
        Held: another call has the claim; nothing was taken.
    """

    __slots__ = (
        *("_ask", "_clock", "_counters", "_ended", "_opened", "_permit", "_sessions", "_spent", "_started", "_taken"),
        *("_turn", "_watch"),
    )

    def __init__(
        self,
        permit: Permit,
        claim: Claim | None,
        counters: Counters,
        sessions: Sessions,
        bounds: Bounds,
        clock: Clock,
        watch: Watch,
        opened: Opened,
    ) -> None:
        self._permit, self._counters, self._sessions, self._clock = permit, counters, sessions, clock
        self._watch, self._opened = watch, opened
        call = permit.decision.call
        self._ask = ask_of(permit, claim, sessions.line(call.caller.session.uid), bounds, clock.steady())
        self._turn = Turn(call, opened, watch.loops, bounds.repeats) if bounds.repeats else None
        self._taken = Taken()
        self._started = 0.0
        self._ended: Ended = "refused"
        self._spent: dict[Dimension, int] = {}

    async def __aenter__(self) -> Lease:
        call = self._permit.decision.call
        if not self._sessions.is_open(call.caller.session):
            raise refuse("session_closed", "The session was closed meanwhile.")
        self._started = self._clock.monotonic()
        if self._turn is not None:
            self._turn.begin(self._started)
        self._taken = taken = await self._counters.take(self._ask)
        self._opened.standings = taken.standings
        if taken.kind is not None:
            self._take_back()
            self._opened.limited = _limit(taken, self._ask)
            raise _refused(taken, self._opened.limited)
        self._spent = dict(taken.granted)  # until it is measured, as whoever cannot be has used all of it up
        return Lease(self._permit, self._deadline(), self._ask, taken)

    def _take_back(self) -> None:
        if self._turn is not None:
            self._turn.back()

    def _deadline(self) -> float:
        call, obligations = self._permit.decision.call, self._permit.decision.obligations
        times = [call.tool.timeout, obligations.timeout or math.inf]
        times += [amount / 1000 for name, amount in self._taken.granted.items() if name in ("wall", "sandbox")]
        deadline = self._started + min(times)
        return deadline if call.parent is None else min(deadline, call.parent.intent.lease.deadline)

    def begins(self, intent: Intent) -> Intent:
        """Notes that from here on the call may happen, and gives its intent on.

        Raises `Refusal(session_closed)` when the session was closed while the intent was written.
        """
        if not self._sessions.is_open(intent.call.caller.session):
            raise refuse("session_closed", "The session was closed meanwhile.")
        self._ended = "failed"
        return intent

    def gave(self, raw: RawOutput) -> RawOutput:
        """Notes what the work took, and gives its output on."""
        wall = math.ceil((self._clock.monotonic() - self._started) * 1000)
        # A sandbox that was given up on says nothing, and may have run all the time; nothing ran for a kept result.
        unsaid = wall if raw.attempts else 0
        took: Amounts = {"wall": wall, "sandbox": unsaid if raw.sandbox_ms is None else math.ceil(raw.sandbox_ms)}
        self._spent = {name: took.get(name, amount) for name, amount in self._taken.granted.items()}
        return raw

    def ended(self, safe: SafeOutput) -> SafeOutput:
        """Notes how the call ended, and gives its result on."""
        if safe.problem is None:
            self._ended = "done"
        if self._turn is not None:
            self._turn.end(safe)
        if "bytes" in self._spent:
            self._spent["bytes"] = min(self._spent["bytes"], _size(safe))
        if safe.truncated or (safe.problem is not None and safe.problem.code == "timeout"):
            self._opened.notes += shortened(self._ask.wants, self._taken.granted, in_time=not safe.truncated)
        return safe

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        ended: Ended = "refused" if isinstance(error, Refusal) else self._ended
        self._counters.settle(self._ask, self._taken, ended, self._spent)
        if ended == "refused":
            self._take_back()
        elif self._taken.warned:
            warn(self._opened, self._watch.told, self._taken, self._spent)


def _size(safe: SafeOutput) -> int:
    """Bytes that a caller gets: of the text, or of the structured form of it where that is larger."""
    structured = 0 if safe.structured is None else len(strictjson.canonical(safe.structured))
    return max(len(safe.text.encode()), structured)


def _limit(taken: Taken, ask: Ask) -> str | None:
    """The name of the limit that had no room, where it is not one that policy knows of."""
    if taken.kind == "rate":
        return next((each.name for each in ask.buckets if each.key == taken.refused), None)
    return {"full": "state", "concurrency": "concurrency", "budget": "budget"}.get(taken.kind or "")


def _refused(taken: Taken, limit: str | None) -> Exception:
    """What to raise for an answer that gave nothing. `limit` is the name of what had no room."""
    if taken.kind in ("changed", "session"):
        return StateChanged(taken.kind == "session")
    if taken.kind == "claimed":
        return Held()
    if taken.kind == "budget":
        return refuse("budget_exhausted", taken.said)
    wait_ms = max(1, math.ceil(taken.retry_after * 1000))
    if taken.kind == "unavailable":
        said = taken.said or "What limits calls cannot be asked, so nothing runs that may change something."
        return refuse("overloaded", said, retry_after_ms=wait_ms)
    if taken.kind == "concurrency":
        said = "Too many calls of this tool are running."
        return Refusal(problem("concurrency_limited", said, retry_after_ms=wait_ms))
    if taken.kind == "full":
        said = "This caller has had too many different values for the policy to keep apart."
        return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
    named = f" `{limit}`" if limit else ""
    said = f"The rate limit{named} is used up; call again in {wait_ms / 1000:.3g} s."
    return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
