"""The parent's side of one worker: start it, give it a job, answer its calls, kill it on time.

The worker may have been taken over by what ran in it: every frame is checked, and a breach of the language is its end.
Never blocks the event loop for longer than starting a child takes, and never loads wasmtime.
"""

import asyncio
import functools
import importlib.metadata
import os
import secrets
import socket
import subprocess
import time
from typing import Final

from sandboxes.answers import Answer
from sandboxes.confine import WALLS
from sandboxes.frames import FrameError, unpack_object
from sandboxes.guest import WASM_GUARANTEES
from sandboxes.model import Exit, Job, OnCall, SandboxUnavailable, Usage
from sandboxes.spawn import command, first_to_go, set_nice
from sandboxes.talk import Channel, Gone, Talk

# Seconds after which a job counts as a long one, and how nice it is from then on: about a tenth of the processor time
# of whoever wants it as much.
LONG: Final = 0.1
NICE: Final = 10
# From the limit to the kill. The guest's own alarm ends nearly every job in a few milliseconds before that.
GRACE: Final = 0.04
READY_SECONDS: Final = 30.0
REAP_SECONDS: Final = 0.002


class Worker:
    """One worker process. `tenant` is whose jobs it has run, None for nobody's yet.

    guarantees, walls: those it said it keeps, and which stand around it, when it was ready: no guest had run in it yet.
    """

    def __init__(self, argv: list[str], backend: str, image: str = "") -> None:
        self.id = secrets.token_hex(4)
        self.runs = 0
        self.tenant: str | None = None
        self.guarantees: frozenset[str] = frozenset()
        self.walls: dict[str, bool] = {}
        self._argv = argv
        self._backend = backend
        self._image = image
        self._channel = Channel()
        self._child: subprocess.Popen[bytes] | None = None
        self._nice = 0

    @classmethod
    async def start(cls, argv: list[str], backend: str = "wasm-python", image: str = "") -> "Worker":
        """A worker that is ready for jobs. `argv` gets the descriptor and our pid appended; `image` is named in exits.

        Raises `SandboxUnavailable` with what the worker said, or that it said nothing in time.
        """
        worker = cls(argv, backend, image)
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
        first_to_go(self._child.pid)
        async with asyncio.timeout(READY_SECONDS):
            hello = unpack_object(await self._channel.frame())
        if hello.get("kind") != "ready":
            raise FrameError(str(hello.get("text"))[:500])
        said, walls = hello.get("guarantees"), hello.get("walls")
        if isinstance(said, list) and isinstance(walls, dict):
            self.guarantees = WASM_GUARANTEES.intersection(map(str, said))
            self.walls = {wall: walls.get(wall) is True for wall in WALLS}
        self._channel.rest()

    @property
    def alive(self) -> bool:
        return not self._channel.gone

    @property
    def slow(self) -> bool:
        """Whether it stepped back for a long job and, without privileges, cannot step up again."""
        return self._nice > 0

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    async def run(self, job: Job, on_call: OnCall, wall: float, warm: bool) -> Exit:
        """Runs one job for at most `wall` seconds and a grace. Kills the worker if cancelled.

        At the limit the worker interrupts the guest, and the call the guest may be waiting for is cancelled here; the
        worker that has not answered by the end of the grace is killed. Either way the answer comes within 50 ms.
        """
        self.runs += 1
        self.tenant = job.tenant
        talk = Talk(job, on_call)
        loop = asyncio.get_running_loop()
        timers = (
            loop.call_later(LONG, self._step_back),
            loop.call_later(wall, talk.hurry),
            loop.call_later(wall + GRACE, self._time_is_up, talk),
        )
        sandbox_ms = 0.0
        try:
            answer, sandbox_ms = await talk.run(self._channel, wall)
        except (Gone, FrameError):
            self._destroy()
            answer = Answer(talk.stopped or "crashed")
        except BaseException:
            self._destroy()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self._step_up()
        wall_ms = (time.monotonic() - talk.started) * 1000
        usage = Usage(wall_ms, sandbox_ms, talk.memory, answer.bytes_out, talk.calls, talk.cpu_ms)
        return Exit(
            answer.status,
            answer.limit,
            answer.stdout,
            answer.stderr,
            answer.value,
            answer.truncated,
            usage,
            f"{self.id}-{self.runs}",
            self._backend,
            warm,
            self.guarantees,
            files=answer.files,
            image=self._image,
            engine=engine_version(),
        )

    def _step_back(self) -> None:
        """A job that goes on for long leaves the processor to whoever waits for a short one, or for the gateway."""
        if self.pid is not None:
            self._nice = NICE
            set_nice(self.pid, NICE)

    def _step_up(self) -> None:
        if self._nice and self.pid is not None and set_nice(self.pid, 0):
            self._nice = 0

    def _time_is_up(self, talk: Talk) -> None:
        talk.stop("timeout")
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


@functools.cache
def engine_version() -> str:
    """What runs the guests here, as exits name it."""
    return f"wasmtime {importlib.metadata.version('wasmtime')}"


def worker_argv(kind: str, cwasm: str) -> list[str]:
    """The argv of a worker that serves the guest in the file `cwasm`; `kind` as in `sandboxes.worker.KINDS`."""
    return command("sandboxes.worker", kind, cwasm)


def python_worker(cwasm: str) -> list[str]:
    """The argv of a worker for `wasm-python`."""
    return worker_argv("python", cwasm)
