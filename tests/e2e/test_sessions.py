"""Sessions and keys of a served gateway: across a restart, closed by the command line, erased, on record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.served import Served, Wire, served, toolgate

CANARY = "CanaryRequestOfMine"


def shout(at: Served) -> Any:
    """One call of a tool that needs no network."""
    return at.call("run_python", {"code": "print(1)"})


def told(home: Path, *arguments: str) -> Any:
    """What a command says as JSON."""
    done = toolgate(home, *arguments, "--json")
    return json.loads(done.stdout)


def until(so: Callable[[], Any]) -> Any:
    """What it gives once that is something; a bound against a hang."""
    for _ in range(300):
        found = so()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it never was")


def records(home: Path, kind: str) -> list[Any]:
    """The records of one type in the segments."""
    lines: Iterator[str] = (
        line for path in sorted((home / "audit/w1").glob("*.jsonl")) for line in path.read_text().splitlines()
    )
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [record for record in found if record["type"] == kind]


def keyed(at: Served, *scopes: str) -> tuple[Served, str]:
    """The same gateway with a new key of agent dev, and the id of that."""
    made = told(at.home, "keys", "create", *(part for scope in scopes for part in ("--scope", scope)))
    return Served(at.process, at.home, at.port, made["key"]), made["id"]


def test_a_session_goes_on_after_a_restart_and_its_request_can_be_erased(tmp_path: Path) -> None:
    """Budget, use and words are there again; erased, the words are nowhere, in memory nor in any file."""
    home = tmp_path / "home"
    with served(home) as first:
        front, _ = keyed(first, "agent", "session:request")
        body = {"request": CANARY, "budget": {"calls": 2}, "labels": ["internal"]}
        status, made = front.post("/v1/sessions", json.dumps(body).encode())
        assert (status, made["request"]) == (201, [CANARY])
        headers = {"Toolgate-Session": made["id"]}
        call = json.dumps({"arguments": {"code": "print(1)"}}).encode()
        assert front.post("/v1/tools/run_python/call", call, **headers)[0] == 200
    with served(home) as second:
        front = Served(second.process, home, second.port, front.key)
        shown = front.get(f"/v1/sessions/{made['id']}")[1]
        assert (shown["request"], shown["used"]["calls"]) == ([CANARY], 1)
        assert {"internal", "untrusted"} <= set(shown["labels"])
        ended = [front.post("/v1/tools/run_python/call", call, **headers)[0] for _ in range(2)]
        assert ended == [200, 403]
        front.post(f"/v1/sessions/{made['id']}/request", json.dumps({"request": f"{CANARY} again"}).encode())
        erased = toolgate(
            home,
            "audit",
            "erase",
            "--session",
            made["id"],
            "--why",
            "asked to",
            "--key",
            keyed(second, "operator")[0].key,
        )
        assert erased.returncode == 0, erased.stderr
        assert front.get(f"/v1/sessions/{made['id']}")[1]["request"] == []
    with served(home) as third:
        front = Served(third.process, home, third.port, front.key)
        assert front.get(f"/v1/sessions/{made['id']}")[1]["request"] == []
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert toolgate(home, "audit", "verify").returncode == 0


def test_the_command_line_closes_a_session_and_those_below_it_in_a_running_gateway(tmp_path: Path) -> None:
    """From then on no call is admitted; each end is on record, with who said so."""
    home = tmp_path / "home"
    with served(home) as at:
        top = at.post("/v1/sessions", b"{}")[1]
        below = at.post("/v1/sessions", json.dumps({"parent": top["id"], "budget": {"calls": 5}}).encode())[1]
        headers = {"Toolgate-Session": below["id"]}
        call = json.dumps({"arguments": {"code": "print(1)"}}).encode()
        assert at.post("/v1/tools/run_python/call", call, **headers)[0] == 200
        row = until(
            lambda: next(
                (r for r in told(home, "sessions", "list", "--agent", "dev") if r["used"] and r["used"]["calls"]), None
            )
        )
        assert (row["id"], row["parent"], row["budget"]) == (below["id"], top["id"], {"calls": 5})
        assert told(home, "sessions", "list", "--tenant", "other") == []
        plain = toolgate(home, "sessions", "show", below["id"]).stdout
        assert plain.startswith(
            f"{below['id']}  default/dev  open  labels untrusted  calls 1 of 5  below {top['id']}  "
        )
        assert toolgate(home, "sessions", "close", top["id"]).returncode == 0
        until(lambda: at.post("/v1/tools/run_python/call", call, **headers)[1].get("code") == "session_closed")
        ends = until(lambda: (found := records(home, "session.closed")) and len(found) == 2 and found)
        whys = {record["session_id"]: (record["why"], record["calls"]) for record in ends}
        assert whys[top["id"]] == ("revoked", 0)
        why, calls = whys[below["id"]]
        assert why == "parent"
        assert calls >= 1  # and those that came until the gateway had heard of it
        who = next(record["who"] for record in ends if record["session_id"] == top["id"])
        assert who["authn"] == "local"
    with served(home):
        pass
    assert len(records(home, "session.closed")) == 2


def test_a_key_is_rotated_and_that_is_on_record(tmp_path: Path) -> None:
    """Old and new are good for the grace; without one, the new alone. What was done while nothing ran is told later."""
    home = tmp_path / "home"
    with served(home) as at:
        old, old_id = keyed(at, "agent")
        made = told(home, "keys", "rotate", old_id, "--grace", "1h")
        fresh = Served(at.process, home, at.port, made["key"])
        assert [each.get("/v1/tools")[0] for each in (old, fresh)] == [200, 200]
        newest = told(home, "keys", "rotate", made["id"], "--grace", "1s")
        until(lambda: fresh.get("/v1/tools")[0] == 401)
        assert Served(at.process, home, at.port, newest["key"]).get("/v1/tools")[0] == 200
        assert toolgate(home, "keys", "rotate", made["id"]).returncode == 1
        until(lambda: len(records(home, "admin.key_rotated")) == 2)
    assert toolgate(home, "keys", "revoke", newest["id"]).returncode == 0
    with served(home) as at:
        until(lambda: records(home, "admin.key_revoked"))
        assert Served(at.process, home, at.port, newest["key"]).get("/v1/tools")[0] == 401
    rotated = records(home, "admin.key_rotated")
    assert [(each["key"], each["successor"]) for each in rotated] == [(old_id, made["id"]), (made["id"], newest["id"])]
    assert [each["key"] for each in records(home, "admin.key_revoked")] == [newest["id"]]
    assert old_id in [each["key"] for each in records(home, "admin.key_created")]
    assert all(
        key.encode() not in path.read_bytes() for key in (old.key, newest["key"]) for path in home.rglob("*.jsonl")
    )


def test_a_thousand_calls_and_a_session_closed_by_the_command_line(tmp_path: Path) -> None:
    """Calls keep coming while another process closes the session: once one was refused, none is admitted."""
    home = tmp_path / "home"

    async def flood(at: Served, codes: list[str]) -> None:
        wires = [await Wire.to(at) for _ in range(8)]

        async def calls(wire: Wire) -> None:
            for _ in range(125):
                status, body = await wire.call("run_python", {"code": "1"})
                codes.append(body["code"] if status != 200 else "done")

        closing = asyncio.create_task(asyncio.to_thread(toolgate, home, "sessions", "close", "default"))
        await asyncio.gather(*map(calls, wires))
        assert (await closing).returncode == 0
        for wire in wires:
            wire.close()

    codes: list[str] = []
    with served(home) as at:
        assert shout(at)[0] == 200
        asyncio.run(flood(at, codes))
        until(lambda: shout(at)[1].get("code") == "session_closed")
        (end,) = until(lambda: records(home, "session.closed"))
    intents = [record["seq"] for record in records(home, "call.intent")]
    outcomes = {record["intent"]: record["outcome"] for record in records(home, "call.outcome")}
    late = [seq for seq in intents if seq > end["seq"]]
    assert all(outcomes[seq]["code"] == "session_closed" for seq in late)
