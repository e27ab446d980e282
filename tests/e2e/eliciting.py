"""An MCP client that can ask its person. Runs in an environment of its own, that of `tests/agents/modern.lock`.

Arguments: URL, key, tool, and calls as JSON: a list of [arguments, answer], where the answer is what the person says to
every question (an action and content; null for a client that cannot ask). Prints as JSON, for each call, what was asked
and what it came back with.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

Told = dict[str, object]


async def call(url: str, key: str, tool: str, arguments: object, answer: object) -> Told:
    """One call, by a client of its own."""
    asked: list[object] = []

    async def ask(_: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        form = params.requested_schema if isinstance(params, ElicitRequestFormParams) else None
        asked.append({"message": params.message, "form": form})
        return ElicitResult.model_validate(answer)

    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, elicitation_callback=ask if answer else None) as client:
            result = await client.call_tool(tool, arguments)
            told = {"error": result.is_error, "text": result.content[0].text, "meta": result.meta}
            return {"version": client.protocol_version, "asked": asked, **told}


async def main(url: str, key: str, tool: str, calls: list[tuple[object, object]]) -> None:
    """The calls, one after the other."""
    told = [await call(url, key, tool, arguments, answer) for arguments, answer in calls]
    print(json.dumps(told, default=str))


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
