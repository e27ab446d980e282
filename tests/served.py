"""A real gateway process on a free port with a home of its own, and a small HTTP client for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# A test that wants containers names an engine of its own; whatever engine the machine has is left alone.
NO_ENGINE = {"TOOLGATE_SANDBOXES__DOCKER__SOCKET": "/nonexistent/docker.sock"}
# Load is the same call again and again.
NO_LOOPS = {"TOOLGATE_LIMITS__REPEATS": "0"}
TOOLGATE = str(Path(sys.executable).parent / "toolgate")


@dataclass
class Served:
    """A gateway that answers. `key` is the local agent's."""

    process: subprocess.Popen[str]
    home: Path
    port: int
    key: str

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        """One POST; status and decoded JSON."""
        given = {"Content-Type": "application/json", **self._authorization(), **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, body, given)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def call(self, tool: str, arguments: object) -> tuple[int, Any]:
        """One tool call over REST."""
        return self.post(f"/v1/tools/{tool}/call", json.dumps({"arguments": arguments}).encode())

    def get(self, path: str) -> tuple[int, Any]:
        """One GET; status and decoded JSON."""
        return self._ask("GET", path)

    def delete(self, path: str) -> tuple[int, Any]:
        """One DELETE; status and decoded JSON."""
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=self._authorization())
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def rss(self) -> int:
        """Resident bytes of the gateway process."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def served(home: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """A gateway over the starter files unless `flags` say otherwise; stopped with SIGTERM at the end."""
    process = start(home, *flags, env=env)
    try:
        yield ready(process, home)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def start(home: Path, *flags: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `toolgate serve` on a free port without waiting for it."""
    command = [TOOLGATE, "serve", "--home", str(home), "--port", "0", "--json", *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **NO_ENGINE, **NO_LOOPS, **(env or {})},
    )


def ready(process: subprocess.Popen[str], home: Path) -> Served:
    """Waits for the ready line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise AssertionError(f"the gateway did not start: {process.stderr.read()}")
    url = json.loads(line)["url"]
    credentials = home / "dev-credentials.json"
    key = json.loads(credentials.read_text())["agent_key"] if credentials.exists() else ""
    return Served(process, home, int(url.rpartition(":")[2]), key)


def toolgate(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one command against a home folder."""
    command = [TOOLGATE, *arguments, "--home", str(home)]
    environ = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120, check=False)


class Wire:
    """One keep-alive connection for many calls; for load, where http.client would be the bottleneck."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at: Served) -> None:
        self._reader, self._writer, self._at = reader, writer, at

    @classmethod
    async def to(cls, at: Served) -> Wire:
        """Connects."""
        return cls(*await asyncio.open_connection("127.0.0.1", at.port), at)

    async def call(self, tool: str, arguments: object, key: str | None = None, session: str = "") -> tuple[int, Any]:
        """One call, under an idempotency key or in a session perhaps. Raises `ConnectionError` or `IncompleteReadError`
        when the gateway dies."""
        body = json.dumps({"arguments": arguments}).encode()
        keyed = "" if key is None else f"Idempotency-Key: {key}\r\n"
        keyed += f"Toolgate-Session: {session}\r\n" if session else ""
        head = (
            f"POST /v1/tools/{tool}/call HTTP/1.1\r\nHost: 127.0.0.1:{self._at.port}\r\n"
            f"Authorization: Bearer {self._at.key}\r\nContent-Type: application/json\r\n"
            f"{keyed}Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
        return int(answer.split(" ", 2)[1]), json.loads(await self._reader.readexactly(length))

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()
