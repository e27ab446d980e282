"""Calls within a call and time: whose deadline holds, who ends before whom; the code is played, the rest is real."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model import RawOutput
from gateway.tool import HttpBackend
from gateway.work import Calls, Work
from tests.gateway.coder import CODER, SPECS, code_of, lines, named, playing, told
from tests.kit import Lab

OUTCOME = "call.outcome"
RUN = {"code": "played"}
LOOKING = b'{"what": "sky"}'


class Slow:
    """An upstream that does not answer."""

    def __init__(self) -> None:
        self.running = 0
        self.started = asyncio.Event()
        self.deadlines: list[float] = []

    async def run(self, work: Work) -> RawOutput:
        self.running += 1
        self.deadlines.append(work.deadline)
        self.started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            self.running -= 1
        raise AssertionError("an hour has passed")


def slow(timeout: str) -> tuple[Lab, Slow]:
    """A lab whose coder looks something up, which takes for ever."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "look", LOOKING)

    lab = playing(play, clock=True, specs={"coder.yaml": CODER.replace("20s", timeout)})
    upstream = Slow()
    lab.gate = replace(lab.gate, runners={**lab.gate.runners, HttpBackend: upstream})
    return lab, upstream


def test_the_deadline_of_the_parent_is_the_deadline() -> None:
    """The nested call ends with its parent, though it would have more time of its own, and is recorded before it."""
    lab, upstream = slow("200ms")
    outcome = asyncio.run(lab.call("coder", RUN))
    assert upstream.running == 0
    # Either the nested call ends in time to say so to the code, or both are cut off together.
    assert outcome.problem is None or outcome.problem.code == "timeout"
    assert [(line.type, named(line)) for line in lines(lab)] == [
        ("call.intent", "coder"),
        ("call.intent", "look"),
        ("call.outcome", "look"),
        ("call.outcome", "coder"),
    ]
    assert code_of(lines(lab)[2]) in ("timeout", "cancelled")


def test_a_nested_call_gets_no_more_time_than_its_own() -> None:
    """The shorter one counts: the tool's own timeout ends it while the parent goes on."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "look", LOOKING)

    spec = SPECS["look.yaml"].replace("effects: [read]", "effects: [read]\ntimeout: 50ms")
    lab = playing(play, clock=True, specs={"look.yaml": spec})
    lab.gate = replace(lab.gate, runners={**lab.gate.runners, HttpBackend: Slow()})
    outcome = asyncio.run(lab.call("coder", RUN))
    assert outcome.status == "done"
    assert "(timeout)" in str(outcome.structured)


def test_a_caller_who_goes_away_ends_the_nested_call_first() -> None:
    """Both are recorded as cancelled, the inner one before the outer one, and nothing goes on."""
    lab, upstream = slow("20s")

    async def leave() -> None:
        task = asyncio.create_task(lab.call("coder", RUN))
        await upstream.started.wait()
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(leave())
    assert upstream.running == 0
    assert [(line.type, named(line)) for line in lines(lab)][2:] == [
        ("call.outcome", "look"),
        ("call.outcome", "coder"),
    ]
    assert [code_of(line) for line in lines(lab)[2:]] == ["cancelled", "cancelled"]
    assert getattr(lab.gate.counters, "_running") == {}  # noqa: B009  # the port does not tell


def test_a_call_ends_after_those_that_its_code_began() -> None:
    """A sandbox that ends without waiting for its calls leaves none behind: they are cancelled and recorded first."""
    begun: list[asyncio.Task[bytes]] = []

    async def play(work: Work, calls: Calls) -> object:
        begun.append(asyncio.ensure_future(calls.call("look", LOOKING)))  # type: ignore[arg-type]  # a coroutine
        await upstream.started.wait()
        return "over"

    lab = playing(play, clock=True)
    upstream = Slow()
    lab.gate = replace(lab.gate, runners={**lab.gate.runners, HttpBackend: upstream})
    outcome = asyncio.run(lab.call("coder", RUN))
    assert outcome.structured == {"result": "over"}
    inner, outer = lines(lab)[2:]
    assert [(inner.type, named(inner)), (outer.type, named(outer))] == [(OUTCOME, "look"), (OUTCOME, "coder")]
    assert code_of(inner) == "cancelled"
    assert begun[0].cancelled()
