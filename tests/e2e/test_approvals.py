"""Calls that wait for a person, over REST and the command line of real processes, one of which is killed in between."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from gateway.cli import main
from gateway.identity.keys import new_key
from gateway.stores.sqlite import SqliteKeys, State
from tests.served import Served, ready, served, start

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: refund
version: 1.0.0
description: Gives money back.
input_schema: {type: object, properties: {to: {type: string}, amount: {type: number}}, required: [to, amount]}
effects: [write]
runner:
  http: {method: POST, url: "http://127.0.0.1:PORT/refund", json: {to: "{to}", amount: "{amount}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: money
rules:
- id: refund
  effect: permit
  match: {tools: [refund]}
  with: {approval: {when: args.amount > 200.0, by: ["group:managers"], ttl: 15m}}
"""
LARGE = {"to": "eve\u202e\x1b[2J", "amount": 500}


class Bank(BaseHTTPRequestHandler):
    """Counts what it pays."""

    paid: list[Any]

    def do_POST(self) -> None:
        """Pays."""
        self.paid.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str


@dataclass
class Desk:
    """A home with its files, and the keys of those who come to it."""

    home: Path
    paid: list[Any]
    flags: tuple[str, ...]

    def key(self, scope: str, person: str | None = None, tenant: str = "default") -> str:
        """A new key."""
        secret, key = new_key("dev" if scope == "agent" else "desk", tenant, scope, time.time(), user=person)
        with closing(State(self.home / "state.db")) as state:
            asyncio.run(SqliteKeys(state).add(key))
        return secret

    def boss(self) -> str:
        """A key of ann, a manager, as it is made on the command line."""
        flags = ("--scope", "approver", "--person", "ann", "--group", "managers")
        made = self.run("keys", "create", "--json", *flags)
        assert made.code == 0, made.out
        return str(json.loads(made.out)["key"])

    def cli(self, key: str, *arguments: str) -> Said:
        """One command of a person."""
        return self.run("approvals", *arguments, "--key", key)

    def run(self, *arguments: str) -> Said:
        """One command, as `toolgate` runs it: a process for each would take most of the time of these tests."""
        out = io.StringIO()
        with redirect_stdout(out):
            code = main([*arguments, "--home", str(self.home)])
        return Said(code, out.getvalue())


@contextmanager
def desk(folder: Path) -> Iterator[Desk]:
    """A bank, and the files of a gateway before it."""
    paid: list[Any] = []
    bank = ThreadingHTTPServer(("127.0.0.1", 0), type("OneBank", (Bank,), {"paid": paid}))
    Thread(target=bank.serve_forever, daemon=True).start()
    for name, text in (("specs", SPEC.replace("PORT", str(bank.server_port))), ("policies", POLICY)):
        (folder / name).mkdir()
        (folder / name / "money.yaml").write_text(text)
    try:
        flags = ("--specs", str(folder / "specs"), "--policies", str(folder / "policies"))
        yield Desk(folder / "home", paid, flags)
    finally:
        bank.shutdown()
        bank.server_close()


def ask(at: Served, key: str, method: str, path: str, body: Any = None) -> tuple[int, Any, str | None]:
    """One request with somebody's key: status, JSON, and where it points to."""
    connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.getheader("location")
    finally:
        connection.close()


def test_a_call_waits_is_granted_outlives_a_kill_and_happens_once(tmp_path: Path) -> None:
    """202 and where to look; nobody but another person of the group may say yes; after a kill -9 the yes is there."""
    with desk(tmp_path) as at:
        process = start(at.home, *at.flags)
        gateway = ready(process, at.home)
        agent, boss, manager = at.key("agent", "bob"), at.boss(), "operator group:managers"
        status, said, location = ask(gateway, agent, "POST", "/v1/tools/refund/call", {"arguments": LARGE})
        assert (status, said["status"], location) == (202, "parked", f"/v1/calls/{said['call_id']}")
        approval = said["problem"]["approval"]
        status, own, _ = ask(gateway, agent, "GET", str(location))
        assert (status, own["status"], own["approval"]["id"], own["approval"]["state"]) == (
            *(200, "parked"),
            *(approval, "pending"),
        )
        refused = {
            "the agent itself": agent,
            "its person": at.key(manager, "Bob"),
            "nobody by name": at.key(manager),
            "none of the group": at.key("operator", "carl"),
            "another tenant": at.key(manager, "ann", "other"),
        }
        for who, key in refused.items():
            status, said, _ = ask(gateway, key, "POST", f"/v1/approvals/{approval}/approve", {})
            code = (404, "not_found") if who == "another tenant" else (403, "insufficient_scope")
            assert (status, said["code"]) == code, who
        shown = at.cli(boss, "show", approval).out
        assert '  |   "to": "eve\\u{202e}\\u{1b}[2J"' in shown
        assert "yours to answer: refund" in shown
        assert at.cli(boss, "approve", approval).out == f"{approval}: granted\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert at.paid == []
        with served(at.home, *at.flags) as again:
            assert ask(again, boss, "GET", f"/v1/approvals/{approval}")[1]["state"] == "granted"
            status, said, _ = ask(again, agent, "POST", "/v1/tools/refund/call", {"arguments": LARGE})
            assert (status, said["status"]) == (200, "done")
            resumed = said["call_id"]
            assert ask(again, agent, "POST", "/v1/tools/refund/call", {"arguments": LARGE})[0] == 202
            assert ask(again, boss, "GET", f"/v1/approvals/{approval}")[1]["used_by"] == resumed
            assert f"used up by {resumed}" in at.cli(boss, "show", approval).out
        assert at.paid == [{"to": LARGE["to"], "amount": 500}]
        explained = at.run("explain", resumed)
        assert "permitted with a yes by ann" in explained.out
        assert "ended: done" in explained.out
        assert at.run("audit", "verify").code == 0


def test_a_no_is_told_to_the_model(tmp_path: Path) -> None:
    """With its reason, from the command line; what needs nobody is not asked about."""
    with desk(tmp_path) as at, served(at.home, *at.flags) as gateway:
        boss = at.key("operator group:managers", "ann")
        assert gateway.call("refund", {"to": "eve", "amount": 20})[0] == 200
        status, said = gateway.call("refund", LARGE)
        assert status == 202
        denied = at.cli(boss, "deny", said["problem"]["approval"], "--why", "not without a receipt")
        assert (denied.code, denied.out) == (0, f"{said['problem']['approval']}: denied\n")
        status, refused = gateway.call("refund", LARGE)
        assert (status, refused["code"]) == (403, "approval_denied")
        assert "not without a receipt" in refused["detail"]
        again = at.cli(boss, "approve", said["problem"]["approval"])
        assert (again.code, "approval_expired" in again.out) == (1, True)
        explained = at.run("explain", said["call_id"]).out
        assert "ann said no to refund (rest)" in explained
        assert "ended: parked (approval_required) by rule refund" in explained
        assert at.cli(gateway.key, "list", "--state", "any").code == 1
        assert said["problem"]["approval"] in at.cli(boss, "list", "--state", "denied").out
