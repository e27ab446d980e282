"""A small MCP server on loopback for the runner's tests: either generation, JSON or event streams, and it counts.

It checks what a client must send (versions, headers, session) and answers wrongly only where a test says so.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping

from gateway.tool import Json

Object = dict[str, Json]
MODERN = "2026-07-28"


def echo(description: str = "Says it again.", **more: Json) -> Object:
    """The definition of the tool `echo`."""
    schema: Object = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return {"name": "echo", "description": description, "inputSchema": schema, **more}


def said(text: str, **more: Json) -> Object:
    """A result with one text block."""
    return {"content": [{"type": "text", "text": text}], **more}


class McpServer:
    """Serves `tools`. `stream` answers as server-sent events; `on_call` makes the result of `tools/call`.

    `raw` replaces the whole HTTP answer (status, media type, body) of a method. `before` are notifications sent ahead
    of the answer to a call; `silent` answers nothing. `counts` counts requests by
    method, `seen` keeps the headers of each.
    """

    def __init__(self, *, modern: bool = True, stream: bool = False, sessions: bool = True) -> None:
        self.modern, self.stream, self.sessions = modern, stream, sessions
        self.tools: list[Object] = [echo()]
        self.on_call: Callable[[Object], Object] = lambda p: {"result": said(str(p["arguments"]["text"]))}  # type: ignore[index]  # test input
        self.raw: dict[str, tuple[int, str, bytes]] = {}
        self.before: list[Object] = []
        self.page = 100
        self.silent = False
        self.port = 0
        self.counts: Counter[str] = Counter()
        self.seen: list[tuple[str, Mapping[str, str]]] = []
        self.connections = 0
        self.live: set[str] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def __aenter__(self) -> McpServer:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening and cuts every connection."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if k}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if self.silent:
                    continue
                message = json.loads(body)
                self.counts[message["method"]] += 1
                self.seen.append((message["method"], headers))
                status, kind, answer, extra = self._answer(message, headers)
                head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{extra}content-length: {len(answer)}\r\n\r\n"
                writer.write(head.encode() + answer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, message: Object, headers: Mapping[str, str]) -> tuple[int, str, bytes, str]:
        method = str(message["method"])
        if method in self.raw:
            return *self.raw[method], ""
        if "id" not in message:
            return 202, "application/json", b"", ""
        wrong = self._wrong(message, headers)
        if wrong is not None:
            return wrong[0], "application/json", _json({"jsonrpc": "2.0", "id": message["id"], "error": wrong[1]}), ""
        extra = ""
        if method == "initialize" and self.sessions:
            self.live.add(f"s{len(self.seen)}")
            extra = f"mcp-session-id: s{len(self.seen)}\r\n"
        reply = {"jsonrpc": "2.0", "id": message["id"], **self._result(method, message.get("params") or {})}  # type: ignore[arg-type]  # test input
        if not self.stream:
            return 200, "application/json", _json(reply), extra
        parts = [*(self.before if method == "tools/call" else ()), reply]
        body = b": hello\r\n\r\n" + b"".join(b"event: message\r\ndata: " + _json(p) + b"\r\n\r\n" for p in parts)
        return 200, "text/event-stream", body, extra

    def _wrong(self, message: Object, headers: Mapping[str, str]) -> tuple[int, Object] | None:
        method, params = message["method"], message.get("params") or {}
        assert isinstance(params, dict)
        if self.modern:
            meta = params.get("_meta") or {}
            same = headers.get("mcp-protocol-version") == meta.get("io.modelcontextprotocol/protocolVersion") == MODERN
            if not same or headers.get("mcp-method") != method or headers.get("mcp-name") != params.get("name"):
                return 400, {"code": -32020, "message": "headers"}
        elif method == "server/discover" or headers.get("mcp-protocol-version") == MODERN:
            return 400, {"code": -32600, "message": "no session"}
        elif method != "initialize" and self.sessions and headers.get("mcp-session-id") not in self.live:
            return 404, {"code": -32001, "message": "no such session"}
        return None

    def _result(self, method: str, params: Object) -> Object:
        if method == "server/discover":
            return {"result": {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "resultType": "complete"}}
        if method == "initialize":
            info = {"name": "test", "version": "1"}
            return {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}}
        if method == "tools/list":
            at = int(str(params.get("cursor", "0")))
            more: Object = {"nextCursor": str(at + self.page)} if at + self.page < len(self.tools) else {}
            return {"result": {"tools": self.tools[at : at + self.page], **more}}
        return self.on_call(params) if method == "tools/call" else {"error": {"code": -32601, "message": "no"}}


def _json(value: Json) -> bytes:
    return json.dumps(value).encode()
