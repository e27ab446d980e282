"""A session of real clients on a real gateway, served again by a real process in an empty network."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agents.environments import python_of
from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.gateway.leaver import SPEC as WORK
from tests.served import ROOT, TOOLGATE, Served, served, start, toolgate

AGENTS = ROOT / "tests" / "agents"
RUN = """
apiVersion: toolgate/v1
kind: Tool
name: run
version: 1.0.0
description: Runs Python.
input_schema: {type: object, properties: {code: {type: string}}, required: [code]}
effects: [exec]
labels: {output: [untrusted]}
timeout: 3s
runner:
  sandbox: {backend: wasm-python, code: {argument: code}, tools: [count]}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: all
rules:
- {id: all, effect: permit, match: {tools: ["*"], agents: [dev]}}
- {id: no, effect: forbid, match: {tools: [count]}, when: ['args.text == "never"']}
"""
NESTED = "print(tools.count(text='nested'))"
# Each as [tool, arguments]; two equal calls have different results.
CALLS: list[tuple[str, dict[str, object]]] = [
    ("run", {"code": "print(2 + 2)"}),
    ("run", {"code": "1/0"}),
    ("run", {"code": "import random; print(random.random())"}),
    ("run", {"code": "while True: pass"}),
    ("run", {"code": "import random; print(random.random())"}),
    ("count", {"txt": "wrong"}),
    ("count", {"text": "hello"}),
    ("count", {"text": "never"}),
    ("run", {"code": NESTED}),
    ("nowhere", {}),
    ("work", {"code": "open('out.csv', 'w').write('a,b\\n1,2\\n')"}),
]


def told(said: Any) -> Any:
    """An answer without what is of one call only: ids, places in the log, how long it took."""
    if isinstance(said, dict):
        return {k: told(v) for k, v in said.items() if k not in ("call_id", "record", "wall_ms", "retry_after_ms")}
    return [told(each) for each in said] if isinstance(said, list | tuple) else said


def digests(home: Path) -> dict[str, str]:
    """Every file of the ledger, but those in which readings are noted."""
    files = [path for path in (home / "audit" / "w1").rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass
class Recorded:
    """A home with a recorded session, the flags it was served with, and what was answered."""

    home: Path
    flags: tuple[str, ...]
    rest: list[tuple[int, Any]]
    listing: Any
    upstream: Counted
    file: str


def listed(gateway: Served) -> Any:
    """The tools, as MCP lists them."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    return gateway.post("/mcp", body, Accept="application/json, text/event-stream")


@contextmanager
def recorded(folder: Path) -> Iterator[Recorded]:
    """A gateway that is called by REST and MCP, and stopped; then its backend is stopped, too."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(folder, upstream)
        for name, text in (("run.yaml", RUN), ("work.yaml", WORK)):
            (specs / name).write_text(text)
        for path in policies.iterdir():
            path.unlink()
        (policies / "all.yaml").write_text(POLICY)
        flags = ("--specs", str(specs), "--policies", str(policies))
        with served(folder / "home", *flags) as gateway:
            rest = [gateway.call(*call) for call in CALLS]
            listing = listed(gateway)
        file = rest[-1][1]["artifacts"][0]["handle"]
        yield Recorded(folder / "home", flags, rest, listing, upstream, file)


@contextmanager
def replayed(home: Path, session: str, *flags: str) -> Iterator[tuple[Served, dict[str, Any], list[Any]]]:
    """A replay that is ready, what it said, and its report in the end: a list with exit code and JSON."""
    process = start(home, "--replay", session, *flags)
    report: list[Any] = []
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        said = json.loads(line)
        yield Served(process, home, int(said["url"].rpartition(":")[2]), said["key"]), said, report
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        report += [process.returncode, *json.loads(out).values()]


def file_of(gateway: Served, handle: str) -> tuple[int, bytes]:
    """A file by its handle."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request("GET", f"/v1/artifacts/{handle}", headers={"Authorization": f"Bearer {gateway.key}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_session_is_served_again_with_nothing_behind_it(tmp_path: Path) -> None:
    """Byte for byte, from an empty network, to the same clients; the backend hears nothing, the log stays as it was."""
    with recorded(tmp_path) as then:
        heard, before = then.upstream.count(), digests(then.home)
        assert heard == 2
        with replayed(then.home, "default", *then.flags, "--rerun") as (gateway, said, report):
            if said["replay"]["isolated"]:
                own, other = (os.readlink(f"/proc/{pid}/ns/net") for pid in (gateway.process.pid, os.getpid()))
                assert own != other
                interfaces = Path(f"/proc/{gateway.process.pid}/net/dev").read_text().splitlines()[2:]
                assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
            assert [told(gateway.call(*call)) for call in CALLS] == [told(each) for each in then.rest]
            assert listed(gateway) == then.listing
            assert file_of(gateway, then.file) == (200, b"a,b\n1,2\n")
        assert report[0] == 0, report
        assert report[1] == {
            "ok": True,
            "served": len(CALLS),
            "missed": [],
            "decided_otherwise": [],
            "never_asked_for": [],
            "screened_otherwise": [],
            "unreadable": [],
        }
        again = {each["call_id"]: each["verdict"] for each in report[2]["calls"]}
        ran = [
            told["call_id"] for (tool, _), (_, told) in zip(CALLS, then.rest, strict=True) if tool in ("run", "work")
        ]
        assert [again.pop(call_id) for call_id in ran] == [
            "same",
            "same",
            "same",
            "not-rerunnable",
            "same",
            "same",
            "same",
        ]
        assert set(again.values()) == {"not-rerunnable"}
        assert then.upstream.count() == heard
        assert digests(then.home) == before
        verified = toolgate(Path(said["replay"]["home"]), "audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        asked = toolgate(then.home, "audit", "query", "--type", "admin.read", "--json")
        assert [each["record"]["verb"] for each in json.loads(asked.stdout)["records"]] == ["serve"]


def test_a_live_gateway_and_a_replay_of_it_stand_side_by_side(tmp_path: Path) -> None:
    """The home is only read: one goes on recording while the other replays, and misses end it with exit 1."""
    with recorded(tmp_path) as then, served(then.home, *then.flags) as live:
        with replayed(then.home, "default", *then.flags) as (gateway, _, report):
            status, missed = gateway.call("count", {"text": "hello there"})
            assert (status, missed["code"], missed["fix"][0]["pointer"]) == (409, "replay_miss", "/text")
            assert live.call("count", {"text": "hello"})[0] == 200
        assert report[0] == 1
        assert len(report[1]["never_asked_for"]) == len(CALLS)
    assert then.upstream.count() == 3


def test_an_agent_cannot_tell_the_replay_from_the_run(tmp_path: Path) -> None:
    """pydantic-ai over MCP, with a model that follows a plan: it is shown the same, to the letter."""
    plan = [call for call in CALLS if call[0] in ("run", "count")]

    def run(gateway: Served) -> Any:
        python, script = str(python_of(AGENTS / "modern.lock")), str(AGENTS / "modern_agent.py")
        command = [python, script, f"http://127.0.0.1:{gateway.port}/mcp", gateway.key, json.dumps(plan)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        (specs / "run.yaml").write_text(RUN)
        for path in policies.iterdir():
            path.unlink()
        (policies / "all.yaml").write_text(POLICY)
        flags = ("--specs", str(specs), "--policies", str(policies))
        with served(tmp_path / "home", *flags) as gateway:
            then = run(gateway)
        heard = upstream.count()
    with replayed(tmp_path / "home", "default", *flags) as (gateway, _, report):
        assert run(gateway) == then
    assert report[0] == 0, report
    assert upstream.count() == heard > 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--agent", "dev"], 2, "--agent goes with --replay only"),
        (["--require-isolation"], 2, "--require-isolation goes with --replay only"),
        (["--rerun"], 2, "--rerun goes with --replay only"),
        (["--replay", "nothing"], 2, "no gateway has been started here"),
    ],
)
def test_what_cannot_be_replayed_is_said(flags: Sequence[str], code: int, words: str, tmp_path: Path) -> None:
    """In a sentence, before anything is served."""
    command = [TOOLGATE, "serve", "--port", "0", "--home", str(tmp_path / "home"), *flags]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
