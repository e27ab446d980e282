"""Idempotency keys at the doors: how each takes one, and how it says that an answer is a repeat."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.test_idempotency import PERMIT, SPEC
from tests.kit import Lab

PAY = {"amount": 5}


def test_rest_says_in_a_header_that_an_answer_is_a_repeat() -> None:
    """`Idempotency-Replayed: true`, with the repeat's own call id, and the first call's result."""

    async def twice() -> Any:
        lab = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": PERMIT})
        return [await lab.rest("pay", PAY, **{"Idempotency-Key": "k"}) for _ in range(2)] + [await lab.rest("pay", PAY)]

    first, second, third = asyncio.run(twice())
    assert [reply.headers.get("idempotency-replayed") for reply in (first, second, third)] == [None, "true", None]
    assert second.headers["toolgate-call-id"] == second.json["call_id"] != first.json["call_id"]
    assert second.json["result"] == first.json["result"]
    assert second.json["usage"] == first.json["usage"]


def test_rest_refuses_a_key_of_another_call() -> None:
    """422, with words for a model."""

    async def twice() -> Any:
        lab = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": PERMIT})
        await lab.rest("pay", PAY, **{"Idempotency-Key": "k"})
        return await lab.rest("pay", {"amount": 6}, **{"Idempotency-Key": "k"})

    reply = asyncio.run(twice())
    assert (reply.status, reply.json["code"]) == (422, "key_reused")


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("where", ["header", "meta"])
def test_mcp_takes_a_key_in_a_header_or_in_meta(where: str, modern: bool) -> None:
    """And says in `_meta` that an answer is a repeat."""

    async def twice() -> list[Any]:
        lab = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": PERMIT})
        found = []
        for _ in range(2):
            params: dict[str, Any] = {"name": "pay", "arguments": PAY}
            headers = {}
            if where == "header":
                headers["Idempotency-Key"] = "k"
            else:
                params["_meta"] = {"dev.toolgate/idempotency-key": "k"}
            reply = await called(lab, params, modern, headers)
            found.append(reply["result"])
        return found

    first, second = asyncio.run(twice())
    assert [each["_meta"].get("dev.toolgate/repeat") for each in (first, second)] == [None, True]
    assert second["content"] == first["content"]


async def called(lab: Lab, params: dict[str, Any], modern: bool, headers: dict[str, str]) -> Any:
    """A call over MCP, whose `_meta` has more than what the protocol wants there."""
    more = params.pop("_meta", {})
    spoken: dict[str, str] = {"Accept": "application/json, text/event-stream"}
    if modern:
        version = "2026-07-28"
        about = {"protocolVersion": version, "clientInfo": {"name": "lab", "version": "0"}, "clientCapabilities": {}}
        more = more | {f"io.modelcontextprotocol/{key}": value for key, value in about.items()}
        spoken |= {"MCP-Protocol-Version": version, "Mcp-Method": "tools/call", "Mcp-Name": params["name"]}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "_meta": more}}
    return (await lab.http("POST", "/mcp", json.dumps(message).encode(), **{**spoken, **headers})).json


def test_openapi_tells_of_the_key() -> None:
    """Each tool's path has the header."""
    lab = Lab.of({"pay.yaml": SPEC}, {"lab.yaml": PERMIT})
    page = asyncio.run(lab.http("GET", "/v1/openapi.json")).json
    (parameter,) = page["paths"]["/v1/tools/pay/call"]["post"]["parameters"]
    assert parameter == {"$ref": "#/components/parameters/Idempotency-Key"}
    assert page["components"]["parameters"]["Idempotency-Key"]["in"] == "header"
