"""Code that calls tools, in a real gateway: what is left when it is killed, and when its caller goes away."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.served import Served, ready, served, start, toolgate

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: coder
version: 1.0.0
description: Runs Python that may call tools and fetch.
input_schema: {type: object, properties: {code: {type: string}}, required: [code]}
effects: [exec]
timeout: 60s
runner:
  sandbox:
    backend: wasm-python
    code: {argument: code}
    tools: [count]
    network: {allow: ["POST http://127.0.0.1:PORT/**"]}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: coder
rules:
- {id: coder, effect: permit, match: {tools: [coder, net.fetch], agents: [dev]}, with: {timeout: 50s}}
"""
CODE = """
for number in range(10):
    call("net.fetch", method="POST", url="http://127.0.0.1:PORT/say", body='{"text": "a"}')
    call("count", text="b")
while True:
    pass
"""
PATIENCE = 60  # seconds; bounds a hang


def files(folder: Path, upstream: Counted) -> tuple[str, ...]:
    """The flags that serve the coder in front of the upstream."""
    specs, policies = spec_and_policy(folder, upstream)
    (specs / "coder.yaml").write_text(SPEC.replace("PORT", str(upstream.port)))
    (policies / "coder.yaml").write_text(POLICY)
    return "--specs", str(specs), "--policies", str(policies)


def begun(gateway: Served, code: str) -> threading.Thread:
    """A call whose answer nobody hears."""

    def call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            gateway.call("coder", {"code": code})

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def wait_for(upstream: Counted, requests: int) -> None:
    """Until the upstream has heard so many requests."""
    until = time.monotonic() + PATIENCE
    while upstream.count() < requests and time.monotonic() < until:
        time.sleep(0.01)
    assert upstream.count() == requests


def records(home: Path) -> list[dict[str, Any]]:
    """Every record about a call."""
    said = toolgate(home, "audit", "tail", "-n", "10000", "--calls", "--json")
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_twenty_posts_of_code_leave_twenty_intents_when_the_gateway_is_killed(tmp_path: Path) -> None:
    """What went out was on record before it went: each POST has its intent, linked to the call whose code made it."""
    home = tmp_path / "home"
    with counting_upstream() as upstream:
        flags = files(tmp_path, upstream)
        gateway = ready(start(home, *flags), home)
        calling = begun(gateway, CODE.replace("PORT", str(upstream.port)))
        wait_for(upstream, 20)
        gateway.kill()
        calling.join(PATIENCE)
        again = ready(start(home, *flags), home)
        again.process.terminate()
        assert again.process.wait(30) == 0
        assert upstream.count() == 20
    found = records(home)
    intents = [record for record in found if record["type"] == "call.intent"]
    (parent,) = [record for record in intents if "parent_call_id" not in record]
    nested = [record for record in intents if "parent_call_id" in record]
    assert [record["tool"]["name"] for record in nested] == ["net.fetch", "count"] * 10
    assert {record["parent_call_id"] for record in nested} == {parent["call_id"]}
    ended = {record["call_id"] for record in found if record["type"] == "call.outcome"}
    assert len(ended) >= 19
    doubted = json.loads(toolgate(home, "audit", "in-doubt", "--json").stdout)
    assert {record["call_id"] for record in doubted} == {record["call_id"] for record in intents} - ended
    assert parent["call_id"] not in ended
    assert toolgate(home, "audit", "verify").returncode == 0


def test_a_fetch_stands_in_the_record_in_plain(tmp_path: Path) -> None:
    """Method, host, path, status and bytes: what an operator asks first, without opening anything."""
    code = """
got = call("net.fetch", method="POST", url="http://127.0.0.1:PORT/say?q=1", body='{"text": "hello"}')
result = [got["status"], got["body"]]
"""
    with counting_upstream() as upstream:
        flags = files(tmp_path, upstream)
        with served(tmp_path / "home", *flags) as gateway:
            status, said = gateway.call("coder", {"code": code.replace("PORT", str(upstream.port))})
        assert (status, said["result"]["structured_content"]["result"]) == (200, [200, '{"said": "hello"}'])
        at = f"127.0.0.1:{upstream.port}"
    (outcome,) = [record for record in records(tmp_path / "home") if "network" in record]
    assert outcome["network"] == [{"method": "POST", "host": at, "path": "/say", "status": 200, "bytes": 17}]
    assert outcome["parent_call_id"] == said["call_id"]
    assert "q=1" not in json.dumps(outcome)
