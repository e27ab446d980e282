"""Containers that stand ready before their job comes, by shape: each serves one job, and is made up for at once.

A job gets one of exactly its own shape or none: never a looser one. Never waits for a container, and never gives one
out that is dead or near the end of its lease.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sandboxes.container import Container
from sandboxes.model import SandboxUnavailable
from sandboxes.template import Shape

# Containers made at the same time.
FILLERS: Final = 2
LOOK_SECONDS: Final = 1.0
AHEAD_SECONDS: Final = 0.03
# After a failure a shape is left alone for so long.
REST_SECONDS: Final = 1.0
# The broker's lease (900 s) less the longest job (300 s) and a margin.
IDLE_SECONDS: Final = 540.0


class Warm:
    """make: starts a container. retire: takes one away in the background. idle: seconds one may stand ready."""

    def __init__(
        self,
        make: Callable[[Shape], Awaitable[Container]],
        retire: Callable[[Container], None],
        idle: float = IDLE_SECONDS,
    ) -> None:
        self._make = make
        self._retire = retire
        self._idle_seconds = idle
        self._sizes: Mapping[Shape, int] = {}
        self._idle: dict[Shape, deque[Container]] = {}
        self._making: Counter[Shape] = Counter()
        self._resting: dict[Shape, float] = {}
        self._wanted = asyncio.Event()
        self._fillers: list[asyncio.Task[None]] = []

    def open(self) -> None:
        self._fillers = [asyncio.get_running_loop().create_task(self._fill()) for _ in range(FILLERS)]

    async def close(self) -> None:
        """Stops filling, and retires all that stand ready."""
        for filler in self._fillers:
            filler.cancel()
        await asyncio.gather(*self._fillers, return_exceptions=True)
        self._fillers = []
        self.want({})

    def want(self, sizes: Mapping[Shape, int]) -> None:
        """How many of each shape shall stand ready from now on; those of other shapes go."""
        self._sizes = sizes
        for shape in self._idle.keys() - sizes.keys():
            for container in self._idle.pop(shape):
                self._retire(container)
        self._wanted.set()

    def claim(self, shape: Shape) -> Container | None:
        """One that stands ready and has served nobody, or None."""
        self._sift(shape)
        idle = self._idle.get(shape)
        container = idle.popleft() if idle else None
        # A start takes the processors for longer than most jobs last: the job gets ahead of its successor.
        asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._wanted.set)
        return container

    def add(self, container: Container) -> None:
        """One more that stands ready; retired at once when there are enough."""
        idle = self._idle.setdefault(container.shape, deque())
        if len(idle) < self._sizes.get(container.shape, 0):
            idle.append(container)
        else:
            self._retire(container)

    @property
    def ready(self) -> Mapping[Shape, int]:
        """How many stand ready, by shape."""
        return {shape: sum(one.alive for one in idle) for shape, idle in self._idle.items() if idle}

    def _sift(self, shape: Shape) -> None:
        """Retires those of a shape that died or are too old."""
        oldest = time.monotonic() - self._idle_seconds
        idle = self._idle.get(shape, deque())
        for container in [one for one in idle if not one.alive or one.made < oldest]:
            idle.remove(container)
            self._retire(container)

    async def _fill(self) -> None:
        while True:
            shape = self._next()
            if shape is None:
                self._wanted.clear()
                await self._pause()
                continue
            self._making[shape] += 1
            try:
                self.add(await self._make(shape))
            except SandboxUnavailable:
                self._resting[shape] = time.monotonic() + REST_SECONDS
            finally:
                self._making[shape] -= 1

    async def _pause(self) -> None:
        """Until something is wanted, or it is time to look whether something died."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._wanted.wait()

    def _next(self) -> Shape | None:
        """A shape of which there are too few and that did not fail a moment ago."""
        now = time.monotonic()
        for shape, size in self._sizes.items():
            self._sift(shape)
            if len(self._idle.get(shape, ())) + self._making[shape] < size and self._resting.get(shape, 0.0) <= now:
                return shape
        return None
