"""A gateway whose tools need a yes, and MCP clients that can ask their person for it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from gateway.model import Principal
from tests.gateway.doors.mcp_client import PROBLEM, meta, modern_headers, request
from tests.kit import DEV, ECHO, Lab, Reply

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: say, effect: permit, match: {tools: [echo, shout]}, with: {approval: {by: [requester], ttl: 10m}}}
"""
APPROVE = POLICY.replace("[requester]", '["group:managers"]')
EITHER = POLICY.replace("[requester]", '[requester, "group:managers"]')
BOTH = APPROVE + "- {id: too, effect: permit, match: {tools: [echo]}, with: {approval: {by: [requester], ttl: 10m}}}\n"
SPECS = {"echo.yaml": ECHO, "shout.yaml": ECHO.replace("name: echo", "name: shout")}
HI = {"text": "hi"}
FORM: dict[str, Any] = {"elicitation": {"form": {}}}
YES = {"action": "accept", "content": {"ok": True}}
ANN = Principal("desk", "default", "ann", frozenset({"managers"}), frozenset({"approver"}), token_id="k_ann")


def lab_of(policy: str = POLICY) -> Lab:
    """A lab in which agents dev and eve act for bob and for eve."""
    lab = Lab.of(SPECS, {"lab.yaml": policy})
    known = lab.trial.authority.principals
    known["dev"] = replace(DEV, user="bob")
    known["eve"] = replace(DEV, agent="eve", user="eve", token_id="k_eve")
    return lab


async def sent(lab: Lab, *, tool: str = "echo", by: str = "dev", can: Any = FORM, args: Any = HI, **more: Any) -> Reply:
    """One modern `tools/call` of a client that declares `can`, with whatever more stands in its params."""
    said = meta(**{"io.modelcontextprotocol/clientCapabilities": can})
    body = request("tools/call", {"name": tool, "arguments": args, "_meta": said, **more})
    return await lab.http("POST", "/mcp", json.dumps(body).encode(), by, **modern_headers("tools/call", tool))


async def called(lab: Lab, **more: Any) -> Any:
    """The result of such a call."""
    answer = await sent(lab, **more)
    assert answer.status == 200
    return answer.json["result"]


async def asked(lab: Lab, **more: Any) -> str:
    """The state of the question that a call is answered with."""
    result = await called(lab, **more)
    assert result["resultType"] == "input_required"
    return str(result["requestState"])


def answering(state: str, said: Any = YES) -> dict[str, Any]:
    """What a client adds to its call when its person has answered."""
    return {"requestState": state, "inputResponses": {"confirm": said}}


def code(result: Any) -> str:
    """The problem of a result that a model can read."""
    assert result["isError"] is True
    return str(result["_meta"][PROBLEM]["code"])


def decisions(lab: Lab) -> list[Any]:
    """What is on record of answers."""
    return [line.fields for line in lab.trial.ledger.lines if line.type == "approval.decided"]
