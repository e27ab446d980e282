"""A worker that has been taken over: the real process, the real guest, the real walls, and code of ours inside.

As a program it is a worker whose jobs name attacks, which it makes from its own thread where a guest would run.
Imported, `besieged` lays out the prey and makes all of them. Never part of the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prove.attacks import ATTACKS, LIBC, Prey, tried
from sandboxes.model import Job
from sandboxes.pool import WasmPool
from sandboxes.python_guest import PythonGuest
from sandboxes.spawn import command
from sandboxes.wasm import python_worker
from sandboxes.worker import main

REFUSED = "refused"
# Of unshare and mount: host name and mounts; recursive and private.
NEW_NAMES_AND_MOUNTS, ALL_PRIVATE = 0x04020000, 0x44000


class TakenOver(PythonGuest):
    """The Python guest, but its runs are attacks by the worker itself."""

    def run(self, _vm: object, job: Mapping[str, Any]) -> str:
        got = tried(job["program"], Prey(**json.loads(job["args"])))
        said = REFUSED if got is None else f"reached: {got}"
        return json.dumps({"ok": True, "limit": None, "stdout": said, "stderr": "", "truncated": False, "result": None})


def worker_argv(guest: Path, *before: str) -> list[str]:
    """The argv of such a worker, started by the program `before`, if any."""
    return [*before, *command("prove.taken_over", str(guest))]


@contextlib.contextmanager
def laid_out(folder: Path, guest: Path, worker: int) -> Iterator[Prey]:
    """Files, sockets and processes for the attacks, each of which this process itself can reach."""
    secret = ctypes.create_string_buffer(secrets.token_bytes(32), 32)
    (folder / "secret.txt").write_text(secrets.token_hex())
    (folder / "spare.txt").write_text("to be removed")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)  # whoever is refused was not refused by these
    abstract = f"toolgate-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        for address in (f"\0{abstract}", str(folder / "socket"), str(folder / "docker.sock")):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        victim = stack.enter_context(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        stack.callback(victim.kill)
        yield Prey(
            os.getpid(), worker, victim.pid, ctypes.addressof(secret), 32, str(folder), str(guest), abstract, port
        )


async def besieged(folder: Path, guest: Path, *before: str) -> dict[str, str]:
    """Every attack from one taken-over worker, by name: "refused", or what it reached.

    folder: an empty one, with a path short enough for sockets. guest: its native code. before: a program that starts
    the worker. A worker that did not answer has become something else, and that is no refusal.
    """
    other = WasmPool("wasm-python", lambda: python_worker(str(guest)), workers=1, spares=0)
    taken = WasmPool("wasm-python", lambda: worker_argv(guest, *before), workers=1, spares=0)
    try:
        await other.start()
        await taken.start()
        with laid_out(folder, guest, min(other.pids)) as prey:
            args = json.dumps(dataclasses.asdict(prey)).encode()
            return {name: await _one(taken, name, args) for name in ATTACKS}
    finally:
        await asyncio.gather(other.close(), taken.close())


async def _one(taken: WasmPool, name: str, args: bytes) -> str:
    done = await taken.run(Job(name, args))
    return done.stdout or f"the worker ended as {done.status}"


def unconfined(name: str, prey: Prey) -> str:
    """The same attack from a child of ours without any wall, to see that it is one.

    What it mounts and the name it gives the host are its own, where it may have its own.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        got = None
        with contextlib.suppress(BaseException):
            if LIBC.unshare(NEW_NAMES_AND_MOUNTS) == 0:
                LIBC.mount(None, b"/", None, ctypes.c_ulong(ALL_PRIVATE), None)
            got = tried(name, prey)
            os.write(theirs, (REFUSED if got is None else f"reached: {got}").encode())
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as report:
        said = report.read().decode()
    os.waitpid(pid, 0)
    return said or "reached: became something else"


if __name__ == "__main__":
    main(TakenOver, *sys.argv[1:])
