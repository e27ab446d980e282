"""What the tests of the MCP door say to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import pytest

from tests.kit import Lab, Reply

T = TypeVar("T")
ERAS = pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
VERSION: Final = "2026-07-28"
PROBLEM: Final = "dev.toolgate/problem"


def run(scene: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(scene)


def raw(lab: Lab, message: object, by: str | None = "dev", **headers: str) -> Reply:
    """One body as it is, JSON unless it is bytes."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return run(lab.http("POST", "/mcp", body, by, **headers))


def meta(version: str = VERSION, **more: object) -> dict[str, object]:
    """What every modern request carries."""
    prefix = "io.modelcontextprotocol/"
    return {f"{prefix}protocolVersion": version, f"{prefix}clientCapabilities": {}, **more}


def modern_headers(method: str, name: str | None = None, version: str = VERSION) -> dict[str, str]:
    headers = {"MCP-Protocol-Version": version, "Mcp-Method": method}
    return headers if name is None else {**headers, "Mcp-Name": name}


def request(method: str, params: object, number: object = 1) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
