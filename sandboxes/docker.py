"""The way in to containers: a long-lived `Docker` for a gateway, with a pool of containers that stand ready.

One job, one container, and then it is destroyed. Never touches the engine, which the broker alone may; never gives a
job a container that is looser than its limits; and runs nothing where a demand is not met.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Final

from sandboxes.allow import CONTAINERS
from sandboxes.container import NAME, Container
from sandboxes.link import Link
from sandboxes.model import CallRefused, Exit, Job, Limits, OnCall, SandboxUnavailable
from sandboxes.template import Shape
from sandboxes.warm import IDLE_SECONDS, Warm

ENGINE: Final = "/var/run/docker.sock"
# The broker is asked for what the engine can cap, at most so long.
STATUS_SECONDS: Final = 5.0
# How long a job without a deadline waits for its container.
COLD_SECONDS: Final = 20.0
MOST: Final = 16


async def no_calls(_name: str, _args: bytes) -> bytes:
    """The `on_call` of a sandbox that offers no tools."""
    raise CallRefused("no tools can be called from here")


def default_root() -> str:
    """The folder for sockets: short, for the path of a socket has 107 bytes."""
    return "/run/toolgate" if os.geteuid() == 0 else f"/tmp/toolgate-{os.geteuid()}"  # checked on use


class Docker:
    """Containers on the engine behind `engine_socket`, all of them made by a broker.

    broker: the socket of a broker that runs by itself, else one is started as our child. runtime: runc, runsc or kata,
    passed through. images: name → id; only these may run. declared: images (names or ids) and limits that jobs will
    come with, for which `pool` containers each stand ready; `warm` names other numbers. root: the folder for sockets.
    most: jobs that may run at once. ceilings: memory, cpu, pids, disk that no container of a broker of ours exceeds,
    and how many containers it makes. idle: seconds a container stands ready before another takes its place.
    """

    name: Final = NAME

    def __init__(
        self,
        engine_socket: str = ENGINE,
        *,
        broker: str | Path | None = None,
        runtime: str = "runc",
        pool: int = 2,
        images: Mapping[str, str] | None = None,
        declared: Iterable[tuple[str, Limits]] = (),
        warm: Mapping[tuple[str, Limits], int] | None = None,
        root: str | None = None,
        most: int = MOST,
        ceilings: Mapping[str, float] | None = None,
        idle: float = IDLE_SECONDS,
    ) -> None:
        self._images = dict(images or {})
        self._broker = None if broker is None else str(broker)
        self._runtime = runtime
        self._terms: dict[str, object] = {
            "engine": engine_socket,
            "root": root or default_root(),
            "images": sorted(set(self._images.values())),
            "runtimes": [runtime],
        }
        self._pool = pool
        self._warm = Warm(self._make, self._retire, idle)
        # A job that another one waits for has room of its own, at each depth: none waits for one that waits for it.
        self._rooms: defaultdict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(most))
        self._linking = asyncio.Lock()
        self._link: Link | None = None
        self._status: Mapping[str, object] = {}
        self._kept: frozenset[str] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._open = False
        self._sizes: dict[Shape, int] = {}
        self.declare(declared, warm)
        # Room for all that stand ready and for as many again that are on their way out.
        room = max(CONTAINERS, 2 * (sum(self._sizes.values()) + most))
        self._terms["ceilings"] = {"containers": room, **(ceilings or {})}

    def declare(
        self, declared: Iterable[tuple[str, Limits]], warm: Mapping[tuple[str, Limits], int] | None = None
    ) -> None:
        """What jobs will come with, from now on: the pool follows."""
        sizes = Counter({self._shape(image, limits): self._pool for image, limits in declared})
        for (image, limits), size in (warm or {}).items():
            sizes[self._shape(image, limits)] = size
        self._sizes = dict(sizes)
        if self._open:
            self._warm.want(self._sizes)

    def _shape(self, image: str, limits: Limits) -> Shape:
        return Shape.of(self._images.get(image, image), self._runtime, limits)

    @property
    def guarantees(self) -> frozenset[str]:
        """What the last container that was probed keeps; nothing before the first one."""
        return self._kept or frozenset()

    @property
    def ready(self) -> int:
        """How many containers stand ready."""
        return sum(self._warm.ready.values())

    @property
    def broker_pid(self) -> int | None:
        """The process id of the broker, if it is our child and runs."""
        return None if self._link is None else self._link.pid

    async def start(self) -> None:
        """Starts a container to see what can be had here, and the pool.

        Raises `SandboxUnavailable` if none can be had now; the pool goes on trying, and jobs that come later may run.
        """
        self._open = True
        if not self._images:
            raise SandboxUnavailable("no image is registered")
        shapes = [*self._sizes][:1] or [self._shape(image, Limits()) for image in sorted(self._images)]
        self._warm.want(self._sizes)
        try:
            self._warm.add(await self._first(shapes))
        finally:
            self._warm.open()

    async def close(self) -> None:
        """Leaves no container, process, socket or folder; what an engine that is away keeps, a later broker removes."""
        self._open = False
        await self._warm.close()
        if self._retiring:
            await asyncio.wait(self._retiring)
        if self._link is not None:
            await self._link.close()

    async def status(self) -> Mapping[str, object]:
        """What the engine says of itself: engine, runc, kernel, cgroup, runtimes, caps, security, warnings."""
        link = await self._linked()
        found, _ = await link.ask("status", STATUS_SECONDS)
        return found

    async def run(self, job: Job, on_call: OnCall = no_calls) -> Exit:
        """Runs a job in a container of its own. `on_call(name, args)` is awaited for each call of one of `job.tools`.

        Never raises for what the job does; what `on_call` raises, other than `CallRefused`, comes through. Cancelling
        the awaiting task kills the container.
        """
        due = time.monotonic() + COLD_SECONDS if job.deadline is None else job.deadline
        try:
            async with self._claim(job, due) as (container, warm):
                lacking = sorted(job.require - container.guarantees)
                if lacking:
                    return _unavailable(f"this container does not guarantee {', '.join(lacking)}")
                wall = job.limits.wall if job.deadline is None else min(job.limits.wall, due - time.monotonic())
                if wall <= 0:
                    return _unavailable("no time was left to run")
                return await container.run(job, on_call, wall, warm)
        except SandboxUnavailable as error:
            return _unavailable(str(error))

    @contextlib.asynccontextmanager
    async def _claim(self, job: Job, due: float) -> AsyncIterator[tuple[Container, bool]]:
        """A container for this job alone, warm or made for it by `due` (monotonic); retired afterwards."""
        if not self._open:
            raise SandboxUnavailable("the container pool is closed")
        lacking = [] if self._kept is None else sorted(job.require - self._kept)
        if lacking:
            raise SandboxUnavailable(f"docker does not guarantee {', '.join(lacking)}")
        shape = self._shape(job.image, job.limits)
        async with self._turn(due, job.depth):
            container = self._warm.claim(shape)
            warm = container is not None
            try:
                if container is None:
                    async with asyncio.timeout(due - time.monotonic()):
                        container = await self._make(shape)
            except TimeoutError:
                raise SandboxUnavailable("no container became ready in time") from None
            try:
                yield container, warm
            finally:
                self._retire(container)

    @contextlib.asynccontextmanager
    async def _turn(self, due: float, depth: int) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(due - time.monotonic()):
                await self._rooms[depth].acquire()
        except TimeoutError:
            raise SandboxUnavailable("no container became free in time") from None
        try:
            yield
        finally:
            self._rooms[depth].release()

    async def _make(self, shape: Shape) -> Container:
        link = await self._linked()
        container = await Container.start(link, shape, self._status)
        self._kept = container.guarantees
        return container

    async def _first(self, shapes: list[Shape]) -> Container:
        """A container of the first of these that can be made: a broker's list need not have every image."""
        for shape in shapes[:-1]:
            with contextlib.suppress(SandboxUnavailable):
                return await self._make(shape)
        return await self._make(shapes[-1])

    async def _linked(self) -> Link:
        """The link to a living broker that has told what the engine can cap. Raises `SandboxUnavailable`."""
        async with self._linking:
            if self._link is not None and self._link.gone:
                await self._link.close()
                self._link, self._status = None, {}
            if self._link is None:
                self._link = await (Link.reach(self._broker) if self._broker else Link.spawn(self._terms))
            if not self._status:
                self._status, _ = await self._link.ask("status", STATUS_SECONDS)
            return self._link

    def _retire(self, container: Container) -> None:
        task = asyncio.get_running_loop().create_task(container.remove())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _unavailable(text: str) -> Exit:
    return Exit("unavailable", stderr=f"{text}\n", backend=NAME)
