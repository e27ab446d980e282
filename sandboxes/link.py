"""The gateway's end of its broker: asks for one of five verbs, and gets an answer or a sentence why not.

Starts the broker as a child, or reaches one that runs as another user. Never touches the engine, and never waits longer
than it was told to.
"""

import asyncio
import contextlib
import itertools
import json
import socket
import subprocess
from collections.abc import Mapping
from typing import Final

from sandboxes.frames import FrameError, unpack_object
from sandboxes.model import SandboxUnavailable
from sandboxes.spawn import command

MESSAGE: Final = 64 * 1024
READY_SECONDS: Final = 20.0
# The broker's own time to clean up is shorter.
LEAVE_SECONDS: Final = 30.0
REAP_SECONDS: Final = 0.01
GONE: Final = "the container broker is gone"

Answer = tuple[dict[str, object], socket.socket | None]


class Link:
    """One conversation with a broker. gone: it is over, and nothing can be asked any more."""

    def __init__(self, channel: socket.socket, child: subprocess.Popen[bytes] | None) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._child = child
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self.gone = False
        asyncio.get_running_loop().add_reader(channel, self._readable)

    @classmethod
    async def spawn(cls, terms: Mapping[str, object]) -> "Link":
        """A broker of our own, told once what it may do. Raises `SandboxUnavailable` with what it said."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            child = subprocess.Popen(  # noqa: ASYNC220  # about 1 ms
                command("sandboxes.broker", "--child", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # What ends the gateway's group must not end the broker before it has cleaned up.
                start_new_session=True,
            )
        ours.setblocking(False)
        try:
            ours.send(json.dumps(terms).encode())
            async with asyncio.timeout(READY_SECONDS):
                said = await asyncio.get_running_loop().sock_recv(ours, MESSAGE)
            hello = unpack_object(said)
            if hello.get("kind") != "ready":
                raise SandboxUnavailable(f"the container broker did not start: {str(hello.get('text'))[:300]}")
        except (OSError, FrameError, TimeoutError) as error:
            ours.close()
            child.kill()
            await _ended(child)
            raise SandboxUnavailable("the container broker did not start: it ended or kept silent") from error
        except BaseException:
            ours.close()
            child.kill()
            await _ended(child)
            raise
        return cls(ours, child)

    @classmethod
    async def reach(cls, path: str) -> "Link":
        """A broker that listens at `path`. Raises `SandboxUnavailable`."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.setblocking(False)
        try:
            channel.connect(path)
        except OSError as error:
            channel.close()
            raise SandboxUnavailable(f"no container broker can be reached: {error.strerror}") from None
        return cls(channel, None)

    @property
    def pid(self) -> int | None:
        """The process id of the broker, if it is our child."""
        return None if self._child is None else self._child.pid

    async def ask(self, verb: str, wait: float, fields: Mapping[str, object] | None = None) -> Answer:
        """The answer to a request, with the connection that came with it. Raises `SandboxUnavailable`."""
        if self.gone:
            raise SandboxUnavailable(GONE)
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._channel.send(json.dumps({"seq": number, "verb": verb, **(fields or {})}).encode())
            if not (await asyncio.wait({answer}, timeout=wait))[0]:
                raise SandboxUnavailable(f"the container broker did not answer within {wait:.1f} s")
            return answer.result()
        except BlockingIOError:
            raise SandboxUnavailable("the container broker takes no more requests") from None
        except OSError:
            self.shut()
            raise SandboxUnavailable(GONE) from None
        except asyncio.CancelledError:
            if answer.done() and answer.exception() is None:
                found, passed = answer.result()
                self._too_late(found, [] if passed is None else [passed])
            raise
        finally:
            del self._asked[number]
            answer.cancel()

    def tell(self, verb: str, fields: Mapping[str, object]) -> None:
        """Asks without waiting for the answer, or whether it worked: the broker's reaper sees to what is left."""
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"seq": 0, "verb": verb, **fields}).encode())

    def _readable(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        passed = [socket.socket(fileno=one) for one in descriptors]
        try:
            reply = unpack_object(message)
        except FrameError:
            self.shut()
            return
        found = reply.get("ok")
        answer = self._asked.get(int(str(reply.get("seq"))))
        if answer is None or answer.done():
            self._too_late(found, passed)
        elif isinstance(found, dict):
            answer.set_result((found, passed[0] if passed else None))
        else:
            answer.set_exception(SandboxUnavailable(str(reply.get("text"))[:500]))

    def _too_late(self, found: object, passed: list[socket.socket]) -> None:
        """Gives back what came when whoever asked had gone: a connection, or a new container."""
        for one in passed:
            one.close()
        if isinstance(found, dict) and "id" in found:
            self.tell("remove", {"id": found["id"]})

    def shut(self) -> None:
        """Ends the conversation; a broker that is our child removes its containers and ends, too."""
        if self.gone:
            return
        self.gone = True
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(SandboxUnavailable(GONE))

    async def close(self) -> None:
        """Ends the conversation and waits until a broker of our own has cleaned up and ended."""
        self.shut()
        if self._child is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await _ended(self._child)
                return
        self._child.kill()
        await _ended(self._child)


async def _ended(child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None:  # noqa: ASYNC110  # a death sends no event
        await asyncio.sleep(REAP_SECONDS)
