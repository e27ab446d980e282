"""The broker: a process of its own that alone holds the engine's socket, and knows five verbs and one container.

create, start, kill, remove, status. What it may make stands in its own allow-list, fixed when it starts; a request says
which image, which runtime and four numbers, and never a path, an environment, a mount or a privilege. Run by the
gateway as a child, or by another user: `python -m sandboxes.broker --listen PATH --allow FILE --peer-uid N`.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sandboxes import allow
from sandboxes.allow import Allowed, Refused
from sandboxes.engine import Engine, EngineDown, EngineRefused
from sandboxes.folders import Folders
from sandboxes.frames import FrameError, unpack_object
from sandboxes.keeper import CREDENTIALS, INSTANCE, Held, Keeper
from sandboxes.reaper import Reaper

PROFILE: Final = Path(__file__).parent / "profiles" / "seccomp.json"
# One message is one request: longer ones, or more of them at once, come from nobody who means well.
MESSAGE: Final = 64 * 1024
AT_ONCE: Final = 256
# Seconds that what is under way gets to end, once the gateway is gone, and that cleaning may take after that.
LAST_WAIT: Final = 8.0
LAST_CLEAN: Final = 15.0
FULL: Final = 0.01
# Gateways at once, and seconds until a door that could let nobody in tries again.
GATEWAYS: Final = 32
CROWDED: Final = 0.2
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
DESCRIPTORS: Final = 1024

Answer = tuple[dict[str, object], socket.socket | None]


class Conversation:
    """One gateway at the other end of a socket (SOCK_SEQPACKET), and the containers made for it, which end with it."""

    def __init__(self, channel: socket.socket, keeper: Keeper, allowed: Allowed) -> None:
        self._channel = channel
        self._keeper = keeper
        self._allowed = allowed
        self._mine: dict[str, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        channel.setblocking(False)

    async def run(self) -> None:
        """Serves requests until the other end is gone or breaks the language; then ends every container of its."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._readable)
        try:
            await self._over.wait()
        finally:
            loop.remove_reader(self._channel)
            self._channel.close()
            await self._clean()

    async def _clean(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WAIT)
        await asyncio.gather(*map(self._keeper.remove, [*self._mine.values()]), return_exceptions=True)

    def _readable(self) -> None:
        try:
            message = self._channel.recv(MESSAGE)
            request = unpack_object(message) if message else None
        except BlockingIOError:
            return
        except (OSError, FrameError):
            request = None
        if request is None or len(self._tasks) >= AT_ONCE:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._over.set()
            return
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, request: dict[str, object]) -> None:
        """Answers one request: `{"seq", "ok"}`, or `{"seq", "error", "text"}` with error refused, down or failed."""
        seq, verb = request.pop("seq", None), request.pop("verb", None)
        passed = None
        try:
            if not isinstance(seq, int):
                raise Refused("a request has a number of its own")
            answer, passed = await self._verb(verb, request)
            reply: dict[str, object] = {"seq": seq, "ok": answer}
        except Refused as error:
            reply = {"seq": seq if isinstance(seq, int) else None, "error": "refused", "text": str(error)}
        except EngineDown as error:
            reply = {"seq": seq, "error": "down", "text": str(error)}
        except (EngineRefused, OSError) as error:
            reply = {"seq": seq, "error": "failed", "text": str(error)}
        with contextlib.ExitStack() as stack:
            if passed is not None:
                stack.enter_context(passed)
            await self._send(json.dumps(reply).encode(), passed)

    async def _verb(self, verb: object, request: dict[str, object]) -> Answer:
        match verb:
            case "create":
                held = await self._keeper.create(self._allowed.shape(request))
                self._mine[held.token] = held
                return {"id": held.token}, None
            case "start":
                return {}, await self._keeper.start(self._found(request))
            case "kill":
                state = await self._keeper.kill(self._found(request))
                return {"oom": state.oom, "code": state.code}, None
            case "remove":
                held = self._found(request)
                del self._mine[held.token]
                await self._keeper.remove(held)
                return {}, None
            case "status":
                allow.only(request, set())
                return await self._keeper.status(), None
        raise Refused("there is no such verb")

    def _found(self, request: dict[str, object]) -> Held:
        held = self._mine.get(allow.token(request))
        if held is None:
            raise Refused("that container was not made in this conversation, or is gone")
        return held

    async def _send(self, message: bytes, passed: socket.socket | None) -> None:
        descriptors = [] if passed is None else [passed.fileno()]
        while not self._over.is_set():
            try:
                socket.send_fds(self._channel, [message], descriptors)
                return
            except BlockingIOError:
                await asyncio.sleep(FULL)
            except OSError:
                self._over.set()


class Broker:
    """Everything of one broker process: its folder, its engine, its containers and its reaper."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._folders = Folders(allowed.root)
        self._keeper = Keeper(Engine(allowed.engine), allowed, self._folders, PROFILE.read_text())
        self._reaper = Reaper(self._keeper, self._folders)

    async def attend(self, channel: socket.socket) -> None:
        """Serves the one gateway whose child this is, and ends with it."""
        reaping = asyncio.create_task(self._reaper.run())
        await Conversation(channel, self._keeper, self._allowed).run()
        reaping.cancel()
        await self._leave()

    async def listen(self, door: socket.socket, peer: int) -> None:
        """Serves every gateway of the user `peer`, until SIGTERM."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, over.set)
        tasks = {asyncio.create_task(self._reaper.run()), asyncio.create_task(self._accept(door, peer))}
        await over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._leave()

    async def _accept(self, door: socket.socket, peer: int) -> None:
        loop = asyncio.get_running_loop()
        inside: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as guests:
            while True:
                try:
                    channel, _ = await loop.sock_accept(door)
                except OSError:
                    await asyncio.sleep(CROWDED)
                    continue
                _, uid, _ = CREDENTIALS.unpack(
                    channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
                )
                if uid != peer or len(inside) >= GATEWAYS:
                    channel.close()
                    continue
                task = guests.create_task(Conversation(channel, self._keeper, self._allowed).run())
                inside.add(task)
                task.add_done_callback(inside.discard)

    async def _leave(self) -> None:
        """Removes what this broker made, also what it lost track of. An engine that is away leaves it to the next."""
        with contextlib.suppress(TimeoutError, EngineDown, EngineRefused):
            async with asyncio.timeout(LAST_CLEAN):
                await asyncio.gather(*map(self._keeper.remove, [*self._keeper.held.values()]), return_exceptions=True)
                for one in await self._keeper.seen():
                    if one.labels.get(INSTANCE) == self._folders.instance:
                        await self._keeper.remove_by_id(one.id)
        self._folders.close()


def confine() -> None:
    """No way to gain privileges, no memory others may read, no environment. Raises `OSError` if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    os.environ.clear()
    os.umask(0o022)


def trusted(path: Path) -> dict[str, object]:
    """The JSON object in a file that belongs to root or to us and that nobody else can write. Raises `Refused`."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
            raise Refused(f"{path} must belong to root or to the broker's user, and be writable by nobody else")
        return unpack_object(file.read())


def child(descriptor: int) -> None:
    """The gateway's child: the first message is the allow-list, once and for all; then come requests."""
    channel = socket.socket(fileno=descriptor)
    try:
        confine()
        broker = Broker(Allowed.read(unpack_object(channel.recv(MESSAGE))))
    except (Refused, FrameError, OSError) as error:
        channel.send(json.dumps({"kind": "failed", "text": str(error)}).encode())
        return
    channel.send(b'{"kind":"ready"}')
    asyncio.run(broker.attend(channel))


def listener(path: Path, allowlist: Path, peer: int) -> None:
    """A broker of its own, for gateways of the user `peer`."""
    confine()
    broker = Broker(Allowed.read(trusted(allowlist)))
    if path.is_socket():
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(str(path))
        # Who may come in is settled by the user id of the peer.
        path.chmod(0o666)
        door.listen()
        door.setblocking(False)
        try:
            asyncio.run(broker.listen(door, peer))
        finally:
            path.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="sandboxes.broker", description="Holds the container engine's socket.")
    parser.add_argument("--child", type=int, metavar="FD", help="serve the parent over this descriptor")
    parser.add_argument("--listen", type=Path, metavar="PATH", help="serve over a socket made here")
    parser.add_argument("--allow", type=Path, metavar="FILE", help="the allow-list, JSON")
    parser.add_argument("--peer-uid", type=int, metavar="N", help="the user whose gateways may come in")
    given = parser.parse_args(arguments)
    if given.child is not None:
        child(given.child)
        return 0
    if given.listen is None or given.allow is None or given.peer_uid is None:
        parser.error("--listen, --allow and --peer-uid belong together")
    try:
        listener(given.listen, given.allow, given.peer_uid)
    except (Refused, FrameError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may still wait for an engine that hangs.
    os._exit(code)
