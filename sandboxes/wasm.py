"""The parent's side of one `wasm-python` worker: start it, give it a job, answer its calls, kill it on time.

The worker may have been taken over by what ran in it: every frame is checked, and a breach of the language is its end.
Never blocks the event loop for longer than starting a child takes, and never loads wasmtime.
"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from sandboxes.answers import Answer, cap, read
from sandboxes.frames import FrameError, Splitter, pack, pack_json, unpack_object
from sandboxes.model import ARGS_CAP, CallRefused, Exit, Job, SandboxUnavailable, Status, Usage
from sandboxes.spawn import command

OnCall = Callable[[str, bytes], Awaitable[bytes]]

GRACE: Final = 0.05
READY_SECONDS: Final = 30.0
REAP_SECONDS: Final = 0.002
SMALL_FRAME: Final = 64 * 1024
# Frames a worker may send that nobody waits for: an exit and its answer.
UNREAD: Final = 2
# A call of a tool as a frame: each character at most 12 bytes of ASCII-only JSON.
CALL_FRAME: Final = ARGS_CAP * 12 + SMALL_FRAME
HOW: Final[dict[str, Answer]] = {
    "interrupt": Answer("timeout"),
    "stack": Answer("limit", "stack", stderr="the stack overflowed: recursion or nesting is too deep\n"),
    "oversize": Answer("limit", "output", truncated=True),
    "host_calls": Answer("limit", "host_calls", stderr="too many calls of tools\n"),
    "aborted": Answer("error", stderr="Python aborted: it asked for something that does not exist in this sandbox\n"),
}


class Gone(Exception):
    """The worker's end of the channel is closed, or what came out of it was not the language."""


class Channel(asyncio.Protocol):
    """Frames from one worker. One reader at a time."""

    def __init__(self) -> None:
        self._splitter = Splitter(SMALL_FRAME)
        self._frames: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self.gone = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, part: bytes) -> None:
        try:
            self._frames.extend(self._splitter.feed(part))
        except FrameError:
            self.close()
        if len(self._frames) > UNREAD:
            self.close()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._wake()

    def expect(self, cap: int) -> None:
        """From now on frames of up to `cap` bytes may come. One that came unasked is the end of the channel."""
        self._splitter.cap = cap
        if self._frames:
            self.close()

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


@dataclass(slots=True)
class Conversation:
    """One job as it goes on. stopped: why we ended it ourselves, if we did."""

    job: Job
    on_call: OnCall
    started: float
    asked: int = 0
    calls: int = 0
    stopped: Status | None = None
    task: asyncio.Future[bytes] | None = None


class Worker:
    """One worker process. `tenant` is whose jobs it has run, None for nobody's yet."""

    def __init__(self, argv: list[str]) -> None:
        self.id = secrets.token_hex(4)
        self.runs = 0
        self.tenant: str | None = None
        self._argv = argv
        self._channel = Channel()
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    async def start(cls, argv: list[str]) -> "Worker":
        """A worker that is ready for jobs. `argv` gets the descriptor and our pid appended.

        Raises `SandboxUnavailable` with what the worker said, or that it said nothing in time.
        """
        worker = cls(argv)
        try:
            await worker._start()
        except (OSError, Gone, FrameError, TimeoutError) as error:
            await worker.kill()
            raise SandboxUnavailable(
                f"the sandbox worker did not start: {str(error) or 'it ended or kept silent'}"
            ) from error
        except BaseException:  # cancelled too: no process is left behind
            await worker.kill()
            raise
        return worker

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)
        with theirs:
            # Here and not in a thread: the child is told to die with the thread that started it.
            self._child = subprocess.Popen(  # noqa: ASYNC220  # about 1 ms
                [*self._argv, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        async with asyncio.timeout(READY_SECONDS):
            hello = unpack_object(await self._channel.frame())
        if hello.get("kind") != "ready":
            raise FrameError(str(hello.get("text"))[:500])

    @property
    def alive(self) -> bool:
        return not self._channel.gone

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    async def run(self, job: Job, on_call: OnCall, wall: float, warm: bool) -> Exit:
        """Runs one job for at most `wall` seconds plus a grace of 50 ms. Kills the worker if cancelled."""
        self.runs += 1
        self.tenant = job.tenant
        talk = Conversation(job, on_call, time.monotonic())
        timer = asyncio.get_running_loop().call_later(wall + GRACE, self._time_is_up, talk)
        limit = cap(job.limits)
        self._channel.expect(max(limit, CALL_FRAME))
        sandbox_ms = 0.0
        try:
            self._channel.send(_job_frame(job, wall, limit))
            answer, sandbox_ms = await self._converse(talk)
        except (Gone, FrameError):
            self._destroy()
            answer = Answer(talk.stopped or "crashed")
        except BaseException:
            self._destroy()
            raise
        finally:
            timer.cancel()
        usage = Usage((time.monotonic() - talk.started) * 1000, sandbox_ms, None, answer.bytes_out, talk.calls)
        return Exit(
            answer.status,
            answer.limit,
            answer.stdout,
            answer.stderr,
            answer.value,
            answer.truncated,
            usage,
            f"{self.id}-{self.runs}",
            warm=warm,
        )

    async def _converse(self, talk: Conversation) -> tuple[Answer, float]:
        while True:
            frame = unpack_object(await self._channel.frame())
            kind = frame.get("kind")
            if kind == "exit":
                return await self._exit(frame, talk.job)
            if kind != "call":
                raise FrameError("a frame of unknown kind")
            reply = await self._call(frame, talk)
            self._channel.send(pack(reply))

    async def _exit(self, frame: dict[str, object], job: Job) -> tuple[Answer, float]:
        how, ms = frame.get("how"), frame.get("ms")
        if not isinstance(how, str) or not isinstance(ms, (int, float)):
            raise FrameError("an exit of another shape")
        if how == "returned":
            return read(await self._channel.frame(), job.limits), float(ms)
        if how not in HOW:
            raise FrameError("an exit of unknown kind")
        return HOW[how], float(ms)

    async def _call(self, frame: dict[str, object], talk: Conversation) -> bytes:
        name, args = frame.get("name"), frame.get("args")
        if not isinstance(name, str) or not isinstance(args, str):
            raise FrameError("a call of another shape")
        talk.asked += 1
        if talk.asked > talk.job.limits.host_calls:
            raise FrameError("more calls than allowed")
        if name not in talk.job.tools:
            return _refusal("this tool may not be called from here")
        talk.calls += 1
        talk.task = asyncio.ensure_future(talk.on_call(name, args.encode(errors="replace")))
        try:
            return b'{"value":' + await talk.task + b"}"
        except CallRefused as refusal:
            return _refusal(str(refusal))
        except asyncio.CancelledError:
            if talk.stopped is not None:
                raise Gone from None
            raise
        finally:
            talk.task = None

    def _time_is_up(self, talk: Conversation) -> None:
        talk.stopped = "timeout"
        if talk.task is not None:
            talk.task.cancel()
        self._destroy()

    def _destroy(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
        self._channel.close()

    async def kill(self) -> None:
        """Ends the process and waits until it is gone."""
        self._destroy()
        while self._child is not None and self._child.poll() is None:  # noqa: ASYNC110  # a death sends no event
            await asyncio.sleep(REAP_SECONDS)


def _refusal(text: str) -> bytes:
    return json.dumps({"error": text}).encode()


def _job_frame(job: Job, wall: float, answer_cap: int) -> bytes:
    terms = {"seed": job.seed, "now": job.now, "output": job.limits.output, "tools": sorted(job.tools)}
    return pack_json(
        {
            "program": job.program,
            "args": job.input.decode(errors="replace"),
            "terms": json.dumps(terms),
            "wall": wall,
            "memory": job.limits.memory,
            "host_calls": job.limits.host_calls,
            "answer_cap": answer_cap,
        }
    )


def python_worker(cwasm: str) -> list[str]:
    """The argv of a worker that serves the guest in the file `cwasm`."""
    return command("sandboxes.worker", cwasm)
