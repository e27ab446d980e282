"""Servers for the benchmark, each a process of its own on a free port of the loopback. It never measures anything."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The settings `toolgate serve` gives uvicorn, for what it is compared with.
UVICORN = ["--http", "httptools", "--loop", "uvloop", "--ws", "none", "--no-access-log", "--no-server-header"]
PATIENCE = 120.0  # seconds until a server answers


@dataclass(frozen=True, slots=True)
class Started:
    """A server that answers. `pid` is the root of its processes; `home` and `key` are set for a gateway."""

    port: int
    pid: int
    home: Path | None = None
    key: str = ""

    def get(self, path: str) -> object:
        """The JSON at a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def asgi(app: str) -> Iterator[Started]:
    """An ASGI application such as `bench.upstream:app` under uvicorn."""
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", app, "--port", str(port), *UVICORN, "--log-level", "warning"]
    with _running(argv, {}) as child:
        _wait_until(lambda: _answers(port), child)
        yield Started(port, child.pid)


@contextlib.contextmanager
def gateway(upstream: int) -> Iterator[Started]:
    """`toolgate serve` with the bench's tool and policy, in a fresh home on the disk of this checkout."""
    home = Path(tempfile.mkdtemp(prefix=".toolgate-bench-", dir=ROOT))
    try:
        specs = home / "specs"
        specs.mkdir()
        spec = (ROOT / "bench/specs/echo.yaml").read_text().replace("127.0.0.1:9700", f"127.0.0.1:{upstream}")
        (specs / "echo.yaml").write_text(spec)
        folders = ["--specs", str(specs), "--policies", str(ROOT / "bench/policies")]
        argv = [sys.executable, "-c", "import sys; from gateway.cli import main; sys.exit(main())", "serve", *folders]
        port = free_port()
        # Load is the same call again and again.
        environ = {"TOOLGATE_HOME": str(home / "home"), "TOOLGATE_LIMITS__REPEATS": "0"}
        with _running([*argv, "--port", str(port)], environ) as child:
            credentials = home / "home" / "dev-credentials.json"
            _wait_until(credentials.exists, child)  # it listens before it is ready, and writes this when it is
            key = json.loads(credentials.read_text())["agent_key"]
            yield Started(port, child.pid, home / "home", key)
    finally:
        shutil.rmtree(home)


@contextlib.contextmanager
def _running(argv: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    everything = {name: value for name, value in os.environ.items() if not name.startswith("TOOLGATE_")} | environ
    child = subprocess.Popen(argv, cwd=ROOT, env=everything, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=60)


def _wait_until(ready: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        if child.poll() is not None:
            raise RuntimeError(f"{child.args!r} ended with {child.returncode}")
        if time.monotonic() > until:
            raise RuntimeError(f"{child.args!r} is not ready after {PATIENCE:g} s")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
