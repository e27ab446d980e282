"""GCRA, the generic cell rate algorithm (ITU-T I.371), as two lines of arithmetic. It keeps nothing and reads no clock.

A bucket is one number: the theoretical arrival time (seconds, same clock as `now`) at which it would be full again. No
call brings that further ahead than `rate.per`: what is, is of a rate that was declared otherwise, or of a clock that
was set back since, and counts as a bucket with room for one call.
"""

from __future__ import annotations

import math

from gateway.admission import Bucket, Standing
from gateway.tool import Rate


def earliest(arrival: float, rate: Rate, now: float) -> float:
    """The time from which a call fits, for a bucket whose theoretical arrival time is `arrival`.

    A burst of `rate.calls` is allowed from rest, then one call each `rate.per / rate.calls` seconds.
    """
    return _true(arrival, rate, now) + rate.per / rate.calls - rate.per


def spend(arrival: float, rate: Rate, now: float) -> float:
    """The theoretical arrival time after a call at `now`."""
    return max(_true(arrival, rate, now), now) + rate.per / rate.calls


def unspend(arrival: float, rate: Rate) -> float:
    """The theoretical arrival time as it were without one of the calls that were spent."""
    return arrival - rate.per / rate.calls


def standing(bucket: Bucket, arrival: float, now: float) -> Standing:
    """How many calls the bucket has left at `now`, and in how many seconds it is whole again."""
    rate = bucket.rate
    ahead = max(0.0, _true(arrival, rate, now) - now)
    # Unix times are exact to a microsecond at best, which must not look like a call.
    left = math.floor((rate.per - ahead) * rate.calls / rate.per + 1e-3)
    return Standing(bucket, max(0, left), ahead)


def _true(arrival: float, rate: Rate, now: float) -> float:
    interval = rate.per / rate.calls
    # A whole interval more than can be, which rounding never comes to.
    return arrival if arrival <= now + rate.per + interval else now + rate.per - interval
