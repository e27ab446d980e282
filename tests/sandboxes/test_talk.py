"""The parent's side of a conversation, against a sandbox that was taken over and speaks for itself."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from sandboxes.answers import Answer
from sandboxes.frames import FrameError, pack, pack_json
from sandboxes.model import Job, OnCall
from sandboxes.talk import Channel, Gone, Talk

CALL = pack_json({"kind": "call", "name": "t", "args": "{}"})
FAIR = {"ok": True, "limit": None, "stdout": "", "stderr": "", "truncated": False, "result": None}
END = pack_json({"kind": "exit", "how": "returned", "ms": 0}) + pack_json(FAIR)
JOB = Job(tools=frozenset({"t"}))
# More than a socket holds that nobody reads.
LARGE = json.dumps("x" * 4_000_000).encode()


async def one(_name: str, _args: bytes) -> bytes:
    return b"1"


def converse(
    script: Callable[[socket.socket, "asyncio.Task[object]", Channel, Talk], Awaitable[None]], on_call: OnCall = one
) -> None:
    """Runs `script` as the sandbox at the other end of a talk that has begun."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        channel = Channel()
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        talk = Talk(JOB, on_call)
        running: asyncio.Task[object] = asyncio.create_task(talk.run(channel, 60))
        with theirs:
            await script(theirs, running, channel, talk)
        running.cancel()
        channel.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_replies_that_nobody_reads_do_not_pile_up() -> None:
    """A sandbox that calls again before it has taken the last reply is at its end: one reply at most waits for it."""
    asked = asyncio.Event()
    calls: list[str] = []

    async def large(name: str, _args: bytes) -> bytes:
        calls.append(name)
        asked.set()
        return LARGE

    async def script(theirs: socket.socket, running: "asyncio.Task[object]", channel: Channel, _talk: Talk) -> None:
        theirs.send(CALL)
        await asked.wait()
        while not channel.unsent:  # noqa: ASYNC110  # a buffer that fills sends no event
            await asyncio.sleep(0)
        theirs.send(CALL)
        with pytest.raises(FrameError):
            await running
        assert calls == ["t"]

    converse(script, large)


@pytest.mark.parametrize("late", [b"\0", pack(b"{}")])
def test_what_comes_after_the_answer_ends_the_channel(late: bytes) -> None:
    """Between two jobs a sandbox has nothing to say: a single byte closes the channel, and nothing of it is kept."""

    async def script(theirs: socket.socket, running: "asyncio.Task[object]", channel: Channel, _talk: Talk) -> None:
        theirs.send(END)
        await running
        assert not channel.gone
        theirs.send(late)
        with pytest.raises(Gone):
            await channel.frame()
        assert channel.gone

    converse(script)


def test_what_comes_with_the_answer_ends_the_channel() -> None:
    """The answer counts, and the sandbox that had more to say serves nobody else."""

    async def script(theirs: socket.socket, running: "asyncio.Task[object]", channel: Channel, _talk: Talk) -> None:
        theirs.send(END + b"\0\0")
        await running
        assert channel.gone

    converse(script)


@pytest.mark.parametrize("lie", [-1, -1e300, 1e300, 2**64 - 1, True])
def test_what_a_sandbox_says_it_took_is_held_to_what_it_can_be(lie: float) -> None:
    """Time and memory used are nothing at least, and no more than was there: they go into records and sums."""

    async def script(theirs: socket.socket, running: "asyncio.Task[object]", _channel: Channel, talk: Talk) -> None:
        theirs.send(pack_json({"kind": "exit", "how": "stack", "ms": lie, "cpu_ms": lie, "memory": lie}))
        _, ms = cast(tuple[Answer, float], await running)
        assert talk.cpu_ms is not None
        assert talk.memory is not None
        assert 0 <= ms < 60_000
        assert 0 <= talk.cpu_ms < 60_000
        assert 0 <= talk.memory < 2**33

    converse(script)


def test_a_call_that_would_take_long_to_parse_is_refused_by_its_looks() -> None:
    """A call is flat: a million empty lists beside its name are not turned into values."""

    async def script(theirs: socket.socket, running: "asyncio.Task[object]", _channel: Channel, _talk: Talk) -> None:
        bomb = b'{"kind":"call","name":"t","args":"{}","x":[' + b"[]," * 10_000 + b"0]}"
        theirs.send(pack(bomb))
        with pytest.raises(FrameError, match="shape"):
            await running

    converse(script)
