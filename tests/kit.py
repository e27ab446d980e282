"""`Lab`: a whole gateway in memory, called as the pipeline, over REST or over MCP. Nothing of ours is patched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.admission import Bounds
from gateway.cases import fresh_trial
from gateway.doors.admin import admin_app
from gateway.doors.asgi import App
from gateway.doors.edge import Edge
from gateway.doors.mcp import McpDoor
from gateway.doors.rest import CallRoute
from gateway.loading import Loaded, load_files
from gateway.model import Outcome, Principal, Request
from gateway.ports import Line
from gateway.runners.canned import Upstream
from gateway.trial import Trial
from sandboxes.model import Backend as Sandbox

ROOT = Path(__file__).parent.parent
DEV = Principal("dev", "default", scopes=frozenset({"agent"}), token_id="k_dev")

ECHO = """
apiVersion: toolgate/v1
kind: Tool
name: echo
version: 1.0.0
description: Says what it was told.
input_schema:
  type: object
  properties:
    text: {type: string, maxLength: 100}
    loud: {type: boolean, default: false}
  required: [text]
effects: [read]
limits: {calls: 100/1m}
runner:
  http: {method: POST, url: "https://echo.example.com/say", json: {text: "{text}", loud: "{loud}"}}
"""
PERMIT = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: echo-ok, effect: permit, match: {tools: [echo], agents: [dev]}, when: ['args.text != "secret"']}
- {id: no-war, effect: forbid, match: {tools: [echo]}, when: ['args.text == "war"'], message: We do not talk of war.}
"""


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def of_calls(lines: Iterable[Line]) -> list[Line]:
    """The records of calls among others."""
    return [line for line in lines if line.type.startswith("call.")]


async def ask(app: App, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
    """One request to an ASGI application, in process."""
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return await ask_raw(app, method, path, raw, [body])


async def ask_raw(app: App, method: str, path: str, headers: list[tuple[bytes, bytes]], chunks: list[bytes]) -> Reply:
    """One request with exactly these header lines and body chunks. The client never goes away."""
    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "scheme": "http",
        "root_path": "",
    }
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": n < len(chunks)} for n, chunk in enumerate(chunks, 1)
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], head, b"".join(part.get("body", b"") for part in sent[1:]))


def rpc_request(method: str, params: Mapping[str, Any], *, modern: bool) -> tuple[dict[str, str], bytes]:
    """Headers and body of one JSON-RPC request to the MCP door."""
    headers = {"Accept": "application/json, text/event-stream"}
    if modern:
        version = "2026-07-28"
        about = {"protocolVersion": version, "clientInfo": {"name": "lab", "version": "0"}, "clientCapabilities": {}}
        spoken = {f"io.modelcontextprotocol/{key}": value for key, value in about.items()}
        params = {**params, "_meta": {**params.get("_meta", {}), **spoken}}
        headers |= {"MCP-Protocol-Version": version, "Mcp-Method": method}
        if "name" in params:
            headers["Mcp-Name"] = params["name"]
    return headers, json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


class Lab:
    """A gateway over the given files. `dev` is agent dev; `by` names other callers."""

    HOST = "127.0.0.1:8080"

    def __init__(self, trial: Trial, bounds: Bounds | None = None) -> None:
        gate = trial.gate if bounds is None else replace(trial.gate, bounds=bounds)
        self.trial, self.gate = trial, gate
        trial.authority.principals["dev"] = DEV
        admin = admin_app(gate, lambda: {"audit": "ok"})
        self.app: App = Edge(CallRoute(gate), McpDoor(gate, __version__), admin, frozenset({self.HOST}))

    @classmethod
    def of(
        cls,
        specs: Mapping[str, str] | None = None,
        policies: Mapping[str, str] | None = None,
        upstream: Upstream | None = None,
        pool: Sandbox | None = None,
        bounds: Bounds | None = None,
    ) -> Lab:
        """A lab over texts of spec and policy files; by default one echo tool that agent dev may call."""
        loaded = load_files(_bytes(specs or {"echo.yaml": ECHO}), _bytes(policies or {"lab.yaml": PERMIT}))
        return cls.over(loaded, upstream or Upstream(200, {"said": "hello"}), pool, bounds)

    @classmethod
    def over(
        cls,
        loaded: Loaded,
        upstream: Upstream | None = None,
        pool: Sandbox | None = None,
        bounds: Bounds | None = None,
    ) -> Lab:
        """A lab over loaded files; `bounds` are what its settings limit."""
        return cls(fresh_trial(loaded, {} if pool is None else {pool.name: pool}, upstream), bounds)

    async def call(self, tool: str, arguments: Any, by: str | None = "dev", **more: Any) -> Outcome:
        """Through the pipeline."""
        return await self.gate.handle(Request(self.gate.new_call_id(), tool, arguments, by, **more))

    async def rest(self, tool: str, arguments: Any, by: str | None = "dev", **headers: str) -> Reply:
        """Through the REST door."""
        body = json.dumps({"arguments": arguments}).encode()
        return await self.http("POST", f"/v1/tools/{tool}/call", body, by, **headers)

    async def mcp(
        self, tool: str, arguments: Any, by: str | None = "dev", *, modern: bool = True, **headers: str
    ) -> Any:
        """Through the MCP door: the result, or the JSON-RPC error."""
        reply = await self.rpc("tools/call", {"name": tool, "arguments": arguments}, by, modern=modern, **headers)
        return reply.json.get("result") or reply.json["error"]

    async def rpc(
        self, method: str, params: dict[str, Any], by: str | None = "dev", *, modern: bool = True, **headers: str
    ) -> Reply:
        """One JSON-RPC request to the MCP door, of either generation."""
        spoken, body = rpc_request(method, params, modern=modern)
        return await self.http("POST", "/mcp", body, by, **{**spoken, **headers})

    async def http(self, method: str, path: str, body: bytes = b"", by: str | None = "dev", **headers: str) -> Reply:
        """Any request to the gateway."""
        given = {"Host": self.HOST, "Content-Type": "application/json", **headers}
        if by is not None:
            given["Authorization"] = f"Bearer {by}"
        return await ask(self.app, method, path, given, body)


def _bytes(files: Mapping[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}
