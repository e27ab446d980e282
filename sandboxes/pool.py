"""The way in: a long-lived `WasmPool` for a gateway, or `open_sandbox` for one-off use.

Hands each job to a worker that has served no other tenant, waits in line while all are busy, and replaces workers that
died, were killed, or have run often enough. A demand this backend does not meet is refused, never dropped.
"""

import asyncio
import contextlib
import os
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandboxes.confine import WALLS
from sandboxes.guest import WASM_GUARANTEES
from sandboxes.guests.build import DEFAULT_FOLDER, Progress, ensure, ensure_js
from sandboxes.model import CallRefused, Exit, Job, Limits, OnCall, SandboxUnavailable
from sandboxes.wasm import Worker, python_worker, worker_argv

BACKENDS: Final = frozenset({"wasm-js", "wasm-python"})
KNOWN: Final = " and ".join(sorted(BACKENDS))
RUNS_PER_WORKER: Final = 1000
SPARES: Final = 1
RETRY_SECONDS: Final = (0.1, 0.5, 2.0, 5.0)


def check_demands(backend: str, require: Iterable[str]) -> None:
    """Raises `SandboxUnavailable`, naming what is missing, unless `backend` exists and gives all of `require`."""
    if backend not in BACKENDS:
        raise SandboxUnavailable(f"the sandbox backend {backend!r} is not supported yet; there are {KNOWN}")
    missing = sorted(set(require) - WASM_GUARANTEES)
    if missing:
        raise SandboxUnavailable(f"{backend} does not guarantee {', '.join(missing)}")


def default_workers() -> int:
    return min(2, os.cpu_count() or 1)


async def no_calls(_name: str, _args: bytes) -> bytes:
    """The `on_call` of a sandbox that offers no tools."""
    raise CallRefused("no tools can be called from here")


class WasmPool:
    """A pool of worker processes of one kind: a `sandboxes.model.Backend`.

    argv: gives the worker's program, once; it may build what the worker needs, so it is called in a thread, and raises
    `SandboxUnavailable` if it cannot. image: names what runs in them; known once `argv` was called. workers: jobs that
    may run at once; `spares` more processes stand by. Jobs that other jobs wait for have as much room again, at each
    depth: so none waits for a worker that waits for it.
    """

    def __init__(
        self,
        name: str,
        argv: Callable[[], list[str]],
        *,
        workers: int | None = None,
        spares: int = SPARES,
        runs_per_worker: int = RUNS_PER_WORKER,
        image: str = "",
    ) -> None:
        self.name: Final = name
        self.image = image
        self._source = argv
        self._workers = workers or default_workers()
        self._size = self._workers + spares
        self._runs_per_worker = runs_per_worker
        self._argv: list[str] = []
        self._guarantees = WASM_GUARANTEES
        self._idle: list[Worker] = []
        self._busy: dict[Worker, int] = {}  # with the depth of its job
        self._waiting: defaultdict[int, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._starters: set[asyncio.Task[None]] = set()
        self._killers: set[asyncio.Task[None]] = set()
        self._open = False

    async def start(self) -> None:
        """Sees that the guest is there and starts the workers. Raises `SandboxUnavailable` if none can be had."""
        self._argv = await asyncio.to_thread(self._source)
        worker = await Worker.start(self._argv, self.name, self.image)
        self._guarantees = worker.guarantees
        self._idle.append(worker)
        self._open = True
        self._refill()

    @property
    def guarantees(self) -> frozenset[str]:
        """What a worker keeps here: once started, as the first one said of itself."""
        return self._guarantees

    @property
    def walls(self) -> dict[str, bool]:
        """Which of `sandboxes.confine.WALLS` stand around every worker there is; none is known while there is none."""
        workers = [*self._idle, *self._busy]
        return {wall: all(worker.walls.get(wall, False) for worker in workers) for wall in WALLS} if workers else {}

    async def close(self) -> None:
        """Ends every worker and waits until no process is left. Jobs still running end as crashed."""
        self._open = False
        for starter in self._starters:
            starter.cancel()
        await asyncio.gather(*self._starters, return_exceptions=True)
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        self._wake()
        await asyncio.gather(*(worker.kill() for worker in workers), *self._killers)

    @property
    def pids(self) -> frozenset[int]:
        """The process ids of the workers that are ready or busy."""
        return frozenset(worker.pid for worker in (*self._idle, *self._busy) if worker.pid is not None)

    async def run(self, job: Job, on_call: OnCall = no_calls) -> Exit:
        """Runs a job in a VM of its own. `on_call(name, args)` is awaited for each call of one of `job.tools`.

        Never raises for what the job does; what `on_call` raises, other than `CallRefused`, comes through. Cancelling
        the awaiting task kills the sandbox.
        """
        if job.require - self.guarantees:
            return self._not_run(_missing(job.require, self.guarantees))
        due = time.monotonic() + job.limits.wall if job.deadline is None else job.deadline
        worker = self._claim(job)
        warm = worker is not None
        if worker is None:
            worker = await self._wait(job, due)
            if worker is None:
                return self._not_run("no sandbox became free in time")
        try:
            wall = job.limits.wall if job.deadline is None else min(job.limits.wall, due - time.monotonic())
            if wall <= 0:
                return self._not_run("no time was left to run")
            if job.require - worker.guarantees:
                return self._not_run(_missing(job.require, worker.guarantees))
            return await worker.run(job, on_call, wall, warm)
        finally:
            self._release(worker)

    def _not_run(self, why: str) -> Exit:
        return Exit("unavailable", stderr=f"{self.name}: {why}\n", backend=self.name)

    def _full(self, depth: int) -> bool:
        return sum(each == depth for each in self._busy.values()) >= self._workers

    def _claim(self, job: Job) -> Worker | None:
        """An idle worker of this tenant, else one of nobody's yet; None if there is none or enough are busy."""
        if not self._open or self._full(job.depth):
            return None
        for owner in (job.tenant, None):
            for worker in reversed(self._idle):
                if worker.tenant == owner and worker.alive:
                    self._idle.remove(worker)
                    self._busy[worker] = job.depth
                    return worker
        return None

    async def _wait(self, job: Job, due: float) -> Worker | None:
        """As `_claim`, waiting until `due` (monotonic seconds)."""
        worker = None
        try:
            async with asyncio.timeout(due - time.monotonic()):
                while self._open and worker is None:
                    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting[job.depth].append(turn)
                    self._make_room(job.depth)
                    await turn
                    worker = self._claim(job)
        except TimeoutError:
            pass
        finally:
            if worker is None:
                self._wake()  # the turn may have been ours; pass it on
        return worker

    def _make_room(self, depth: int) -> None:
        """Sees to it that a fresh worker comes when all idle ones are of other tenants: the longest idle one goes."""
        self._refill()
        if not self._full(depth) and not self._starters and self._idle:
            self._send_away(self._idle.pop(0))

    def _release(self, worker: Worker) -> None:
        del self._busy[worker]
        fresh = worker.runs < self._runs_per_worker and len(self._idle) < self._size and not worker.slow
        if self._open and worker.alive and fresh:
            self._idle.append(worker)
            self._wake()
        else:
            self._send_away(worker)

    def _send_away(self, worker: Worker) -> None:
        killer = asyncio.create_task(worker.kill())
        self._killers.add(killer)
        killer.add_done_callback(self._killers.discard)
        self._refill()

    def _refill(self) -> None:
        if not self._open:
            return
        for worker in [worker for worker in self._idle if not worker.alive]:
            self._idle.remove(worker)
            self._send_away(worker)
        nested = sum(depth > 0 for depth in self._busy.values())
        nested += sum(len(queue) for depth, queue in self._waiting.items() if depth > 0)
        for _ in range(self._size + nested - len(self._idle) - len(self._busy) - len(self._starters)):
            starter = asyncio.create_task(self._start_one())
            self._starters.add(starter)
            starter.add_done_callback(self._started)

    async def _start_one(self) -> None:
        for pause in RETRY_SECONDS:
            with contextlib.suppress(SandboxUnavailable):
                self._idle.append(await Worker.start(self._argv, self.name, self.image))
                return
            await asyncio.sleep(pause)

    def _started(self, starter: asyncio.Task[None]) -> None:
        self._starters.discard(starter)
        self._wake()

    def _wake(self) -> None:
        """Gives the next in line at each depth a turn; everybody, once closed."""
        for queue in self._waiting.values():
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    if self._open:
                        break


def _missing(require: frozenset[str], given: frozenset[str]) -> str:
    return f"{', '.join(sorted(require - given))} is not guaranteed"


class WasmPython(WasmPool):
    """The pool of the backend `wasm-python`.

    guests: the folder the guest is built in. worker_argv: the worker's program, for those who bring their own. The rest
    as for `WasmPool`.
    """

    def __init__(
        self,
        guests: Path | None = None,
        *,
        workers: int | None = None,
        spares: int = SPARES,
        runs_per_worker: int = RUNS_PER_WORKER,
        progress: Progress = lambda _line: None,
        worker_argv: list[str] | None = None,
    ) -> None:
        folder = guests or Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER))

        def source() -> list[str]:
            if worker_argv is not None:
                return worker_argv
            built = ensure(folder, progress)
            self.image = f"sha256:{built.wasm_sha256}"
            return python_worker(str(built.cwasm))

        super().__init__(
            "wasm-python",
            source,
            workers=workers,
            spares=spares,
            runs_per_worker=runs_per_worker,
        )


class WasmJs(WasmPool):
    """The pool of the backend `wasm-js`. guests: the folder the guest is built in. The rest as for `WasmPool`."""

    def __init__(
        self,
        guests: Path | None = None,
        *,
        workers: int | None = None,
        spares: int = SPARES,
        runs_per_worker: int = RUNS_PER_WORKER,
        progress: Progress = lambda _line: None,
    ) -> None:
        folder = guests or Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER))

        def source() -> list[str]:
            built = ensure_js(folder, progress)
            self.image = f"sha256:{built.wasm_sha256}"
            return worker_argv("js", str(built.cwasm))

        super().__init__(
            "wasm-js",
            source,
            workers=workers,
            spares=spares,
            runs_per_worker=runs_per_worker,
        )


class Box:
    """A sandbox that is open: jobs run here one by one, each in a VM of its own, none over `limits`."""

    def __init__(self, pool: WasmPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self.guarantees = pool.guarantees

    async def run(self, job: Job, on_call: OnCall = no_calls) -> Exit:
        """As `WasmPool.run`; the lower of the job's and the sandbox's limits holds."""
        ours, theirs = self._limits, job.limits
        limits = Limits(
            min(ours.wall, theirs.wall),
            min(ours.memory, theirs.memory),
            min(ours.output, theirs.output),
            min(ours.host_calls, theirs.host_calls),
            min(ours.cpu, theirs.cpu),
            min(ours.pids, theirs.pids),
            min(ours.disk, theirs.disk),
            min(ours.files_out, theirs.files_out),
        )
        return await self._pool.run(replace(job, limits=limits), on_call)


@contextlib.asynccontextmanager
async def open_sandbox(
    backend: str, limits: Limits, require: frozenset[str] = frozenset(), pool: WasmPool | None = None
) -> AsyncIterator[Box]:
    """A sandbox of the named backend that guarantees all of `require`; without a `pool`, one of its own for the while.

    Raises `SandboxUnavailable` if the backend does not exist here or does not give a guarantee.
    """
    check_demands(backend, require)
    if pool is not None:
        yield Box(pool, limits)
        return
    own = (WasmJs if backend == "wasm-js" else WasmPython)(workers=1, spares=0)
    try:
        await own.start()
        yield Box(own, limits)
    finally:
        await own.close()
