"""Code that a gateway ran, run again by `serve --replay --rerun` in an empty network, before it serves anything."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.e2e.upstream import counting_upstream, spec_and_policy
from tests.served import Served, served, start, toolgate

RUN = """
apiVersion: toolgate/v1
kind: Tool
name: run
version: 1.0.0
description: Runs Python.
input_schema: {type: object, properties: {code: {type: string}}, required: [code]}
effects: [exec]
timeout: 20s
runner:
  sandbox: {backend: wasm-python, code: {argument: code}, tools: [count]}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: all
rules:
- {id: all, effect: permit, match: {tools: ["*"], agents: [dev]}}
"""
DRAWS = {"code": "import random, uuid; print(random.random(), uuid.uuid4(), {'a', 'b', 'c'}, object())"}
ASKS = {"code": "print(tools.count(text='nested'))"}


def test_the_code_of_a_session_is_run_again_before_it_is_served(tmp_path: Path) -> None:
    """The same to the byte, answered from the record; the backend hears nothing; the report says so in the end."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        (specs / "run.yaml").write_text(RUN)
        for path in policies.iterdir():
            path.unlink()
        (policies / "all.yaml").write_text(POLICY)
        flags = ("--specs", str(specs), "--policies", str(policies))
        home = tmp_path / "home"
        with served(home, *flags) as gateway:
            first, second = gateway.call("run", DRAWS), gateway.call("run", ASKS)
            assert (first[0], second[0], upstream.count()) == (200, 200, 1)
        process = start(home, "--replay", "default", "--rerun", *flags)
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            again = Served(process, home, int(said["url"].rpartition(":")[2]), said["key"])
            assert again.call("run", DRAWS)[1]["result"] == first[1]["result"]
            assert again.call("run", ASKS)[1]["result"] == second[1]["result"]
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        report = json.loads(out)
        assert (process.returncode, report["replayed"]["ok"]) == (0, True), err
        assert (report["rerun"]["same"], report["rerun"]["different"], report["rerun"]["not_rerunnable"]) == (2, 0, 0)
        assert [call["answered"] for call in report["rerun"]["calls"]] == [0, 1]
        assert upstream.count() == 1
        alone = toolgate(home, "audit", "rerun", "--session", "default", "--specs", str(specs))
        assert alone.returncode == 0, alone.stderr
        assert "2 the same, 0 different, 1 not rerunnable" in alone.stdout.splitlines()


def test_running_again_goes_with_a_replay_only(tmp_path: Path) -> None:
    """Anything else is a usage error."""
    asked = toolgate(tmp_path / "home", "serve", "--rerun")
    assert (asked.returncode, asked.stderr) == (2, "toolgate: --rerun goes with --replay only\n")
