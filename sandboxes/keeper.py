"""The broker's hands: makes, starts and ends containers, and lets each one's runner in through its own socket.

Gives up waiting as soon as the engine stops answering, whatever an operation's own time limit. Knows only what it made
itself; what it lost track of is left to the reaper.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sandboxes.allow import Allowed, Refused
from sandboxes.engine import Engine, EngineRefused, Seen, State
from sandboxes.folders import Folders
from sandboxes.template import UID, Shape, container

T = TypeVar("T")
NAME: Final = "toolgate-"
OWNER: Final = "dev.toolgate.owner"
INSTANCE: Final = "dev.toolgate.broker"
LEASE: Final = "dev.toolgate.lease"
# Seconds from a container's making after which its broker removes it, and any other broker may.
LEASE_SECONDS: Final = 900
# While an operation is under way the engine is asked this often, in seconds, whether it is still there.
PULSE: Final = 0.25
READY_SECONDS: Final = 15.0
MAKERS: Final = 4
ENDERS: Final = 4
CREDENTIALS: Final = struct.Struct("3i")


@dataclass(slots=True, eq=False)
class Held:
    """A container we made. engine_id: the engine's name for it. runner: a descriptor of the runner's process.

    made: `time.monotonic()` seconds.
    """

    token: str
    shape: Shape
    listener: socket.socket
    engine_id: str = ""
    started: bool = False
    runner: int | None = None
    made: float = field(default_factory=time.monotonic)


class Keeper:
    """All containers of one broker. Every method may raise `Refused`, `EngineDown` or `EngineRefused`."""

    def __init__(self, engine: Engine, allowed: Allowed, folders: Folders, seccomp: str) -> None:
        self._engine = engine
        self._allowed = allowed
        self._folders = folders
        self._seccomp = seccomp
        self._makers = ThreadPoolExecutor(MAKERS)
        self._enders = ThreadPoolExecutor(ENDERS)
        self._pinger = ThreadPoolExecutor(1)
        self._pulse: asyncio.Future[None] | None = None
        self._plain: set[str] = set()
        self.held: dict[str, Held] = {}

    async def create(self, shape: Shape) -> Held:
        """Makes a container of this shape, with its folder and socket."""
        if len(self.held) >= self._allowed.containers:
            raise Refused("there are as many containers as the broker allows")
        token = secrets.token_hex(8)
        held = Held(token, shape, self._folders.make(token))
        self.held[token] = held
        labels = {
            OWNER: self._folders.owner,
            INSTANCE: self._folders.instance,
            LEASE: str(int(time.time()) + LEASE_SECONDS),
        }
        body = container(shape, self._folders.path(token), self._seccomp, labels)
        try:
            await self._no_volumes(shape.image)
            held.engine_id = await self._ask(self._makers, lambda: self._engine.create(NAME + token, body))
        except BaseException:
            self._forget(held)
            raise
        return held

    async def _no_volumes(self, image: str) -> None:
        """An image's volumes would be writable and unbounded: `Refused` if it asks for any."""
        if image not in self._plain:
            if await self._ask(self._makers, lambda: self._engine.volumes(image)):
                raise Refused("the image declares volumes, which would be writable without bound")
            self._plain.add(image)

    async def start(self, held: Held) -> socket.socket:
        """Starts the container and gives the connection of its runner, once it has come in; nobody else can after."""
        if held.started:
            raise Refused("that container was started before")
        held.started = True
        await self._ask(self._makers, lambda: self._engine.start(held.engine_id))
        connection = await self._admit(held)
        if held.token not in self.held:
            connection.close()
            raise Refused("that container was removed before its runner came in")
        _shut(held.listener)
        self._folders.shut(held.token)
        with contextlib.suppress(OSError):
            held.runner = os.pidfd_open(_peer(connection)[0])
        return connection

    async def _admit(self, held: Held) -> socket.socket:
        """Waits for the runner as long as the container runs. Raises `EngineRefused` if it does not come."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    connection = await self._next(held)
                    with contextlib.ExitStack() as turned_away:
                        turned_away.enter_context(connection)
                        if await self._is_runner(connection, held):
                            turned_away.pop_all()
                            return connection
        except TimeoutError:
            raise EngineRefused("the runner did not connect: the engine may not see the broker's folder") from None

    async def _next(self, held: Held) -> socket.socket:
        """Whoever comes in next. Raises `EngineRefused` when the container has ended."""
        accepting = asyncio.get_running_loop().create_task(asyncio.get_running_loop().sock_accept(held.listener))
        try:
            while not (await asyncio.wait({accepting}, timeout=2 * PULSE))[0]:
                state = await self._ask(self._makers, lambda: self._engine.state(held.engine_id))
                if not state.running:
                    raise EngineRefused(f"the container ended with code {state.code} before its runner was ready")
            return accepting.result()[0]
        finally:
            accepting.cancel()

    async def _is_runner(self, connection: socket.socket, held: Held) -> bool:
        """Whether who came in is the container's first process: the path of a socket is no secret on its machine."""
        pid, uid = _peer(connection)
        if held.shape.runtime != "runc":
            # A runtime with a kernel of its own connects as itself, not as the process inside.
            return uid in {0, UID}
        if uid != UID:
            return False
        state = await self._ask(self._makers, lambda: self._engine.state(held.engine_id))
        # 0: a process that this broker, in a container of its own, cannot see.
        return pid in {0, state.pid}

    async def kill(self, held: Held) -> State:
        """Ends the container and tells how it ended, if it had ended by itself."""
        self._strike(held)
        await self._ask(self._enders, lambda: self._engine.kill(held.engine_id))
        return await self._ask(self._enders, lambda: self._engine.state(held.engine_id))

    async def remove(self, held: Held) -> None:
        """Ends and removes the container, its folder and its socket. What fails is left to the reaper."""
        self._strike(held)
        self._forget(held)
        if held.engine_id:
            await self.remove_by_id(held.engine_id)

    async def remove_by_id(self, engine_id: str) -> None:
        await self._ask(self._enders, lambda: self._engine.remove(engine_id))

    async def seen(self) -> list[Seen]:
        """Every container on the engine that a broker made."""
        return await self._ask(self._enders, lambda: self._engine.labelled(OWNER))

    async def status(self) -> dict[str, object]:
        return await self._ask(self._enders, self._engine.status)

    def _strike(self, held: Held) -> None:
        """Kills the runner directly where the kernel lets us, for an engine that hangs cannot."""
        if held.runner is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(held.runner, signal.SIGKILL)

    def _forget(self, held: Held) -> None:
        if self.held.pop(held.token, None) is not None:
            _shut(held.listener)
            if held.runner is not None:
                os.close(held.runner)
                held.runner = None
            self._folders.drop(held.token)

    async def _ask(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """`work` in a thread. Given up as `EngineDown` when the engine falls silent; what it still does is not ours."""
        asked = asyncio.get_running_loop().run_in_executor(threads, work)
        try:
            while not (await asyncio.wait({asked}, timeout=PULSE))[0]:
                await self._feel()
            return asked.result()
        finally:
            if not asked.cancel():
                asked.exception()

    async def _feel(self) -> None:
        """One ping for all who wait. Raises `EngineDown`."""
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.get_running_loop().run_in_executor(self._pinger, self._engine.ping)
            # Nobody may be left to hear of it.
            self._pulse.add_done_callback(lambda pulse: pulse.cancelled() or pulse.exception())
        await asyncio.shield(self._pulse)


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The process id and the user id at the other end."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(peer)
    return int(pid), int(uid)


def _shut(listener: socket.socket) -> None:
    """Closes it, if it is open. Nobody may wait there any more: the loop's next socket may get its number."""
    if listener.fileno() >= 0:
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()
