"""Times, sizes and rates as operators write them: `10s`, `256KiB`, `30/1m`. A number without a unit is refused.

It never guesses a unit and knows no clock.
"""

from datetime import datetime

from gateway.tool import Rate

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_DIGITS = 12


class BadUnit(ValueError):
    """Not a quantity of the kind that was asked for; the message says how one is written."""


def seconds(text: str) -> float:
    """A time span of more than zero: `200ms`, `10s`, `5m`, `24h`, `7d`. In seconds. Raises BadUnit."""
    number, unit = _split(text)
    if number == 0 or unit not in _SECONDS:
        raise BadUnit("a time is written like 200ms, 10s, 5m, 24h or 7d, and is more than zero")
    return number * _SECONDS[unit]


def moment(text: str, now: float) -> float:
    """A time in unix seconds: a span before `now` (`7d`), or RFC 3339 with its zone. Raises BadUnit."""
    try:
        return now - seconds(text)
    except BadUnit:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadUnit("a time is written like 2026-01-31T12:00:00Z, or as a span before now, like 7d")
    return at.timestamp()


def size(text: str) -> int:
    """A size of more than zero: `512B`, `256KiB`, `4MiB`, `1GiB`. In bytes. Raises BadUnit."""
    number, unit = _split(text)
    if number == 0 or unit not in _BYTES:
        raise BadUnit("a size is written like 512B, 256KiB, 4MiB or 1GiB, and is more than zero")
    return number * _BYTES[unit]


def rate(text: str) -> Rate:
    """So many calls in a time: `30/1m` is thirty calls in one minute. Raises BadUnit."""
    count, slash, span = text.partition("/")
    calls, rest = _split(count)
    try:
        per = seconds(span)
    except BadUnit:
        per = 0.0
    if not slash or rest or calls == 0 or per == 0.0:
        raise BadUnit("a rate is written like 30/1m (calls / time), both more than zero")
    return Rate(calls, per)


def spread(text: str) -> tuple[float, float]:
    """A shortest and a longest time: `200ms..5s`. In seconds. Raises BadUnit."""
    shortest, dots, longest = text.partition("..")
    try:
        least, most = seconds(shortest), seconds(longest)
    except BadUnit:
        least, most = 1.0, 0.0
    if not dots or least > most:
        raise BadUnit("a wait is written like 200ms..5s, the shortest first")
    return least, most


def percent(text: str) -> int:
    """A share of more than nothing: `10%`. Raises BadUnit."""
    number, unit = _split(text)
    if unit != "%" or not 0 < number <= 100:
        raise BadUnit("a share is written like 10%")
    return number


def _split(text: str) -> tuple[int, str]:
    """Leading digits and what follows; 0 when there are none or too many."""
    unit = text.lstrip("0123456789")
    digits = text[: len(text) - len(unit)]
    return (int(digits) if 0 < len(digits) <= _MAX_DIGITS else 0), unit
