"""The kill switch under load: what is taken away is gone within a second of the answer, by the record.

Times are those that the ledger has of intents: a call is admitted when its intent is written.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.upstream import counting_upstream, spec_and_policy
from tests.served import Served, Wire, served, toolgate

WITHIN = 1.0  # seconds: what is promised
LINES = 50  # connections, each with a call under way at any time
CALLS = 1000
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- {id: count, effect: permit, match: {tools: [count], agents: [bot]}}
"""


@dataclass(frozen=True)
class Target:
    """What is taken away while it is used: the gateway as its key holder sees it, and that key's id."""

    gateway: Served
    key: str

    def run(self, *arguments: str) -> None:
        """A command on the home."""
        done = toolgate(self.gateway.home, *arguments)
        assert done.returncode == 0, done.stderr


def by_key(target: Target) -> None:
    """The key itself."""
    target.run("keys", "revoke", target.key)


def by_agent(target: Target) -> None:
    """Every credential of its agent."""
    target.run("revoke", "--agent", "bot", "--why", "it ran away")


def by_token(target: Target) -> None:
    """Its id, as records have it."""
    target.run("revoke", "--token", target.key, "--why", "it was leaked")


async def calling(target: Target, answers: list[int], enough: asyncio.Event) -> None:
    """Calls one after the other until one is refused. `enough` is set once there are many answers."""
    wire = await Wire.to(target.gateway)
    try:
        while True:
            status, said = await wire.call("count", {"text": "x"})
            assert status != 200 or said["status"] == "done", said
            answers.append(status)
            if len(answers) >= CALLS:
                enough.set()
            if status != 200:
                return
    finally:
        wire.close()


async def taken_away(target: Target, take: Callable[[Target], None]) -> tuple[float, list[int]]:
    """When the command had returned, and every answer."""
    answers, enough = list[int](), asyncio.Event()
    lines = [asyncio.create_task(calling(target, answers, enough)) for _ in range(LINES)]
    await asyncio.wait_for(enough.wait(), 120)
    await asyncio.to_thread(take, target)
    returned = time.time()
    await asyncio.wait_for(asyncio.gather(*lines), 60)
    return returned, answers


def admitted(home: Path) -> list[float]:
    """When each call was admitted, in unix seconds."""
    lines = (line for file in sorted((home / "audit").rglob("*.jsonl")) for line in file.open("rb"))
    records: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith(b"{")]
    return [datetime.fromisoformat(each["ts"]).timestamp() for each in records if each["type"] == "call.intent"]


@pytest.mark.parametrize("take", [by_key, by_agent, by_token])
def test_nothing_is_admitted_a_second_after(tmp_path: Path, take: Callable[[Target], None]) -> None:
    """A thousand calls and more over fifty lines: none is admitted later, and every line is refused in the end."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        for path in policies.iterdir():
            path.unlink()
        (policies / "count.yaml").write_text(POLICY)
        with served(tmp_path / "home", "--specs", str(specs), "--policies", str(policies)) as gateway:
            made = json.loads(toolgate(gateway.home, "keys", "create", "--agent", "bot", "--json").stdout)
            target = Target(replace(gateway, key=made["key"]), made["id"])
            returned, answers = asyncio.run(taken_away(target, take))
        times = admitted(tmp_path / "home")
        assert len(times) == answers.count(200) >= CALLS
        assert answers.count(401) == LINES
        assert [at - returned for at in times if at > returned + WITHIN] == []
        assert upstream.count() == len(times)


def test_a_closed_session_admits_nothing_more(tmp_path: Path) -> None:
    """Closed by its owner: each call that comes after the answer is refused, and those under way end on record."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        with served(tmp_path / "home", "--specs", str(specs), "--policies", str(policies)) as gateway:
            target = Target(gateway, "")

            def close(_: Target) -> None:
                assert gateway.delete("/v1/sessions/default")[0] == 200

            returned, answers = asyncio.run(taken_away(target, close))
        times = admitted(tmp_path / "home")
        # A call whose intent is on record is refused all the same when its session was closed before it ran.
        assert len(times) >= answers.count(200) >= CALLS
        assert len(answers) - answers.count(200) == LINES
        assert [at - returned for at in times if at > returned + WITHIN] == []
