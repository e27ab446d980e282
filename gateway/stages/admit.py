"""Stage 7: rates, slots, budgets, declared state and the claim, taken together or not at all. It never decides again.

The slot is given back when the call ends; what was reserved is taken back only where nothing was dispatched, else what
was really spent counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gateway.admission import PARTIAL, Account, Amounts, Ask, Bounds, Bucket, Claim, Dimension, Slot, Taken
from gateway.aggregates import Ended, Reservation
from gateway.model import Call, Decision, Intent, Lease, Permit, RawOutput, Refusal, SafeOutput, Session
from gateway.obligations import Limit
from gateway.ports import Clock, Counters, Sessions
from gateway.problems import problem, refuse
from gateway.reliability.budgets import accounts
from gateway.tool import Rate, SandboxBackend

ROUNDS = 3  # decisions on one call, when other calls keep changing what they stand on
NO_BOUNDS = Bounds()
GRACE = 5.0  # seconds beyond its deadline after which a call that nobody ended has surely ended


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
        Refusal: `budget_exhausted`, `session_closed`; `rate_limited` or `concurrency_limited`, with the time after
        which to call again; `overloaded` when the store cannot be asked.
        StateChanged: what the decision read of the past is not so any more; nothing was taken.
        Held: another call has the claim; nothing was taken.
    """

    __slots__ = ("_ask", "_clock", "_counters", "_ended", "_permit", "_sessions", "_spent", "_started", "_taken")

    def __init__(
        self,
        permit: Permit,
        claim: Claim | None,
        counters: Counters,
        sessions: Sessions,
        bounds: Bounds,
        clock: Clock,
    ) -> None:
        self._permit, self._counters, self._sessions, self._clock = permit, counters, sessions, clock
        line = sessions.line(permit.decision.call.caller.session.uid)
        self._ask = ask_of(permit, claim, line, bounds, clock.steady())
        self._taken = Taken()
        self._started = 0.0
        self._ended: Ended = "refused"
        self._spent: Amounts | None = None

    async def __aenter__(self) -> Lease:
        call = self._permit.decision.call
        if not self._sessions.is_open(call.caller.session):
            raise refuse("session_closed", "The session was closed meanwhile.")
        self._started = self._clock.monotonic()
        self._taken = taken = await self._counters.take(self._ask)
        if taken.kind is not None:
            raise _refused(taken)
        return Lease(self._permit, self._deadline(), self._ask, taken)

    def _deadline(self) -> float:
        call, obligations = self._permit.decision.call, self._permit.decision.obligations
        times = [call.tool.timeout, obligations.timeout or math.inf]
        times += [self._taken.granted[name] / 1000 for name in ("wall", "sandbox") if name in self._bounded()]
        deadline = self._started + min(times)
        return deadline if call.parent is None else min(deadline, call.parent.intent.lease.deadline)

    def _bounded(self) -> set[Dimension]:
        return {name for account in self._ask.accounts for name in account.most} & self._taken.granted.keys()

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
        spent: dict[Dimension, int] = {**self._taken.granted, "wall": wall, "bytes": len(raw.text.encode())}
        spent["sandbox"] = math.ceil(raw.sandbox_ms or 0.0)
        self._spent = {name: amount for name, amount in spent.items() if name in self._taken.granted}
        return raw

    def ended(self, safe: SafeOutput) -> SafeOutput:
        """Notes how the call ended, and gives its result on."""
        if safe.problem is None:
            self._ended = "done"
        return safe

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        ended: Ended = "refused" if isinstance(error, Refusal) else self._ended
        # Whoever cannot be measured has used up what was granted.
        spent = self._taken.granted if self._spent is None else self._spent
        self._counters.settle(self._ask, self._taken, ended, spent)


def ask_of(permit: Permit, claim: Claim | None, line: Sequence[Session], bounds: Bounds, now: float) -> Ask:
    """Everything that a permitted call asks for."""
    decision = permit.decision
    call, tool, session = decision.call, decision.call.tool, decision.call.caller.session
    drawn = accounts(line or (session,), call.caller.principal, bounds, now)
    return Ask(
        call_id=call.id,
        now=now,
        lasts=tool.timeout + GRACE,
        buckets=buckets(decision, bounds),
        slots=slots(call, bounds),
        accounts=drawn,
        wants=_wants(permit, drawn) if drawn else {},
        claim=claim,
        seen=(session.uid, session.version),
        reservation=_reservation(permit),
        effects=tool.effects != {"read"},
    )


def slots(call: Call, bounds: Bounds = NO_BOUNDS) -> tuple[Slot, ...]:
    """The places that a call takes: among those of its caller and tool, and, but for nested calls, of the tool."""
    own = Slot(f"{call.caller.principal.key}\x1f{call.tool.name}", call.tool.concurrency or bounds.concurrency)
    return (own,) if call.parent is not None else (own, Slot(f"tool\x1f{call.tool.name}", bounds.bulkhead))


def buckets(decision: Decision, bounds: Bounds = NO_BOUNDS) -> tuple[Bucket, ...]:
    """The rates that a permitted call spends: those of its rules, of its tool, and of the settings."""
    call, limits = decision.call, decision.obligations.limits
    found = [Bucket(_of_rule(limit, call), limit.rate, f"rule-{limit.rule}") for limit in limits]
    principal = call.caller.principal
    if call.tool.rate:
        found.append(Bucket(f"tool\x1f{principal.key}\x1f{call.tool.name}", call.tool.rate, "tool"))
    if bounds.rates:
        found += _of_settings(call, bounds.rates)
    return tuple(found)


def _of_settings(call: Call, rates: Mapping[str, Rate]) -> list[Bucket]:
    principal = call.caller.principal
    owners = {
        "tool": f"{principal.key}\x1f{call.tool.name}",
        "session": call.caller.session.uid,
        "principal": principal.key,
        "tenant": principal.tenant,
        "all": "",
    }
    return [Bucket(f"{over}\x1fall\x1f{owners[over]}", rate, over) for over, rate in rates.items()]


def _wants(permit: Permit, drawn: Sequence[Account]) -> Amounts:
    """What a call may use up at most, of what is bounded. A nested one takes no time of its own: that of the call
    around it has it in."""
    call, obligations = permit.decision.call, permit.decision.obligations
    most = min(call.tool.timeout, obligations.timeout or math.inf)
    wants: dict[Dimension, int] = {"calls": 1, "cost": round(call.tool.cost * 1_000_000)}
    if call.parent is None:
        wants["wall"] = math.ceil(most * 1000)
        wants["bytes"] = min(call.tool.output_limit, obligations.output or call.tool.output_limit)
    if isinstance(call.tool.backend, SandboxBackend):
        wants["sandbox"] = math.ceil(min(most, float(call.tool.backend.limits.get("wall", most))) * 1000)
    bounded = {name for account in drawn for name in account.most} | {"calls", "cost"}
    return {name: amount for name, amount in wants.items() if name in bounded or name not in PARTIAL}


def _reservation(permit: Permit) -> Reservation | None:
    decision = permit.decision
    if not (decision.reads or decision.reserves):
        return None
    return Reservation(decision.call.id, decision.call.now, decision.reads, decision.reserves)


def _of_rule(limit: Limit, call: Call) -> str:
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


def _refused(taken: Taken) -> Exception:
    """What to raise for an answer that gave nothing."""
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
    said = f"The rate limit is used up; call again in {wait_ms / 1000:.3g} s."
    return Refusal(problem("rate_limited", said, retry_after_ms=wait_ms))
