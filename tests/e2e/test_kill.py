"""kill -9 under load: whatever was acknowledged is on disk, and whatever may have run is listed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.served import Served, Wire, ready, start, toolgate

CALLS, CALLERS = 2_000, 32


async def load_until_killed(gateway: Served, kill_after: int) -> list[dict[str, Any]]:
    """2,000 calls at concurrency 32, the gateway killed after some of them; what was acknowledged."""
    acknowledged: list[dict[str, Any]] = []
    waiting = iter(range(CALLS))

    async def caller() -> None:
        wire = await Wire.to(gateway)
        try:
            for number in waiting:
                document = {"n": number} if number % 5 else "not a document"
                _, said = await wire.call("json_query", {"document": document, "path": "/n"})
                acknowledged.append(said)
                if len(acknowledged) == kill_after:
                    gateway.kill()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            wire.close()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return acknowledged


def records(home: Path) -> list[dict[str, Any]]:
    """Every record of the ledger."""
    said = toolgate(home, "audit", "tail", "-n", "100000", "--json")
    return [json.loads(line) for line in said.stdout.splitlines()]


@pytest.mark.parametrize("kill_after", [150, 400, 700])
def test_nothing_acknowledged_is_lost(kill_after: int, tmp_path: Path) -> None:
    """Every acknowledged call has its records, every orphaned intent is in doubt, and the log verifies."""
    home = tmp_path / "home"
    gateway = ready(start(home), home)
    acknowledged = asyncio.run(load_until_killed(gateway, kill_after))
    assert len(acknowledged) >= kill_after

    again = ready(start(home), home)
    again.process.terminate()
    assert again.process.wait(30) == 0

    by_call: dict[str, list[str]] = {}
    for record in records(home):
        by_call.setdefault(record.get("call_id", ""), []).append(record["type"])
    for said in acknowledged:
        executed = said.get("status") == "done"
        wanted = ["call.intent", "call.outcome"] if executed else ["call.refused"]
        assert by_call[said["call_id"]] == wanted, said
    orphans = {call for call, types in by_call.items() if types[:1] == ["call.intent"] and "call.outcome" not in types}
    listed = toolgate(home, "audit", "in-doubt", "--json")
    assert {record["call_id"] for record in json.loads(listed.stdout)} == orphans
    checked = toolgate(home, "audit", "verify")
    assert checked.returncode == 0, checked.stdout


def test_flipping_any_byte_below_the_last_checkpoint_is_found(tmp_path: Path) -> None:
    """`audit verify` fails and names the record, wherever the byte is."""
    home = tmp_path / "home"
    gateway = ready(start(home), home)
    for number in range(5):
        gateway.call("json_query", {"document": {"n": number}, "path": "/n"})
    gateway.process.terminate()
    assert gateway.process.wait(30) == 0
    (segment,) = (home / "audit" / "w1").glob("*.jsonl")
    whole = segment.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for at in range(7, ends[-1], len(whole) // 12):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        checked = toolgate(home, "audit", "verify", "--json")
        said = json.loads(checked.stdout)
        assert (checked.returncode, said["ok"]) == (1, False)
        line = sum(end < at for end in ends)
        assert said["first_bad"]["fault"]["seq"] == line, (at, said)
    segment.write_bytes(whole)
    assert toolgate(home, "audit", "verify").returncode == 0
