"""A tool whose code calls tools, for tests: its files, and a runner that plays the code as a Python function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from gateway.app import SystemClock
from gateway.model import RawOutput
from gateway.ports import Line
from gateway.stores.memory import MemoryLedger
from gateway.tool import SandboxBackend
from gateway.work import Calls, NestedRefusal, Work
from tests.kit import Lab, of_calls

CODER = """
apiVersion: toolgate/v1
kind: Tool
name: coder
version: 1.0.0
description: Runs Python that may call tools.
input_schema:
  type: object
  properties: {code: {type: string}, args: {type: object, additionalProperties: true}}
  required: [code]
effects: [exec]
labels: {output: []}
timeout: 20s
runner:
  sandbox:
    backend: wasm-python
    code: {argument: code}
    tools: [look, send, hidden, coder]
    network: {allow: ["GET https://docs.example.com/**", "POST https://docs.example.com/in"]}
"""
LOOK = """
apiVersion: toolgate/v1
kind: Tool
name: look
version: 1.0.0
description: Looks something up.
input_schema: {type: object, properties: {what: {type: string, maxLength: 50}}, required: [what]}
effects: [read]
labels: {output: [untrusted]}
runner:
  http: {method: GET, url: "https://look.example.com/{what}"}
"""
SEND = """
apiVersion: toolgate/v1
kind: Tool
name: send
version: 1.0.0
description: Sends something away.
input_schema: {type: object, properties: {what: {type: string}}, required: [what]}
effects: [write, egress]
labels: {output: []}
runner:
  http: {method: POST, url: "https://send.example.com/in", json: {what: "{what}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: coding
rules:
- {id: may-code, effect: permit, match: {tools: [coder], agents: [dev]}, when: ["size(args.code) < 10000"]}
- {id: may-look, effect: permit, match: {tools: [look], agents: [dev]}}
- {id: may-send, effect: permit, match: {tools: [send], agents: [dev]}, when: ['args.what != "war"']}
- {id: clean, effect: forbid, match: {tools: [send]}, when: ['"untrusted" in session.labels'], message: It read pages.}
"""
MAY_FETCH = """
- {id: may-fetch, effect: permit, match: {tools: [net.fetch], agents: [dev]}, when: ['arg.url.scheme == "https"']}
"""
SPECS = {
    "coder.yaml": CODER,
    "look.yaml": LOOK,
    "send.yaml": SEND,
    "hidden.yaml": LOOK.replace("name: look", "name: hidden"),
}

Play = Callable[[Work, Calls], Awaitable[object]]


@dataclass
class Played:
    """A runner that plays code instead of running it: what the play returns is the result."""

    play: Play

    async def run(self, work: Work) -> RawOutput:
        assert work.calls is not None
        said = await self.play(work, work.calls)
        return RawOutput("", {"result": said}, labels=work.calls.labels)


def playing(play: Play, *more: str, clock: bool = False, specs: dict[str, str] | None = None) -> Lab:
    """A lab whose sandboxed tools are played. `more` rules stand in the policy; `clock`: the machine's time goes on."""
    lab = Lab.of(SPECS | (specs or {}), {"lab.yaml": POLICY + "".join(more)})
    runners = {**lab.gate.runners, SandboxBackend: Played(play)}
    lab.gate = replace(lab.gate, runners=runners, clock=SystemClock() if clock else lab.gate.clock)
    return lab


async def told(calls: Calls, name: str, arguments: bytes) -> str:
    """The words of a refusal; "" when the call was not refused."""
    try:
        await calls.call(name, arguments)
    except NestedRefusal as refusal:
        return str(refusal)
    return ""


def lines(lab: Lab) -> list[Line]:
    """The records of calls in the ledger of a lab."""
    ledger = lab.gate.ledger
    assert isinstance(ledger, MemoryLedger)
    return of_calls(ledger.lines)


def story(found: Iterable[Line]) -> list[tuple[str, str, bool]]:
    """Type, tool and whether it has a parent, of each line about a call."""
    return [
        (line.type, named(line), "parent_call_id" in line.fields) for line in found if line.type.startswith("call.")
    ]


def named(line: Line) -> str:
    """The tool of a line."""
    tool: Any = line.fields["tool"]
    return str(tool["name"])


def code_of(line: Line) -> str | None:
    """The code of an outcome."""
    outcome: Any = line.fields["outcome"]
    code: str | None = outcome["code"]
    return code
