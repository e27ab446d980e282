"""A Redis server of the tests' own: installed where it is missing, on a unix socket and a free TCP port, kept in memory
only. Tests may hang it, end it, start it anew (empty) and flush it; none touches another server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Replaces itself by what follows: the server is told to end when the test's process dies, however it dies.
WITH_US = ("setpriv", "--pdeathsig", "TERM")
PATIENCE = 30.0  # bounds a hang, in seconds


class NoRedis(Exception):
    """There is no Redis and none can be had; the text says why."""


@dataclass
class RedisServer:
    """A server of one test process. `url` is its unix socket, `tcp` the same server over TCP."""

    folder: Path
    port: int
    pid: int = 0

    @property
    def path(self) -> str:
        """Of the unix socket."""
        return str(self.folder / "s")

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @property
    def tcp(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it, empty; does nothing when it runs. Returns when it answers."""
        if self.pid:
            return
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path, "--save", ""]
        options += ["--appendonly", "no", "--dir", str(self.folder), "--daemonize", "no", "--protected-mode", "no"]
        with (self.folder / "log").open("w") as log:
            started = subprocess.Popen([*WITH_US, "redis-server", *options], stdout=log, stderr=log)
        self.pid = started.pid
        due = time.monotonic() + PATIENCE
        while self._say("PING") != b"+PONG\r\n":
            if started.poll() is not None or time.monotonic() > due:
                self.stop()
                raise NoRedis(f"redis-server does not start: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it at once, as a crash would: what it had is gone."""
        pid, self.pid = self.pid, 0
        if pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def hang(self) -> None:
        """It takes connections and does not answer; `recover` ends that."""
        os.kill(self.pid, signal.SIGSTOP)

    def recover(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Empties it, as FLUSHALL."""
        assert self._say("FLUSHALL") == b"+OK\r\n"

    def whole(self) -> None:
        """Has it running, answering and empty, whatever a test did to it."""
        if self.pid:
            self.recover()
        self.start()
        self.flush()

    def _say(self, command: str) -> bytes:
        """One command without arguments; nothing when nobody answers."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(PATIENCE)
            talk.connect(self.path)
            talk.sendall(command.encode() + b"\r\n")
            return talk.recv(256)
        return b""


@contextlib.contextmanager
def started() -> Iterator[RedisServer]:
    """A running server; ended, with all it had, at the end. Raises `NoRedis`."""
    install()
    # Not below tmp_path: the path of a unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tg-redis-"))
    server = RedisServer(folder, _free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def install() -> None:
    """Has redis-server, from Debian's packages if need be and if we may. Raises `NoRedis`."""
    if shutil.which("redis-server") is not None:
        return
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        raise NoRedis("redis-server is not installed, and only root on Debian can install it here")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "redis-server"]):
        ran = subprocess.run(["apt-get", "-q", *arguments], env=environ, capture_output=True, text=True, timeout=600)
        if ran.returncode:
            raise NoRedis(f"apt-get {arguments[0]}: {ran.stderr[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
