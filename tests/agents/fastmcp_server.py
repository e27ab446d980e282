"""A small FastMCP server with one tool, `add`. Runs in the environment of `modern.lock`.

Arguments: a listening socket's file descriptor, and the tool's description. Prints a line of JSON when it serves.
"""

import asyncio
import socket
import sys

import uvicorn
from fastmcp import FastMCP

server = FastMCP("sums")


@server.tool(description=sys.argv[2])
def add(a: int, b: int) -> int:
    return a + b


class Announced(uvicorn.Server):
    """Says when it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print('{"ready": true}', flush=True)


config = uvicorn.Config(server.http_app(path="/mcp"), log_level="warning")
asyncio.run(Announced(config).serve(sockets=[socket.socket(fileno=int(sys.argv[1]))]))
