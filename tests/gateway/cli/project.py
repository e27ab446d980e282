"""A small project of an operator's files, and the command line run over it in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main

SPEC = """apiVersion: toolgate/v1
kind: Tool
name: refund
version: 1.0.0
description: Gives money back.
input_schema:
  type: object
  properties:
    amount: {type: number}
    order: {type: string}
  required: [amount]
effects: [write]
runner:
  http: {method: POST, url: "https://pay.example.com/refunds", json: {amount: "{amount}"}}
"""
POLICY = """apiVersion: toolgate/v1
kind: Policy
id: refunds
state:
  given_24h: {sum: args.amount, of: {tools: [refund]}, within: 24h, over: user}
rules:
- id: refund-small
  effect: permit
  match: {tools: [refund], agents: [support]}
  when: [args.amount <= 200.0, state.given_24h + args.amount <= 500.0]
tests:
- {name: small, as: {agent: support}, call: {refund: {amount: 20}}, expect: {permit: refund-small}}
"""
FAILING = "- {name: large, as: {agent: support}, call: {refund: {amount: 300}}, expect: {permit: refund-small}}\n"
LACKS = "wants args.amount <= 200.0; args.amount is 300.0"


def project(folder: Path, *, failing: bool = False) -> Path:
    """A folder with tool_specs/ and policies/; with `failing` one of the policy's tests does."""
    (folder / "tool_specs").mkdir(parents=True)
    (folder / "policies").mkdir()
    (folder / "tool_specs" / "refund.yaml").write_text(SPEC)
    (folder / "policies" / "refunds.yaml").write_text(POLICY + (FAILING if failing else ""))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, what was printed, and what went to the other stream."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    """Exit code, and the JSON that `--json` prints."""
    code, out, _ = run(capsys, *arguments, "--json")
    return code, json.loads(out)
