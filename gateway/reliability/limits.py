"""GCRA, the generic cell rate algorithm (ITU-T I.371), as two lines of arithmetic. It keeps nothing and reads no clock.

A bucket is one number: the theoretical arrival time (seconds, same clock as `now`) at which it would be full again.
"""

from __future__ import annotations

from gateway.tool import Rate


def earliest(arrival: float, rate: Rate) -> float:
    """The time from which a call fits, for a bucket whose theoretical arrival time is `arrival`.

    A burst of `rate.calls` is allowed from rest, then one call each `rate.per / rate.calls` seconds.
    """
    interval = rate.per / rate.calls
    return arrival + interval - rate.per


def spend(arrival: float, rate: Rate, now: float) -> float:
    """The theoretical arrival time after a call at `now`."""
    return max(arrival, now) + rate.per / rate.calls
