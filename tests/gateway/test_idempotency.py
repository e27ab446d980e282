"""Idempotency keys along the line of stages: one key is one call, and a repeat gets what is on record of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.admission import Claim, Claimed
from gateway.model import Failure, Outcome, Position, Principal, RawOutput
from gateway.ports import Line
from gateway.problems import problem, refuse
from gateway.stores.counters import MemoryCounters
from gateway.stores.memory import MemoryLedger
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.kit import Lab, of_calls

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: pay
version: 1.0.0
description: Pays.
input_schema:
  type: object
  properties:
    amount: {type: integer}
    to: {type: string, default: bob}
  required: [amount]
effects: [write]
runner:
  http: {method: POST, url: "https://pay.example.com/pay", json: {amount: "{amount}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: lab
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay]}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid >= 1], message: Once an hour.}
"""
PERMIT = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: ok, effect: permit, match: {tools: ["*"]}}
"""
Does = Callable[[Work], Awaitable[RawOutput]]


@dataclass
class Till:
    """A runner that counts what it did, by the forwarded key."""

    does: Does | None = None
    keys: list[str | None] = field(default_factory=list)

    async def run(self, work: Work) -> RawOutput:
        self.keys.append(work.key)
        if self.does is not None:
            return await self.does(work)
        return RawOutput(f"paid {len(self.keys)}", {"n": 1.0})


def lab_with(till: Till, spec: str = SPEC, policy: str = PERMIT, **more: Any) -> Lab:
    """A lab whose http tools are run by `till`."""
    lab = Lab.of({"pay.yaml": spec}, {"lab.yaml": policy})
    lab.trial.authority.principals["eve"] = Principal("eve", "default", scopes=frozenset({"agent"}), token_id="k_eve")
    lab.gate = replace(lab.gate, runners={HttpBackend: till}, **more)
    return lab


async def pay(lab: Lab, key: str | None = "k", amount: int = 5, **more: Any) -> Outcome:
    return await lab.call("pay", {"amount": amount}, idempotency_key=key, **more)


def code(outcome: Outcome) -> str | None:
    return outcome.problem.code if outcome.problem else None


def test_a_repeat_gets_what_is_on_record_of_the_first_call() -> None:
    """One effect; the same answer to the letter; its own id and its own record, which names the first call."""

    async def twice() -> tuple[Lab, Till, Outcome, Outcome]:
        lab = lab_with(till := Till())
        return lab, till, await pay(lab), await pay(lab)

    lab, till, first, second = asyncio.run(twice())
    assert len(till.keys) == 1
    assert (first.repeat, second.repeat) == (False, True)
    assert (second.text, json.dumps(second.structured)) == (first.text, '{"n": 1.0}')
    assert (second.status, second.verdict, second.usage) == (first.status, first.verdict, first.usage)
    assert second.call_id != first.call_id
    lines = of_calls(lab.trial.ledger.lines)
    assert [line.type for line in lines] == ["call.intent", "call.outcome", "call.repeated"]
    assert (lines[2].fields["call_id"], lines[2].fields["repeat_of"]) == (second.call_id, first.call_id)
    assert (lines[2].content, second.position) == (None, Position("memory", len(lab.trial.ledger.lines)))
