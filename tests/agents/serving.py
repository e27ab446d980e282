"""Processes for the tests: a whole gateway as an operator starts it, and MCP servers for it to call."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_SECONDS = 300  # the first start builds the sandbox's guest


@dataclass(frozen=True)
class Served:
    """A gateway that is ready. `key` is the agent key, `None` when callers need none."""

    url: str
    home: Path
    key: str | None

    @property
    def mcp(self) -> str:
        return f"{self.url}/mcp"


@contextmanager
def gateway(home: Path, *flags: str, specs: Path | None = None, policies: Path | None = None) -> Iterator[Served]:
    """`toolgate serve` on a free port of loopback, over the starters or the given folders."""
    command = [sys.executable, "-c", "import sys; from gateway.cli import main; sys.exit(main())"]
    command += ["serve", "--json", "--port", "0", "--home", str(home), *flags]
    command += ["--specs", str(specs)] if specs else []
    command += ["--policies", str(policies)] if policies else []
    with started(command) as line:
        url = json.loads(line)["url"]
        credentials = home / "dev-credentials.json"
        key = json.loads(credentials.read_text())["agent_key"] if credentials.exists() else None
        yield Served(url, home, key)


@contextmanager
def started(command: Sequence[str], keep: Sequence[int] = ()) -> Iterator[str]:
    """A process that prints one line of JSON when it is ready; that line. It is told to stop at the end.

    `keep` are file descriptors it inherits.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, pass_fds=keep) as running:
        try:
            yield _first_line(running)
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)


def _first_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if select.select([running.stdout], [], [], 1)[0]:
            line = running.stdout.readline()
            if line.startswith("{"):
                return line
            if not line:
                raise AssertionError(f"the process ended with {running.wait()} before it was ready")
    raise AssertionError("the process was not ready in time")
