"""The attempts of one call, within its one deadline: none where a kept result answers or the backend is given up, more
than one where its spec has it tried again.

It never makes a second attempt of what may have happened unless the tool is idempotent, and never one that cannot fit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from gateway.model import Call, Intent, RawOutput, Refusal
from gateway.ports import Clock
from gateway.reliability.breaker import Breakers, Place
from gateway.reliability.resilience import Resilience, had_its_time, is_ill, is_out, of_attempts, place_of, tried
from gateway.reliability.retry import until, wait
from gateway.tool import Retry

Attempt = Callable[[float], Awaitable[RawOutput]]  # of a deadline in monotonic seconds


async def attempted(attempt: Attempt, intent: Intent, resilience: Resilience, clock: Clock) -> RawOutput:
    """What came of it in the end.

    Raises:
        Refusal: that of the last attempt, when no attempt can have happened; `breaker_open`.
    """
    call, deadline = intent.call, intent.lease.deadline
    if call.tool.cache is not None and (kept := resilience.cache.find(intent)) is not None:
        return kept
    place, fair = place_of(call), had_its_time(call, deadline - clock.monotonic())
    if call.tool.retry is None:
        return await _guarded(attempt, call, place, deadline, resilience.breakers, fair)
    resilience.budgets.called(call.tool.name, call.tool.retry.percent)

    async def once(failed: int, retry: Retry) -> RawOutput | Refusal:
        try:
            ends = until(retry, failed, clock.monotonic(), deadline)
            return await _guarded(attempt, call, place, ends, resilience.breakers, fair)
        except Refusal as refusal:
            return refusal

    return await _repeated(once, intent, call.tool.retry, resilience, clock)


async def _guarded(
    attempt: Attempt, call: Call, place: Place | None, ends: float, breakers: Breakers, fair: bool
) -> RawOutput:
    """One attempt, of which the breaker of its backend hears."""
    if place is None:
        return await attempt(ends)
    entered, ill = breakers.enter(place), None
    try:
        raw = await attempt(ends)
        ill = is_ill(call, raw, fair)
        return raw
    except Refusal as refusal:
        ill = is_out(refusal.problem, fair)
        raise
    finally:
        breakers.leave(place, entered, ill)


async def _repeated(
    once: Callable[[int, Retry], Awaitable[RawOutput | Refusal]],
    intent: Intent,
    retry: Retry,
    resilience: Resilience,
    clock: Clock,
) -> RawOutput:
    """Attempts until one is good, or must not be followed by another. What may have happened outweighs what did not."""
    done: RawOutput | None = None
    sandbox_ms = 0.0
    for made in count(1):
        given = await once(made - 1, retry)
        if isinstance(given, RawOutput):
            done, sandbox_ms = given, sandbox_ms + (given.sandbox_ms or 0.0)
        seconds = _after(given, made, intent.call, retry, resilience)
        if seconds is None or clock.monotonic() + seconds >= intent.lease.deadline:
            break
        if not resilience.budgets.take(intent.call.tool.name):
            break
        await asyncio.sleep(seconds)
    made -= given.problem is not None and given.problem.code == "breaker_open"  # that one was not made
    if done is not None:
        return of_attempts(done, made, sandbox_ms)
    assert isinstance(given, Refusal)
    raise Refusal(tried(given.problem, made))


def _after(given: RawOutput | Refusal, made: int, call: Call, retry: Retry, resilience: Resilience) -> float | None:
    """Seconds until the next attempt; None for no other."""
    problem = given.problem
    if problem is None or problem.code not in retry.on or made >= retry.attempts:
        return None
    if isinstance(given, RawOutput) and not call.tool.idempotent:
        return None  # it was sent, whatever its code says
    return wait(retry, made, resilience.draw(), (problem.retry_after_ms or 0) / 1000)
