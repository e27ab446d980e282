"""Calls of tools from inside a snippet: awaited by the caller of the pool, in its own loop, never by the guest."""

import asyncio
import contextlib
import json

import pytest

from sandboxes.model import CallRefused, Job, Limits
from sandboxes.pool import WasmPython

TOOLS = frozenset({"add", "slow", "refused"})


async def tools(name: str, args: bytes) -> bytes:
    if name == "refused":
        raise CallRefused("no: not today")
    if name == "slow":
        await asyncio.sleep(60)
    given = json.loads(args)
    return json.dumps(given["a"] + given["b"]).encode()


def test_a_call_gives_its_value_and_counts(play):
    """`call` hands the arguments out as JSON, gives back the value, and is counted."""

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job("result = [call('add', a=i, b=0) for i in range(3)]", tools=TOOLS), tools)
        assert (done.status, done.value, done.usage.host_calls) == ("ok", [0, 1, 2], 3)

    play(scenario)


REFUSED = "try: call('{}')\nexcept ToolError as e: print(e)"


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("refused", "no: not today\n"),
        ("unknown", "'unknown' may not be called from here; allowed: add, refused, slow\n"),
    ],
)
def test_a_refusal_is_an_exception_the_snippet_can_catch(play, tool, said):
    """A refused call raises `ToolError` with the refusal's text, and the snippet goes on."""

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job(REFUSED.format(tool), tools=TOOLS), tools)
        assert (done.status, done.stdout) == ("ok", said)

    play(scenario)


def test_a_tool_not_granted_never_reaches_the_callback(play):
    """A snippet that goes round `call` to the host itself is refused there, and nothing is called."""
    asked: list[str] = []

    async def watch(name: str, _args: bytes) -> bytes:
        asked.append(name)
        return b"1"

    async def scenario(pool: WasmPython) -> None:
        program = "import wit_world.imports.host as h; print(h.call('other', '{}'))"
        done = await pool.run(Job(program, tools=TOOLS), watch)
        assert (done.stdout, asked) == ('{"error": "this tool may not be called from here"}\n', [])

    play(scenario)


def test_oversized_arguments_are_refused_in_the_worker(play):
    """Arguments over the cap are refused as a `ToolError` without ending the job."""

    async def scenario(pool: WasmPython) -> None:
        program = "try: call('add', a='x' * 300_000, b='')\nexcept ToolError as e: print(e)"
        done = await pool.run(Job(program, tools=TOOLS), tools)
        assert done.stdout == "the arguments are over 262144 characters\n"

    play(scenario)


def test_the_deadline_runs_during_a_call(play):
    """A call that outlasts the wall limit is cancelled and the job ends as a timeout; the next job is unaffected."""
    ended: list[str] = []

    async def slow(_name: str, _args: bytes) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b"1"

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job("call('slow')", tools=TOOLS, limits=Limits(wall=0.3)), slow)
        assert (done.status, ended) == ("timeout", ["cancelled"])
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"

    play(scenario)


def test_a_guest_that_goes_on_calling_after_its_time_is_ended(play):
    """At the limit the call is taken away and the guest does not run on, even if it catches every exception.

    Nothing is called after that.
    """
    calls: list[str] = []

    async def slow(name: str, _args: bytes) -> bytes:
        calls.append(name)
        await asyncio.sleep(60)
        return b"1"

    async def scenario(pool: WasmPython) -> None:
        program = "while True:\n try: call('slow')\n except BaseException: pass"
        done = await pool.run(Job(program, tools=TOOLS, limits=Limits(wall=0.3)), slow)
        assert (done.status, calls) == ("timeout", ["slow"])
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"

    play(scenario)


def test_a_callback_that_will_not_be_cancelled_holds_nobody_up(play):
    """A callback that swallows its cancellation does not keep the job from ending at its time."""
    free = asyncio.Event()

    async def stubborn(_name: str, _args: bytes) -> bytes:
        while not free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await free.wait()
        return b"1"

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job("call('slow')", tools=TOOLS, limits=Limits(wall=0.3)), stubborn)
        assert done.status == "timeout"
        free.set()
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"

    play(scenario)


def test_a_caller_that_goes_away_takes_its_call_along(play):
    """Cancelling the job cancels the nested call and waits until that has ended."""
    ended: list[str] = []
    called = asyncio.Event()

    async def slow(_name: str, _args: bytes) -> bytes:
        try:
            called.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("written down")
        return b"1"

    async def scenario(pool: WasmPython) -> None:
        running = asyncio.create_task(pool.run(Job("call('slow')", tools=TOOLS), slow))
        await called.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended == ["written down"]

    play(scenario)


def test_what_the_callback_raises_comes_through(play):
    """An error of the callback that is no refusal reaches whoever awaits the job, and the pool stays usable."""

    async def broken(_name: str, _args: bytes) -> bytes:
        raise KeyError("ours")

    async def scenario(pool: WasmPython) -> None:
        with pytest.raises(KeyError, match="ours"):
            await pool.run(Job("call('add')", tools=TOOLS), broken)
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"

    play(scenario)


@pytest.mark.parametrize("reply", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_reply_that_is_no_json_is_an_error_in_the_guest(play, reply):
    """A callback that answers with no JSON makes the snippet's call raise; the worker lives."""

    async def answer(_name: str, _args: bytes) -> bytes:
        return reply

    async def scenario(pool: WasmPython) -> None:
        pids = pool.pids
        done = await pool.run(Job("call('add')", tools=TOOLS), answer)
        assert done.status in ("error", "limit")
        assert pool.pids == pids

    play(scenario, spares=0)
