"""Loops along the whole line: an agent that repeats itself is told, slowed down and stopped; others are not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.admission import Bounds
from gateway.model import Outcome, RawOutput
from gateway.tool import Rate
from gateway.work import Calls, Work
from tests.gateway.coder import playing
from tests.gateway.doors.session_lab import records
from tests.gateway.limited import code_of, lab_of, with_runner


def test_a_loop_is_stopped_where_settings_say() -> None:
    """220 times the same call, not in a hurry: half way it is told, after 100 it is stopped, and nothing runs."""
    lab, slow = lab_of(Bounds(repeats=100), seconds=1.5)

    async def test() -> list[Outcome]:
        return [await lab.call("echo", {"text": "again"}) for _ in range(220)]

    outcomes = asyncio.run(test())
    assert [code_of(each) for each in outcomes] == ["done"] * 100 + ["loop_detected"] * 120
    assert len(slow.deadlines) == 100
    assert [number for number, each in enumerate(outcomes, 1) if each.notes] == [50]
    assert "`echo` was asked for 50 times in a row with the same arguments" in outcomes[49].notes[0]
    assert [line.fields["times"] for line in records(lab, "loop.warned")] == [50]
    refused = records(lab, "call.refused")
    assert {(line.fields["outcome"]["code"], line.fields["outcome"]["limit"]) for line in refused} == {  # type: ignore[index]  # as read back
        ("loop_detected", "loop")
    }


def test_a_loop_of_two_calls_is_stopped() -> None:
    """A-B-A-B: as soon, and told by name; a new call goes, and then they do again."""
    lab, _ = lab_of(Bounds(repeats=20), seconds=1.5)

    async def test() -> tuple[list[Outcome], list[str]]:
        turns = [await lab.call(("echo", "other")[n % 2], {"text": "again"}) for n in range(40)]
        after = [await lab.call("echo", {"text": text}) for text in ("new", "again")]
        return turns, [code_of(each) for each in after]

    turns, after = asyncio.run(test())
    assert [code_of(each) for each in turns] == ["done"] * 21 + ["loop_detected"] * 19
    problem = turns[21].problem
    assert problem is not None
    assert "go round in a circle of 2 (`other`, `echo`)" in problem.detail or "(`echo`, `other`)" in problem.detail
    assert problem.advice is not None
    assert problem.advice.startswith("Stop: do not make this call again.")
    assert after == ["done", "done"]


def test_who_is_in_a_hurry_is_slowed_down_first() -> None:
    """The last fifth has to wait a second for each call: that is said, with the time, and no rate is spent."""
    lab, slow = lab_of(Bounds(repeats=10, rates={"all": Rate(100, 60.0)}))

    async def test() -> list[Outcome]:
        return [await lab.call("echo", {"text": "again"}) for _ in range(12)]

    outcomes = asyncio.run(test())
    assert [code_of(each) for each in outcomes] == ["done"] * 8 + ["rate_limited"] * 2 + ["loop_detected"] * 2
    assert outcomes[8].problem is not None
    assert outcomes[8].problem.retry_after_ms == 1000
    assert len(slow.deadlines) == 8


def test_polling_is_no_loop() -> None:
    """A job whose state changes may be asked for as often as it takes."""
    lab, _ = lab_of(Bounds(repeats=10))

    class Counting:
        n = 0

        async def run(self, work: Work) -> RawOutput:
            self.n += 1
            return RawOutput(f"{self.n} %")

    lab.gate = with_runner(lab, Counting())

    async def test() -> list[str]:
        return [code_of(await lab.call("echo", {"text": "again"})) for _ in range(90)]

    assert set(asyncio.run(test())) == {"done"}


def test_calls_that_code_makes_are_no_loop() -> None:
    """A program may call the same tool as often as it is allowed to; no model chose each of those."""

    async def play(work: Work, calls: Calls) -> object:
        return [(await calls.call("look", b'{"what": "sky"}')).decode() for _ in range(40)][-1]

    lab = playing(play)
    lab.gate = replace(lab.gate, bounds=Bounds(repeats=10))
    assert code_of(asyncio.run(lab.call("coder", {"code": "played"}))) == "done"


def test_a_call_that_was_refused_for_something_else_is_no_loop() -> None:
    """Whoever waits for a rate may ask again and again."""
    lab, _ = lab_of(Bounds(repeats=5, rates={"all": Rate(1, 60.0)}))

    async def test() -> list[str]:
        return [code_of(await lab.call("echo", {"text": "again"})) for _ in range(20)]

    assert asyncio.run(test()) == ["done"] + ["rate_limited"] * 19
