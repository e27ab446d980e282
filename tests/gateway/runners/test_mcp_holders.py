"""The MCP runner with credentials that differ by session and tool: each has its own link, and nobody gets another's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import pytest

from gateway.model import Arguments, Holder, Principal, Session
from gateway.runners.mcp import McpRunner
from gateway.runners.net import Egress, Net
from gateway.stages.authenticate import suppose
from gateway.stores.memory import MemoryPins
from gateway.tool import McpBackend, SecretUse, Server, Tool
from gateway.work import Work
from tests.gateway.runners.mcp_server import McpServer
from tests.gateway.runners.servers import Anything


class ByHolder:
    """A vault whose every secret says for whom it is, after a while in which others may come."""

    async def reveal(self, use: SecretUse, holder: Holder | None) -> str:
        assert holder is not None
        await asyncio.sleep(0)
        return f"{holder.caller.session.uid}.{holder.tool}"

    def issued(self) -> Mapping[str, str]:
        return {}


def work(user: str, tool: str) -> Work:
    """One call of a user, in a session of theirs."""
    who = Principal("bot", "default", user)
    holder = Holder(suppose(who, Session("default", f"u_{user}", who.key, 0.0, 1e12)), "c_1", tool)
    called = Tool(tool, "1", "sha256:0", "T.", {}, McpBackend("up", "echo"), Anything())
    deadline = time.monotonic() + 20
    return Work("c_1", called, Arguments({"text": "hi"}), "default", deadline, 0.0, 0, holder=holder)


@pytest.mark.parametrize("modern", [True, False])
def test_each_session_and_tool_speaks_with_its_own_credential(modern: bool) -> None:
    """Forty calls at once of two users with two tools: each token ten times, and an upstream session for each."""

    async def scene() -> None:
        use = SecretUse("key", "oauth:mine", ("127.0.0.1",), "authorization", "Bearer {}")
        async with McpServer(modern=modern) as server:
            net = Net(Egress(networks=["127.0.0.0/8"]), ByHolder())
            runner = McpRunner(net, {"up": Server("up", server.url, secrets=(use,))}, MemoryPins())
            calls = [work(user, tool) for _ in range(10) for user in ("ann", "bob") for tool in ("t1", "t2")]
            assert {each.text for each in await asyncio.gather(*map(runner.run, calls))} == {"hi"}
            sent = [headers for method, headers in server.seen if method == "tools/call"]
            tokens = Counter(headers["authorization"] for headers in sent)
            assert tokens == {f"Bearer u_{user}.{tool}": 10 for user in ("ann", "bob") for tool in ("t1", "t2")}
            if not modern:
                pairs = {(headers["authorization"], headers["mcp-session-id"]) for headers in sent}
                assert len(pairs) == len({session for _, session in pairs}) == 4
            await runner.close()
            await net.close()

    asyncio.run(asyncio.wait_for(scene(), 60))
