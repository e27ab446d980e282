"""What an MCP server is told to know a repeat by: a key of the gateway's, in `_meta`, or nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.model import Arguments
from gateway.tool import Json, McpBackend, Tool
from gateway.work import Work
from tests.gateway.runners.mcp_bench import bench
from tests.gateway.runners.mcp_server import McpServer, Object
from tests.gateway.runners.servers import Anything

META = "dev.toolgate/idempotency-key"


@pytest.mark.parametrize("modern", [True, False])
def test_a_key_goes_in_meta(modern: bool) -> None:
    """Beside what the protocol wants there; a call without a key says nothing of one."""

    async def told(key: str | None) -> Json:
        server, seen = McpServer(modern=modern), list[Object]()
        answer = server.on_call

        def on_call(params: Object) -> Object:
            seen.append(params)
            return answer(params)

        server.on_call = on_call
        async with bench(server) as b:
            called = Tool("t", "1", "sha256:0", "T.", {}, McpBackend("up", "echo"), Anything())
            given, deadline = Arguments({"text": "hi"}), time.monotonic() + 10
            output = await b.runner.run(Work("c_1", called, given, "default", deadline, 0.0, 0, key=key))
        assert output.problem is None
        (params,) = seen
        assert ("_meta" in params) == (modern or key is not None)
        meta = params.get("_meta")
        return meta.get(META) if isinstance(meta, dict) else None

    assert [asyncio.run(told(key)) for key in ("abc", None)] == ["abc", None]
