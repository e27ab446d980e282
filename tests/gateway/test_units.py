"""Times, sizes and rates: what is read and what is refused."""

from collections.abc import Callable

import pytest

from gateway.tool import Rate
from gateway.units import BadUnit, moment, percent, rate, seconds, size, spread


@pytest.mark.parametrize(
    ("text", "value"), [("200ms", 0.2), ("10s", 10.0), ("5m", 300.0), ("24h", 86400.0), ("7d", 604800.0)]
)
def test_times_are_seconds(text: str, value: float) -> None:
    """A time span is read in seconds."""
    assert seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("1B", 1), ("256KiB", 262144), ("4MiB", 4194304), ("1GiB", 1073741824)])
def test_sizes_are_bytes(text: str, value: int) -> None:
    """A size is read in bytes, by powers of 1024."""
    assert size(text) == value


def test_rates_are_calls_in_seconds() -> None:
    """A rate is a number of calls and a time span."""
    assert rate("30/1m") == Rate(30, 60.0)
    assert rate("1/200ms") == Rate(1, 0.2)


@pytest.mark.parametrize("read", [seconds, size, rate])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "s",
        "0s",
        "0B",
        "-1s",
        "+1s",
        "1.5s",
        "1 s",
        " 1s",
        "1s ",
        "1S",
        "1kib",
        "1KB",
        "１s",
        "30",
        "/1m",
        "30/",
        "0/1m",
        "30/0s",
        "30/m",
        "30s/1m",
        "9999999999999s",
    ],
)
def test_everything_else_is_refused(read: Callable[[str], object], text: str) -> None:
    """No unit is guessed, and zero, signs, fractions and spaces are refused."""
    with pytest.raises(BadUnit):
        read(text)


@pytest.mark.parametrize(
    ("text", "at"), [("1h", 6400.0), ("1970-01-01T00:01:00Z", 60.0), ("1970-01-01T01:00:01.5+01:00", 1.5)]
)
def test_a_moment_is_a_time_or_so_long_ago(text: str, at: float) -> None:
    """RFC 3339 with its zone, or a span before now."""
    assert moment(text, 10_000.0) == at


@pytest.mark.parametrize("text", ["", "now", "7", "2026-01-01", "2026-01-01T00:00:00", "0s", "-1h"])
def test_a_moment_without_a_zone_is_refused(text: str) -> None:
    """Nothing is guessed about a time."""
    with pytest.raises(BadUnit):
        moment(text, 0.0)


def test_a_spread_is_two_times_the_shortest_first() -> None:
    """They may be equal."""
    assert (spread("200ms..5s"), spread("1s..1000ms")) == ((0.2, 5.0), (1.0, 1.0))


@pytest.mark.parametrize("text", ["", "5s", "..", "5s..", "..5s", "5s..1s", "1s...5s", "1..5s", "0s..1s"])
def test_anything_else_is_no_spread(text: str) -> None:
    """Both times have a unit."""
    with pytest.raises(BadUnit):
        spread(text)


def test_a_share_is_a_whole_percentage() -> None:
    """From one to a hundred."""
    assert (percent("1%"), percent("10%"), percent("100%")) == (1, 10, 100)


@pytest.mark.parametrize("text", ["", "%", "10", "0%", "101%", "0.1", "10 %", "1.5%", "-1%"])
def test_anything_else_is_no_share(text: str) -> None:
    """Nothing is taken for a fraction of one."""
    with pytest.raises(BadUnit):
        percent(text)
