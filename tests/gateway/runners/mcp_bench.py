"""One MCP server on loopback with a runner that calls it, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from gateway.model import Arguments, Failure, RawOutput, Refusal
from gateway.runners.mcp import McpRunner
from gateway.runners.net import Egress, Net
from gateway.stores.memory import MemoryPins
from gateway.tool import Json, McpBackend, Server, Tool
from gateway.work import Work
from tests.gateway.runners.mcp_server import McpServer
from tests.gateway.runners.servers import Anything, Secrets

T = TypeVar("T")
ECHO = {"text": "hi"}


@dataclass
class Bench:
    """One server, and a runner with warm connections to it; `now` moves only when a test moves it."""

    server: McpServer
    runner: McpRunner
    pins: MemoryPins
    skip: list[float] = field(default_factory=lambda: [0.0])

    async def call(
        self,
        arguments: Mapping[str, Json] | None = None,
        tool: str = "echo",
        wait: float = 10,
        networks: tuple[tuple[str, ...], ...] = (),
    ) -> RawOutput:
        backend = McpBackend("up", tool)
        called = Tool("t", "1", "sha256:0", "T.", {}, backend, Anything())
        deadline = time.monotonic() + self.skip[0] + wait
        given = Arguments(arguments or ECHO)
        return await self.runner.run(Work("c_1", called, given, "default", deadline, 0.0, 0, networks=networks))

    def later(self, seconds: float) -> None:
        """The clock of the runner goes on."""
        self.skip[0] += seconds


@asynccontextmanager
async def bench(server: McpServer, **given: object) -> AsyncIterator[Bench]:
    """`pins` and `secrets` go into the server's declaration."""
    skip = [0.0]

    def monotonic() -> float:
        return time.monotonic() + skip[0]

    async with server:
        net = Net(Egress(networks=["127.0.0.0/8"]), Secrets(key="s3cret"), monotonic)
        declared = Server("up", server.url, **given)  # type: ignore[arg-type]  # by keyword
        pins = MemoryPins()
        runner = McpRunner(net, {"up": declared}, pins, monotonic=monotonic)
        try:
            yield Bench(server, runner, pins, skip)
        finally:
            await runner.close()
            await net.close()


def run(server: McpServer, scene: Callable[[Bench], Awaitable[T]], **given: object) -> T:
    """Plays one scene, bounded in time."""

    async def play() -> T:
        async with bench(server, **given) as b, asyncio.timeout(30):
            return await scene(b)

    return asyncio.run(play())


def refused(error: pytest.ExceptionInfo[Refusal] | pytest.ExceptionInfo[Failure]) -> str:
    return error.value.problem.code
