"""A cap outlives the process: what was spent before a power cut, or under other rules, stays spent."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.served import Served, ready, served, start, toolgate

PAY = """
apiVersion: toolgate/v1
kind: Tool
name: pay
version: 1.0.0
description: Pays.
input_schema: {type: object, properties: {amount: {type: number}}, required: [amount]}
effects: [write]
runner: {sandbox: {backend: wasm-python, code: {file: pay.py}}}
"""
CAP = """
apiVersion: toolgate/v1
kind: Policy
id: pay
state:
  paid: {sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay]}, RECORD}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid + args.amount > 10.0]}
"""
TIMES = """
apiVersion: toolgate/v1
kind: Policy
id: pay
state:
  times: {count: {tools: [pay]}, within: 24h, over: user}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay]}, when: [state.times < 3]}
"""


def folders(home: Path, policy: str) -> tuple[str, ...]:
    """The flags for a folder with one tool and one with one policy."""
    specs, policies = home.parent / "specs", home.parent / "policies"
    for folder, name, text in [
        (specs, "pay.yaml", PAY),
        (specs, "pay.py", 'result = {"paid": args["amount"]}\n'),
        (policies, "pay.yaml", policy),
    ]:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return "--specs", str(specs), "--policies", str(policies)


def paid(gateway: Served, *amounts: float) -> list[str]:
    """How payments come out, one after the other."""
    said = []
    for amount in amounts:
        status, answer = gateway.call("pay", {"amount": amount})
        said.append("done" if status == 200 else str(answer["code"]))
    return said


def test_a_cap_holds_after_a_power_cut(tmp_path: Path) -> None:
    """Most of it spent, the process killed: what is left is what was left, with and without content on record."""
    for record in ("request_response", "metadata"):
        home = tmp_path / record / "home"
        home.parent.mkdir()
        flags = folders(home, CAP.replace("RECORD", f"with: {{record: {record}}}"))
        gateway = ready(start(home, *flags), home)
        assert paid(gateway, 4.1, 4.1, 4.1) == ["done", "done", "forbidden"]
        gateway.kill()
        with served(home, *flags) as again:
            assert paid(again, 4.1, 1.8, 0.1) == ["forbidden", "done", "forbidden"]
            shown = toolgate(home, "audit", "show", again.call("pay", {"amount": 1})[1]["call_id"], "--json")
        assert '"state.paid"' in shown.stdout, json.loads(shown.stdout)


def test_a_rule_that_comes_while_serving_sees_what_was_before_it(tmp_path: Path) -> None:
    """A cap on the number of calls counts those that were made when only their sum had one."""
    home = tmp_path / "home"
    flags = folders(home, CAP.replace(", RECORD", ""))
    with served(home, *flags) as gateway:
        assert paid(gateway, 4, 4, 2, 1) == ["done", "done", "done", "forbidden"]
        folders(home, TIMES)
        said, until = "forbidden", time.monotonic() + 60
        while said == "forbidden" and time.monotonic() < until:
            (said,) = paid(gateway, 1)
        assert said == "no_permit"
