"""The gateway's side of one container: wait until its runner is ready, give it the one job, end it on time.

Whoever is inside may have been taken over: every frame is checked, and a breach of the language is its end. Serves one
job and no second one, and asks the broker for everything else.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

from sandboxes.answers import Answer
from sandboxes.facts import faults, guarantees
from sandboxes.frames import FrameError, unpack_object
from sandboxes.link import Link
from sandboxes.model import Exit, Job, OnCall, SandboxUnavailable, Usage
from sandboxes.talk import HOW, Channel, Gone, Talk
from sandboxes.template import Shape

NAME: Final = "docker"
# The runner ends a job on time by itself; a little later we do.
GRACE: Final = 0.05
# Seconds the broker gets: its own limits are shorter, but for an engine that is merely slow.
CREATE_SECONDS: Final = 15.0
START_SECONDS: Final = 20.0
READY_SECONDS: Final = 10.0
INQUEST_SECONDS: Final = 1.0
REMOVE_SECONDS: Final = 30.0


class Container:
    """A started container whose runner is ready. made: `time.monotonic()` seconds."""

    def __init__(self, link: Link, token: str, shape: Shape) -> None:
        self.id = token
        self.shape = shape
        self.made = time.monotonic()
        self.guarantees: frozenset[str] = frozenset()
        self._link = link
        self._channel = Channel()

    @classmethod
    async def start(cls, link: Link, shape: Shape, status: Mapping[str, object]) -> "Container":
        """A container made for this shape, ready for its job. Raises `SandboxUnavailable`; then none is left."""
        limits = {"memory": shape.memory, "cpu": shape.cpu, "pids": shape.pids, "disk": shape.disk}
        request = {"image": shape.image, "runtime": shape.runtime, "limits": limits}
        made, _ = await link.ask("create", CREATE_SECONDS, request)
        container = cls(link, str(made["id"]), shape)
        try:
            await container._start(status)
        except BaseException:
            # Cancelled too: without waiting, for an engine that hangs must not hold up whoever gave up.
            container._channel.close()
            link.tell("remove", {"id": container.id})
            raise
        return container

    async def _start(self, status: Mapping[str, object]) -> None:
        _, connection = await self._link.ask("start", START_SECONDS, {"id": self.id})
        if connection is None:
            raise SandboxUnavailable("the container broker passed no connection")
        connection.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=connection)
        try:
            async with asyncio.timeout(READY_SECONDS):
                hello = unpack_object(await self._channel.frame())
        except (Gone, FrameError, TimeoutError):
            raise SandboxUnavailable("the container's runner came, and then did not speak its language") from None
        facts = hello.get("facts")
        if hello.get("kind") != "ready" or not isinstance(facts, dict):
            raise SandboxUnavailable("the container's runner did not say what it was given")
        wrong = faults(facts, self.shape.runtime)
        if wrong:
            raise SandboxUnavailable(f"the container is not as it must be: {', '.join(wrong)}")
        self.guarantees = guarantees(facts, self.shape, status)
        self._channel.rest()

    @property
    def alive(self) -> bool:
        """Whether it can serve. One whose broker is gone cannot: the next broker's reaper will remove it."""
        return not self._channel.gone and not self._link.gone

    async def run(self, job: Job, on_call: OnCall, wall: float, warm: bool) -> Exit:
        """Runs the job for at most `wall` seconds plus a grace of 50 ms. The container is spent afterwards."""
        talk = Talk(job, on_call)
        timer = asyncio.get_running_loop().call_later(wall + GRACE, self._time_is_up, talk)
        sandbox_ms = 0.0
        try:
            answer, sandbox_ms = await talk.run(self._channel, wall)
        except (Gone, FrameError):
            answer = Answer(talk.stopped) if talk.stopped else await self._inquest()
        finally:
            timer.cancel()
            self._channel.close()
        usage = Usage((time.monotonic() - talk.started) * 1000, sandbox_ms, None, answer.bytes_out, talk.calls)
        return Exit(
            answer.status,
            answer.limit,
            answer.stdout,
            answer.stderr,
            answer.value,
            answer.truncated,
            usage,
            self.id,
            NAME,
            warm,
            self.guarantees,
            answer.files,
            self.shape.image,
            NAME,
        )

    def _time_is_up(self, talk: Talk) -> None:
        talk.stop("timeout")
        self._channel.close()

    async def _inquest(self) -> Answer:
        """Why the runner went silent, as far as the engine knows: killed for memory, or crashed."""
        with contextlib.suppress(SandboxUnavailable):
            ended, _ = await self._link.ask("kill", INQUEST_SECONDS, {"id": self.id})
            if ended.get("oom") is True:
                return HOW["memory"]
        return Answer("crashed")

    async def remove(self) -> None:
        """Ends the container and waits until it is gone, or the broker has left it to its reaper."""
        self._channel.close()
        with contextlib.suppress(SandboxUnavailable):
            await self._link.ask("remove", REMOVE_SECONDS, {"id": self.id})
