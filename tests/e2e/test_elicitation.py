"""A real MCP client that can ask its person, on a real gateway: what it can confirm, and what it never can grant."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.agents.environments import python_of
from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.served import Served, served, toolgate

HERE = Path(__file__).parent
LOCK = HERE.parent / "agents/modern.lock"
ASKING = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- {id: small, effect: permit, match: {tools: [count]}, when: ['size(args.text) < 9'],
   with: {approval: {by: [requester], ttl: 10m}}}
- {id: large, effect: permit, match: {tools: [count]}, when: ['size(args.text) >= 9'],
   with: {approval: {by: ["user:ann"], ttl: 10m}}}
"""
SMALL, LARGE = {"text": "small"}, {"text": "very large"}
YES = {"action": "accept", "content": {"ok": True}}
EVERYTHING = {"action": "accept", "content": {"ok": True, "approve": True, "confirm": True}}


@dataclass(frozen=True)
class Front:
    """A gateway, the keys of bob's agent and of ann who approves, and the backend that counts."""

    at: Served
    bob: str
    ann: str
    upstream: Counted

    def call(self, *calls: tuple[object, object]) -> Any:
        """Calls by the SDK's client, each with what its person says; what each came back with."""
        url = f"http://127.0.0.1:{self.at.port}/mcp"
        command = [str(python_of(LOCK)), str(HERE / "eliciting.py"), url, self.bob, "count", json.dumps(calls)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert {each["version"] for each in told} == {"2026-07-28"}
        return told

    def as_ann(self) -> Served:
        """The same gateway, for ann."""
        return Served(self.at.process, self.at.home, self.at.port, self.ann)

    def records(self, kind: str) -> list[Any]:
        """The records of one type."""
        tail = toolgate(self.at.home, "audit", "tail", "-n", "1000", "--json").stdout.splitlines()
        return [line for line in map(json.loads, tail) if line["type"] == kind]


@contextmanager
def front(folder: Path) -> Iterator[Front]:
    """A gateway whose one tool needs bob's own yes for what is small, and ann's for what is large."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(folder, upstream)
        for path in policies.glob("*.yaml"):
            path.write_text(ASKING)
        home = folder / "home"
        with served(home, "--specs", str(specs), "--policies", str(policies)) as at:
            yield Front(at, _key(home, "bob", "agent"), _key(home, "ann", "approver"), upstream)


def _key(home: Path, person: str, scope: str) -> str:
    done = toolgate(home, "keys", "create", "--person", person, "--scope", scope, "--json")
    return str(json.loads(done.stdout)["key"])


def test_what_a_person_confirms_happens_once_and_what_they_decline_does_not(tmp_path: Path) -> None:
    """The client's own loop asks, answers and calls again; each question is one answer on record."""
    with front(tmp_path) as at:
        confirmed, declined, mute = at.call((SMALL, YES), (SMALL, {"action": "decline"}), ({"text": "other"}, None))
        assert (confirmed["error"], json.loads(confirmed["text"])) == (False, {"said": "small"})
        (asked,) = confirmed["asked"]
        assert '"text": "small"' in asked["message"]
        assert (declined["error"], len(declined["asked"])) == (True, 1)
        assert "approval_denied" in declined["text"]
        assert (mute["error"], mute["asked"]) == (True, [])
        assert "Call again with the same arguments" in mute["text"]
        assert at.upstream.count() == 1
        decided = [(line["yes"], line["via"], line["by"]["person"]) for line in at.records("approval.decided")]
        assert decided == [(True, "elicitation", "bob"), (False, "elicitation", "bob")]


def test_what_another_person_has_to_approve_no_client_can_grant(tmp_path: Path) -> None:
    """One that accepts everything is told to wait; after ann's yes over REST the very same call happens, once."""
    with front(tmp_path) as at:
        first, second = at.call((LARGE, EVERYTHING), (LARGE, EVERYTHING))
        assert (first["error"], first["asked"], second["error"], second["asked"]) == (True, [], True, [])
        assert at.upstream.count() == 0
        approval = second["meta"]["dev.toolgate/problem"]["approval"]
        assert approval in second["text"]
        status, said = at.as_ann().post(f"/v1/approvals/{approval}/approve", b"{}")
        assert (status, said["state"]) == (200, "granted")
        done, again = at.call((LARGE, EVERYTHING), (LARGE, EVERYTHING))
        assert (done["error"], json.loads(done["text"])) == (False, {"said": "very large"})
        assert again["error"] is True
        assert at.upstream.count() == 1
        assert [line["via"] for line in at.records("approval.decided")] == ["rest"]


def test_an_answer_is_good_after_a_restart(tmp_path: Path) -> None:
    """What a client carries meanwhile is signed under the home's own key, and what waits is kept."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(tmp_path, upstream)
        (policies / "count.yaml").write_text(ASKING)
        flags = ("--specs", str(specs), "--policies", str(policies))
        with served(tmp_path / "home", *flags) as before:
            asked = _raw(before, {})
            assert asked["resultType"] == "input_required"
        with served(tmp_path / "home", *flags) as after:
            done = _raw(after, {"requestState": asked["requestState"], "inputResponses": {"confirm": YES}})
            assert (done["isError"], upstream.count()) == (False, 1)


def _raw(at: Served, answer: dict[str, Any]) -> Any:
    """The result of one call as it stands in the protocol, with an answer or without."""
    about = {"protocolVersion": "2026-07-28", "clientCapabilities": {"elicitation": {}}}
    meta = {f"io.modelcontextprotocol/{key}": value for key, value in about.items()}
    params = {"name": "count", "arguments": SMALL, "_meta": meta, **answer}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "count"}
    return at.post("/mcp", body.encode(), **headers)[1]["result"]
