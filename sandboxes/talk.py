"""One job's conversation with the sandbox that runs it: frames in and out, calls answered, one answer at the end.

The same for every backend: what is on the other side is untrusted, and a breach of the language is the end of it. Never
starts or kills anything; whoever does closes the channel.
"""

import asyncio
import base64
import json
import time
from collections import deque
from typing import Any, Final, cast

from sandboxes.answers import Answer, cap, read
from sandboxes.frames import TIME_IS_UP, FrameError, Splitter, bare, pack, pack_json, unpack_object
from sandboxes.model import ARGS_CAP, BOUNDS, CallRefused, Job, OnCall, Status

SMALL_FRAME: Final = 64 * 1024
MOST_MEMORY: Final = next(high for name, _, high in BOUNDS if name == "memory")
# Frames a sandbox may send that nobody waits for: an exit and its answer.
UNREAD: Final = 2
# A call of a tool as a frame: each character at most 12 bytes of ASCII-only JSON.
CALL_FRAME: Final = ARGS_CAP * 12 + SMALL_FRAME
# What of a call or an exit stands outside its strings.
PLAIN: Final = 1024
HOW: Final[dict[str, Answer]] = {
    "interrupt": Answer("timeout"),
    "stack": Answer("limit", "stack", stderr="the stack overflowed: recursion or nesting is too deep\n"),
    "memory": Answer("limit", "memory", stderr="the memory limit was reached\n"),
    "oversize": Answer("limit", "output", truncated=True),
    "host_calls": Answer("limit", "host_calls", stderr="too many calls of tools\n"),
    "aborted": Answer("error", stderr="the program aborted: it asked for something that is not in this sandbox\n"),
}


class Gone(Exception):
    """The worker's end of the channel is closed, or what came out of it was not the language."""


class Channel(asyncio.Protocol):
    """Frames from one worker. One reader at a time."""

    def __init__(self) -> None:
        self._splitter = Splitter(SMALL_FRAME)
        self._frames: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._resting = False
        self.gone = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, part: bytes) -> None:
        try:
            self._frames.extend(self._splitter.feed(part))
        except FrameError:
            self.close()
        if len(self._frames) > UNREAD or self._resting:
            self.close()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._wake()

    def expect(self, cap: int) -> None:
        """From now on frames of up to `cap` bytes may come."""
        self._splitter.cap = cap
        self._resting = False

    def rest(self) -> None:
        """Nothing may come until something is expected: whatever came unasked, or comes, is the end of the channel."""
        self._resting = True
        if self._frames or self._splitter.partial:
            self.close()

    @property
    def unsent(self) -> bool:
        """Whether the other side has not taken yet all that was sent to it."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def send(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        self.gone = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    async def frame(self) -> bytes:
        """The next frame's payload. Raises `Gone`."""
        while self.gone or not self._frames:
            if self.gone:
                raise Gone
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._frames.popleft()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Talk:
    """One job as it goes on. stopped: why we ended it ourselves, if we did. calls: those that reached `on_call`.

    At its time `hurry` takes away the call it waits for, so that it can end by itself; `stop` is for one that does not.

    cpu_ms and memory (bytes at the end): what the sandbox said it took, None where it said nothing.
    """

    def __init__(self, job: Job, on_call: OnCall) -> None:
        self.job = job
        self.started = time.monotonic()
        self.calls = 0
        self.stopped: Status | None = None
        self.cpu_ms: float | None = None
        self.memory: int | None = None
        self._on_call = on_call
        self._asked = 0
        self._late = False
        self._task: asyncio.Future[bytes] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, channel: Channel, wall: float) -> tuple[Answer, float]:
        """Sends the job and converses until its answer; also the milliseconds it took inside.

        Raises `Gone` and `FrameError` when the sandbox is gone or broke the language; what `on_call` raised, too.
        """
        limit = cap(self.job.limits)
        channel.expect(max(limit, CALL_FRAME))
        channel.send(_job_frame(self.job, wall, limit))
        while True:
            payload = await channel.frame()
            if len(payload) > PLAIN and len(bare(payload, PLAIN)) > PLAIN:
                raise FrameError("a frame of another shape")
            frame = unpack_object(payload)
            kind = frame.get("kind")
            if kind == "exit":
                ended = await self._exit(frame, channel)
                channel.rest()
                return ended
            if kind != "call":
                raise FrameError("a frame of unknown kind")
            # Else replies that nobody reads would pile up here.
            if channel.unsent:
                raise FrameError("a call before the reply to the last one was read")
            channel.send(pack(await self._call(frame)))

    def hurry(self) -> None:
        """The time is up: cancels the call that is under way, and refuses every further one."""
        self._late = True
        if self._task is not None:
            self._task.cancel()

    def stop(self, why: Status) -> None:
        """Notes why the job is being ended. A call that is under way is cancelled, and not waited for."""
        self.stopped = why
        self.hurry()
        if not self._over.done():
            self._over.set_result(None)

    async def _exit(self, frame: dict[str, object], channel: Channel) -> tuple[Answer, float]:
        # No job took longer inside than it is here, nor has more memory than any may have.
        most = (time.monotonic() - self.started) * 1000
        how, ms = frame.get("how"), _amount(frame, "ms", most)
        if not isinstance(how, str) or ms is None:
            raise FrameError("an exit of another shape")
        self.cpu_ms = _amount(frame, "cpu_ms", most)
        memory = _amount(frame, "memory", MOST_MEMORY)
        self.memory = None if memory is None else int(memory)
        if how == "returned":
            return read(await channel.frame(), self.job.limits), ms
        if how not in HOW:
            raise FrameError("an exit of unknown kind")
        return HOW[how], ms

    async def _call(self, frame: dict[str, object]) -> bytes:
        name, args = frame.get("name"), frame.get("args")
        if not isinstance(name, str) or not isinstance(args, str):
            raise FrameError("a call of another shape")
        self._asked += 1
        if self._asked > self.job.limits.host_calls:
            raise FrameError("more calls than allowed")
        if name not in self.job.tools:
            return _refusal("this tool may not be called from here")
        if self._late:
            return TIME_IS_UP
        self.calls += 1
        self._task = task = asyncio.ensure_future(self._on_call(name, args.encode(errors="replace")))
        try:
            await self._settled(task)
        except asyncio.CancelledError:
            # Whoever made the call may have to write down how it ended.
            task.cancel()
            await self._settled(task)
            raise
        finally:
            self._task = None
        return self._reply(task)

    async def _settled(self, task: asyncio.Future[bytes]) -> None:
        """Until the call is done or the job is stopped, whichever comes first."""
        either: set[asyncio.Future[Any]] = {task, self._over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    def _reply(self, task: asyncio.Future[bytes]) -> bytes:
        if self.stopped is not None:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else looks at it
            raise Gone
        if self._late and task.cancelled():
            return TIME_IS_UP
        try:
            return b'{"value":' + task.result() + b"}"
        except CallRefused as refusal:
            return _refusal(str(refusal))


def _amount(frame: dict[str, object], name: str, most: float) -> float | None:
    """What the sandbox says it took, held between nothing and `most`; None if it says nothing."""
    said = frame.get(name)
    return min(max(said, 0.0), most) if isinstance(said, (int, float)) else None


def _refusal(text: str) -> bytes:
    return json.dumps({"error": text}).encode()


def _job_frame(job: Job, wall: float, answer_cap: int) -> bytes:
    limits = job.limits
    terms = {
        "seed": job.seed,
        "now": job.now,
        "output": limits.output,
        "disk": limits.disk,
        "files_out": limits.files_out,
        "tools": sorted(job.tools),
        "files": {name: base64.b64encode(content).decode() for name, content in job.files.items()},
    }
    return pack_json(
        {
            "kind": "job",
            "program": job.program,
            "command": job.command,
            "args": job.input.decode(errors="replace"),
            "terms": json.dumps(terms),
            "wall": wall,
            "memory": limits.memory,
            "host_calls": limits.host_calls,
            "answer_cap": answer_cap,
        }
    )
