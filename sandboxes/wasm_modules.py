"""The backend `wasm`: an operator's registered programs, each in workers of its own.

Workers of a program are started at its first call; of the programs not used for longest the workers go when there are
too many. A digest that is not registered is refused. Never compiles anything in a call.
"""

import asyncio
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final

from sandboxes.guest import WASM_GUARANTEES
from sandboxes.guests.build import Progress
from sandboxes.model import Exit, Job, OnCall, SandboxUnavailable
from sandboxes.modules import Module, find, refresh
from sandboxes.pool import WasmPool, no_calls
from sandboxes.wasm import worker_argv

MAX_POOLS: Final = 4
# How long a job without a deadline waits for workers of its program.
START_SECONDS: Final = 30.0


class Running:
    """The workers of one program, as they start and serve. jobs: those that are here now."""

    def __init__(self, pool: WasmPool) -> None:
        self.pool = pool
        self.jobs = 0
        self.started = asyncio.create_task(pool.start())

    async def end(self) -> None:
        self.started.cancel()
        await asyncio.gather(self.started, return_exceptions=True)
        await self.pool.close()


class WasmModules:
    """`sandboxes.model.Backend` for programs by digest. guests: the folder in which they are registered.

    workers: jobs of one program that may run at once. pools: programs that have workers at the same time.
    """

    name: Final = "wasm"

    def __init__(
        self,
        guests: Path,
        *,
        workers: int | None = None,
        pools: int = MAX_POOLS,
        progress: Progress = lambda _line: None,
    ) -> None:
        self._guests = guests
        self._workers = workers
        self._most = pools
        self._progress = progress
        self._running: OrderedDict[str, Running] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()
        self._free = asyncio.Condition()
        self._open = False

    @property
    def guarantees(self) -> frozenset[str]:
        """What every program's worker keeps; where one says less when it is ready, its jobs are held against that."""
        return WASM_GUARANTEES

    def known(self, digest: str) -> Module | None:
        """The registered program, None if there is none. Raises `SandboxUnavailable` if it has no native code here."""
        module = find(self._guests, digest)
        if module is not None and module.cwasm is None:
            raise SandboxUnavailable(
                f"{digest} was compiled for another wasmtime or processor, or its file was changed; register it again"
            )
        return module

    async def start(self) -> None:
        """Compiles what was registered under another version or on another machine. Starts no workers yet."""
        await asyncio.to_thread(refresh, self._guests, self._progress)
        self._open = True

    async def close(self) -> None:
        """Ends all workers and waits until no process is left. Jobs still running end as crashed."""
        self._open = False
        running = list(self._running.values())
        self._running.clear()
        async with self._free:
            self._free.notify_all()
        await asyncio.gather(*(each.end() for each in running), *self._ending)

    @property
    def pids(self) -> frozenset[int]:
        """The process ids of all workers that are ready or busy."""
        return frozenset(pid for each in self._running.values() for pid in each.pool.pids)

    async def run(self, job: Job, on_call: OnCall = no_calls) -> Exit:
        """As `WasmPool.run`, in a worker of the program `job.module`."""
        patience = START_SECONDS if job.deadline is None else job.deadline - time.monotonic()
        try:
            async with asyncio.timeout(patience):
                running = await self._claim(job.module)
        except TimeoutError:
            return self._not_run("no worker of this program could be had in time")
        except SandboxUnavailable as error:
            return self._not_run(str(error))
        try:
            return await running.pool.run(job, on_call)
        finally:
            await self._give_back(running)

    def _not_run(self, why: str) -> Exit:
        return Exit("unavailable", stderr=f"wasm: {why}\n", backend=self.name)

    async def _claim(self, digest: str) -> Running:
        """The program's workers, started if need be; they stay while a job is here. Raises `SandboxUnavailable`."""
        running = self._running.get(digest)
        if running is None:
            module = await asyncio.to_thread(self.known, digest)
            if module is None:
                raise SandboxUnavailable(f"no program with the digest {digest!r} is registered")
            async with self._free:
                await self._free.wait_for(lambda: digest in self._running or self._make_room())
            if not self._open:
                raise SandboxUnavailable("the backend is closed")
            running = self._running.get(digest) or Running(self._pool(module))
            self._running[digest] = running
        self._running.move_to_end(digest)
        running.jobs += 1
        try:
            if not running.started.done():
                await asyncio.shield(running.started)
            running.started.result()
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self._forget(digest, running)
            await self._give_back(running)
            raise
        return running

    def _pool(self, module: Module) -> WasmPool:
        argv = worker_argv(module.kind, str(module.cwasm))
        return WasmPool(self.name, lambda: argv, workers=self._workers, spares=0, image=module.digest)

    def _make_room(self) -> bool:
        """Whether another program's workers may start; sends away those of the one that is idle for longest."""
        if len(self._running) < self._most or not self._open:
            return True
        for digest, running in self._running.items():
            if not running.jobs:
                self._forget(digest, running)
                return True
        return False

    def _forget(self, digest: str, running: Running) -> None:
        if self._running.get(digest) is running:
            del self._running[digest]
            ending = asyncio.create_task(running.end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _give_back(self, running: Running) -> None:
        running.jobs -= 1
        async with self._free:
            self._free.notify_all()
