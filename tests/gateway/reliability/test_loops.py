"""Runs of calls that bring nothing new: when they are told of, slowed down and stopped, and what ends them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.loops import CALLS, FORGOTTEN, SESSIONS, WORN, Loops, Run

SLOW = 2.0  # seconds between calls: long enough not to be slowed down


def kinds(loops: Loops, calls: Sequence[tuple[int, int]], repeats: int, pause: float = SLOW) -> list[str]:
    """What becomes of calls one after the other, each with its result; one that is refused has none."""
    found = list[str]()
    for number, (call, result) in enumerate(calls):
        run = loops.begin("s", call, f"tool{call}", repeats, number * pause)
        found.append(run.kind if run else "goes")
        if run is None or run.kind == "warn":
            loops.end("s", call, result)
    return found


def test_the_same_call_goes_as_often_as_settings_say() -> None:
    """Of ten the fifth is told of; the eleventh, and all after it, are stopped."""
    found = kinds(Loops(), [(1, 7)] * 220, 10)
    assert found[:11] == [*["goes"] * 4, "warn", *["goes"] * 5, "halt"]
    assert set(found[10:]) == {"halt"}


def test_near_the_end_calls_have_to_wait_for_each_other() -> None:
    """In a hurry the ninth and tenth of ten are slowed down, and count; the time to wait is said."""
    found = kinds(Loops(), [(1, 7)] * 12, 10, pause=0.25)
    assert found == [*["goes"] * 4, "warn", *["goes"] * 3, "cool", "cool", "halt", "halt"]
    loops = Loops()
    kinds(loops, [(1, 7)] * 8, 10, pause=0.25)
    assert loops.begin("s", 1, "tool1", 10, 2.0) == Run("cool", 9, 1, ("tool1",), wait=0.75)
    assert loops.begin("s", 1, "tool1", 10, 3.0) is None


def test_a_circle_is_one_run() -> None:
    """A-B-A-B and A-B-C-A-B-C are stopped as A-A-A is, and told by their length and tools."""
    for size in (2, 3, 7):
        loops = Loops()
        found = kinds(loops, [(n % size, n % size) for n in range(100)], 20)
        assert found.index("halt") == 20 + size - 1  # the first round but its last call was new
        run = loops.begin("s", 0, "tool0", 20, 1e3)
        assert run is None  # long after, it is forgotten
        again = kinds(loops, [(n % size, n % size) for n in range(100)], 20)
        assert "halt" in again
    loops = Loops()
    kinds(loops, [(n % 2, n % 2) for n in range(22)], 20)
    assert loops.begin("s", 0, "tool0", 20, 44.0) == Run("halt", 22, 2, ("tool1", "tool0"))


def test_another_result_is_progress() -> None:
    """A job that is asked for until it is ready is no loop, though it is asked for often."""
    assert set(kinds(Loops(), [(1, result) for result in range(95)], 10)) == {"goes"}


def test_other_arguments_are_progress() -> None:
    """Whatever was repeated before: a call that is new begins a new run."""
    found = kinds(Loops(), [*[(1, 7)] * 9, (2, 7), *[(1, 7)] * 9], 10)
    assert "halt" not in found


def test_known_calls_wear_out_whatever_they_give() -> None:
    """Ten times as many as `repeats`, with another result each time: then it is stopped, and said so."""
    loops = Loops()
    found = kinds(loops, [(1, n) for n in range(WORN * 10 + 1)], 10)
    assert found == [*["goes"] * WORN * 10, "halt"]
    run = loops.begin("s", 1, "tool1", 10, 300.0)
    assert run is not None
    assert run.worn
    assert loops.begin("s", 2, "tool2", 10, 301.0) is None


def test_calls_side_by_side_count_before_they_end() -> None:
    """A hundred equal calls at once: no more than ten of them go."""
    loops = Loops()
    runs = [loops.begin("s", 1, "tool", 10, 0.0) for _ in range(100)]
    assert sum(run is None or run.kind == "warn" for run in runs) <= 10
    assert runs[-1] == Run("halt", 100, 1, ("tool",))


def test_a_call_that_was_not_made_does_not_count() -> None:
    """Refused for want of something else, however often, it is no loop."""
    loops = Loops()
    for n in range(100):
        assert loops.begin("s", 1, "tool", 10, n * SLOW) is None
        loops.back("s", 1)


def test_sessions_have_runs_of_their_own() -> None:
    """The same call in many sessions is many runs of one."""
    loops = Loops()
    assert all(loops.begin(f"s{n}", 1, "tool", 2, 0.0) is None for n in range(100))


def test_what_is_long_past_is_forgotten() -> None:
    """A call that is made every quarter of an hour is none of a run."""
    assert set(kinds(Loops(), [(1, 7)] * 50, 10, pause=FORGOTTEN + 1)) == {"goes"}


def test_it_keeps_no_more_than_it_says() -> None:
    """Many sessions with many calls each: the oldest sessions and calls are gone."""
    loops = Loops()
    for session in range(SESSIONS + 50):
        for call in range(3):
            loops.begin(f"s{session}", call, "tool", 10, 0.0)
    for call in range(10 * CALLS):
        loops.begin("last", call, "tool", 10, 0.0)
        loops.end("last", call, 1)
    kept = loops._sessions
    assert len(kept) == SESSIONS
    assert "s0" not in kept
    assert len(kept["last"].known) == CALLS
    assert sys.getsizeof(kept["last"].known) < 4096


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60))
def test_nothing_new_is_never_more_than_the_bound(calls: list[tuple[int, int]]) -> None:
    """Whatever comes in whatever order: of calls that bring nothing new, no more than the bound go in a row."""
    found, gave, idle = kinds(Loops(), calls, 5), dict[int, int](), 0
    for (call, result), kind in zip(calls, found, strict=True):
        if kind in ("goes", "warn"):
            idle = idle + 1 if gave.get(call) == result else 0
            gave[call] = result
        assert idle <= 5
