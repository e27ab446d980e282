"""A gateway whose Docker engine stops, hangs, is not there, or comes back: nothing else notices, and it heals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import Engine, restart, throwaway
from tests.served import Served, served

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: engine
rules:
- {id: all, effect: permit, match: {tools: [run_container, run_python], agents: [dev]}, with: {timeout: 20s}}
"""
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: run_container
version: 1.0.0
description: Runs Python in a container.
input_schema: {type: object, properties: {code: {type: string}}, required: [code]}
effects: [exec]
runner:
  sandbox:
    backend: docker
    code: {argument: code, image: "IMAGE"}
    limits: {wall: 10s, memory: 64MiB}
    require: [no-network, memory-cap, readonly-root]
"""
STARTERS = Path(__file__).parents[2] / "tool_specs"
PRINT = {"code": "print(6 * 7)"}
# Seconds. What the engine cannot give is refused by then; the machine may be busy besides.
SOON = 2.0


@pytest.fixture
def own(engine: Engine, tmp_path: Path) -> Iterator[Engine]:
    """An engine that this test may harm."""
    with throwaway(tmp_path / "engine", engine) as running:
        yield running


def gateway_over(folder: Path, image: str, socket: str) -> Any:
    """A gateway with one tool in a container and one in WASM."""
    specs, policies = folder / "specs", folder / "policies"
    specs.mkdir()
    policies.mkdir()
    (specs / "container.yaml").write_text(SPEC.replace("IMAGE", image))
    (specs / "python.yaml").write_text((STARTERS / "run_python.yaml").read_text())
    (policies / "all.yaml").write_text(POLICY)
    env = {"TOOLGATE_SANDBOXES__DOCKER__SOCKET": socket}
    return served(folder / "home", "--specs", str(specs), "--policies", str(policies), env=env)


def is_refused(gateway: Served, seconds: float = SOON * 5) -> None:
    """The container tool says within seconds that it cannot run, and when to ask again; the other tool runs."""
    started = time.monotonic()
    status, said = gateway.call("run_container", PRINT)
    assert time.monotonic() - started < seconds
    assert (status, said["code"]) == (503, "sandbox_unavailable"), said
    assert said["retryable"]
    assert said["retry_after_ms"] > 0
    status, said = gateway.call("run_python", PRINT)
    assert (status, said["result"]["content"][0]["text"]) == (200, "42\n")


def runs_again(gateway: Served) -> None:
    """The container tool runs, without a restart, once the engine is back."""
    until = time.monotonic() + 60
    while True:
        status, said = gateway.call("run_container", PRINT)
        if status == 200 or time.monotonic() > until:
            assert (status, said.get("status")) == (200, "done"), said
            assert said["result"]["content"][0]["text"] == "42\n"
            return
        time.sleep(0.5)


def test_without_an_engine_everything_else_is_served(tmp_path: Path) -> None:
    """A missing socket costs the tools that need it, and no others: typed, and with a time to ask again."""
    with gateway_over(tmp_path, "sha256:" + "0" * 64, str(tmp_path / "no.sock")) as gateway:
        is_refused(gateway)


def test_an_engine_that_stops_or_hangs_and_comes_back(own: Engine, tmp_path: Path) -> None:
    """Refused at once while it is hung or gone; served again when it is back, by the same gateway."""
    socket = own.address.removeprefix("unix://")
    with gateway_over(tmp_path, own.images["python"], socket) as gateway:
        runs_again(gateway)
        own.hang()
        try:
            gateway.call("run_container", PRINT)  # a container that stood ready may still serve
            is_refused(gateway)
        finally:
            own.recover()
        runs_again(gateway)
        own.stop()
        is_refused(gateway)
        restarted = restart(own, tmp_path / "engine")
        try:
            runs_again(gateway)
        finally:
            restarted.stop()


def test_the_record_says_what_a_container_guaranteed(own: Engine, tmp_path: Path) -> None:
    """The outcome's line holds the backend and the guarantees found to hold, not those hoped for."""
    socket = own.address.removeprefix("unix://")
    with gateway_over(tmp_path, own.images["python"], socket) as gateway:
        runs_again(gateway)
        lines = [
            json.loads(line)
            for path in (gateway.home / "audit").rglob("*.jsonl")
            for line in path.open("rb")
            if line.startswith(b"{")
        ]
        (outcome,) = [line for line in lines if line["type"] == "call.outcome"][-1:]
        assert outcome["origin"] == "docker"
        assert {"no-network", "memory-cap", "readonly-root"} <= set(outcome["guarantees"])
        assert "no-guest-syscalls" not in outcome["guarantees"]
