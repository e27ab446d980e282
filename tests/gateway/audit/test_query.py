"""Reading the ledger beside its writer, and records as lines of text."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.audit.ledger import open_ledger
from gateway.audit.pieces import piece_leaves, segments, whole_lines
from gateway.audit.query import elsewhere, find_call, follow, nested, parsed, records, show, tail, written_at
from gateway.audit.text import render
from gateway.ports import Line
from tests.gateway.audit.disks import SMALL, intent, ledger, outcome, write_calls


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop of its own."""
    asyncio.run(test)


def test_records_of_all_shards_are_merged_by_clock(tmp_path: Path) -> None:
    """Two shards, written in turns: one order, by hybrid logical clock."""

    async def test() -> None:
        writers = [open_ledger(tmp_path, tuning=SMALL, shard=name) for name in ("w1", "w2")]
        for number in range(20):
            await writers[number % 2].append(intent(f"c{number}"))
            await asyncio.sleep(0.002)
        for writer in writers:
            await writer.close()

    run(test())
    calls = [record["call_id"] for record in records(tmp_path) if "call_id" in record]
    assert calls == [f"c{number}" for number in range(20)]
    assert {record["shard"] for record in records(tmp_path)} == {"w1", "w2"}


def test_tail_is_the_newest_over_segments(tmp_path: Path) -> None:
    """The newest records, oldest first, also when they stand in several segments; all when there are fewer."""

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, segment=3000)) as writer:
            await write_calls(writer, 20)

    run(test())
    everything = list(records(tmp_path))
    assert tail(tmp_path, 17) == everything[-17:]
    assert tail(tmp_path, 10_000) == everything
    assert tail(tmp_path, 0) == []


def test_follow_sees_what_comes_later(tmp_path: Path) -> None:
    """Each record is given once, in order, across a rotation, without any lock on a live log."""

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, segment=3000)) as writer:
            await writer.append(intent("before"))
            stream = follow(tmp_path, tail(tmp_path, 1), every=0.01)
            await write_calls(writer, 20)
            seen = [await asyncio.to_thread(next, stream) for _ in range(40)]
            calls = [record["call_id"] for record in seen if "call_id" in record]
            assert calls == [f"c{n // 2}" for n in range(len(calls))]
            seqs = [record["seq"] for record in seen]
            assert seqs == list(range(2, 42))

    run(test())


def test_show_gives_every_record_of_one_call(tmp_path: Path) -> None:
    """Intent and outcome with their content, and nothing of a call whose id only begins alike."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await writer.append(intent("c1"))
            await writer.append(intent("c11"))
            await writer.append(outcome("c1"))
            await writer.append(Line("credential.minted", {"call_id": "c1", "id": "x"}))

    run(test())
    shown = show(tmp_path, "c1")
    assert [(one.record["type"], one.content) for one in shown] == [
        ("call.intent", {"arguments": {"text": "asked by c1"}}),
        ("call.outcome", {"text": "ok"}),
        ("credential.minted", None),
    ]
    assert all(one.unreadable is None for one in shown)
    assert show(tmp_path, 'c"1') == []
    assert find_call(tmp_path, "c") == []


def test_calls_that_the_code_of_a_call_made_are_found(tmp_path: Path) -> None:
    """The last record of each, in the order in which they began; not those of another call, nor what they call."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            for call, parent in (("c2", "c1"), ("c3", "c11"), ("c4", "c1"), ("c5", "c2")):
                await writer.append(Line("call.intent", {"call_id": call, "parent_call_id": parent}))
            await writer.append(Line("call.outcome", {"call_id": "c2", "intent": 1, "parent_call_id": "c1"}))

    run(test())
    assert [(one["call_id"], one["type"]) for one in nested(tmp_path, "c1")] == [
        ("c2", "call.outcome"),
        ("c4", "call.intent"),
    ]
    assert nested(tmp_path, "c") == []


def test_a_record_is_one_readable_line() -> None:
    """Time, place, type, who, what, and what came of it."""
    record = {
        "ts": "2026-01-02T03:04:05.678Z",
        "shard": "w1",
        "seq": 7,
        "type": "call.refused",
        "call_id": "c_1",
        "principal": {"agent": "dev"},
        "tool": {"name": "run_python"},
        "decision": {"effect": "forbid", "rules": ["no-net"]},
        "outcome": {"status": "refused", "code": "forbidden"},
        "usage": {"wall_ms": 1.26},
    }
    line = render(record)
    assert line == "03:04:05.678 w1:7      call.refused  dev run_python refused forbidden rule=no-net 1.3ms c_1"
    assert render(record | {"parent_call_id": "c_0"}) == f"{line} parent=c_0"
    closed = {"ts": record["ts"], "shard": "w1", "seq": 8, "type": "log.closed", "size": 8, "root": "ab"}
    assert render(closed) == "03:04:05.678 w1:8      log.closed    size=8 root=ab"
    revoked = {"type": "admin.revoked", "whose": {"agent": "dev", "user": None}, "why": "left\x1b[31m"}
    assert render(record | revoked).endswith(" agent=dev why=left\\u001b[31m")


def test_a_record_of_policy_says_which_and_what_was_found() -> None:
    """The digest in force, and of one that was rejected how many findings there are, and the first."""
    record = {
        "ts": "2026-01-02T03:04:05.678Z",
        "shard": "w1",
        "seq": 7,
        "bundle_digest": "sha256:ab",
        "candidate": False,
    }
    loaded = record | {"type": "policy.loaded", "candidate": True, "findings": 0}
    assert render(loaded) == "03:04:05.678 w1:7      policy.loaded candidate bundle=sha256:ab"
    rejected = record | {"type": "policy.rejected", "findings": ["a.yaml:1:1: not YAML"], "count": 3}
    assert render(rejected) == "03:04:05.678 w1:7      policy.rejected bundle=sha256:ab findings=3 a.yaml:1:1: not YAML"


def test_what_people_said_and_what_was_warned_of_is_in_the_line() -> None:
    """Which approval, which rules, who said what; whose budget, and how much of it; which calls again and again."""
    common = {
        "ts": "2026-01-02T03:04:05.678Z",
        "shard": "w1",
        "seq": 7,
        "call_id": "c_1",
        "principal": {"agent": "dev"},
    }
    waits = common | {"tool": {"name": "refund"}, "approval": {"id": "a_1"}}
    asked = render(waits | {"type": "approval.requested", "needs": [{"rule": "large", "by": ["group:managers"]}]})
    assert asked.endswith(" approval.requested dev refund a_1 rule=large c_1")
    decided = waits | {"type": "approval.decided", "yes": False, "rules": ["large"]}
    assert render(decided | {"by": {"person": "ida"}}).endswith(" dev refund a_1 no rule=large by=ida c_1")
    assert render(decided | {"by": {"person": None}}).endswith(" no rule=large by=the requester c_1")
    parked = waits | {"type": "call.parked", "outcome": {"status": "parked", "code": "approval_required"}}
    assert render(parked).endswith(" refund parked approval_required c_1 approval=a_1")
    spent = {"over": "session", "dimension": "calls", "used": 48.0, "most": 60.0}
    assert render(common | {"type": "budget.warned"} | spent).endswith(" dev over=session calls=48/60 c_1")
    again = {"type": "loop.warned", "tools": ["a", "b"], "times": 50}
    assert render(common | again).endswith(" dev a,b times=50 c_1")


def test_a_line_says_who_answered_where_that_was_not_the_backend_at_once() -> None:
    """A kept result, a fallback, a later attempt."""
    common = {"ts": "2026-01-02T03:04:05.678Z", "shard": "w1", "seq": 7, "type": "call.outcome", "call_id": "c_1"}
    assert render(common | {"attempt": 0, "answered_by": "cache"}).endswith(" c_1 answered_by=cache")
    assert render(common | {"attempt": 2}).endswith(" c_1 attempt=2")


def test_a_record_cannot_drive_the_terminal() -> None:
    """Control characters a caller put into a name are shown as escapes."""
    line = render(
        {
            "ts": "2026-01-02T03:04:05.678Z",
            "shard": "w1",
            "seq": 1,
            "type": "call.refused",
            "tool": {"name": "a\x1b[2J\nb"},
        }
    )
    assert "\x1b" not in line
    assert "\n" not in line
    assert "a\\u001b[2J\\u000ab" in line


def test_archived_records_are_elsewhere(tmp_path: Path) -> None:
    """Their number is known by the hashes they left, and whether they may be of a time by the segment after them."""
    now = [1000.0]

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, segment=3000), clock=lambda: now[0]) as writer:
            for _ in range(20):
                now[0] += 10
                await writer.append(intent(f"c{now[0]}"))

    run(test())
    first, second, third, *_ = segments(tmp_path / "audit" / "w1")
    begun = written_at(next(parsed(whole_lines(third))))
    assert elsewhere(tmp_path, 0.0) == 0
    for path in (first, second):
        hashes = b"".join(leaf for leaf, _ in piece_leaves(path))
        path.with_suffix(".leaves").write_bytes(hashes)
        path.unlink()
    assert elsewhere(tmp_path, 0.0) == elsewhere(tmp_path, begun - 1) == int(third.stem)
    assert elsewhere(tmp_path, begun) == 0
