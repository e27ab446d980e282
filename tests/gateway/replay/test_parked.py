"""Calls that waited for a person, afterwards: replayed with the yes and the no of then, and an end in every export."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.model import Outcome
from gateway.parked import Answer
from tests.gateway.audit.test_export import exported
from tests.gateway.replay.recording import OPEN, Made, Recording, answered

ASKS = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}, with: {approval: {by: ['user:ann'], ttl: 10m}}}\n"
ONE, TWO = Made("say", "one"), Made("say", "two")


async def answer(recording: Recording, asked: Outcome, yes: bool) -> None:
    """What ann says."""
    assert asked.problem is not None
    assert asked.problem.approval is not None
    said = Answer(yes, ("ok",), "ann", "k_ann", recording.at, "rest", "" if yes else "too much")
    assert await recording.approvals.answer("default", asked.problem.approval, said) is not None


async def recorded(folder: Path) -> tuple[Recording, list[Outcome]]:
    """Two calls wait; one gets its yes, is made and would wait again, the other gets a no."""
    recording = Recording(folder, ASKS)
    first = await recording.make([ONE, TWO])
    await answer(recording, first[0], True)
    await answer(recording, first[1], False)
    return recording, [*first, *await recording.make([ONE, TWO, ONE])]


MADE = [ONE, TWO, ONE, TWO, ONE]


def test_a_replay_asks_nobody_anew(tmp_path: Path) -> None:
    """What waited waits, what had its yes is answered, what was denied is denied; under another policy it is told."""

    async def run() -> None:
        recording, then = await recorded(tmp_path)
        said = [each.problem.code if each.problem else each.text for each in then]
        assert said == ["approval_required", "approval_required", "one 1", "approval_denied", "approval_required"]
        async with recording.replayed() as replay:
            now = [await replay.call(each) for each in MADE]
            assert [each.status for each in now] == ["parked", "parked", "done", "refused", "parked"]
            assert answered(now[2]) == answered(then[2])
            assert replay.report["ok"], replay.report
        async with recording.replayed(policy=OPEN) as replay:
            now = [await replay.call(each) for each in MADE]
            assert [each.status for each in now] == ["refused", "refused", "done", "refused", "refused"]
            assert not replay.report["ok"]
        assert recording.upstream.count == 1

    asyncio.run(run())


def test_a_wait_is_the_end_of_its_call_in_every_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One event for each call: of OCSF it is another status, denied and delayed; of CloudEvents the call completed."""
    recording, then = asyncio.run(recorded(tmp_path))
    events = exported(capsys, recording.home, "--format", "ocsf")
    assert [event["metadata"]["correlation_uid"] for event in events] == [each.call_id for each in then]
    assert [event["status_id"] for event in events] == [99, 99, 1, 2, 99]
    assert [event["disposition_id"] for event in events] == [14, 14, 1, 2, 14]
    assert {event["severity_id"] for event in events if event["status_id"] == 99} == {1}
    clouds = exported(capsys, recording.home, "--format", "cloudevents")
    done = [event["subject"] for event in clouds if event["type"] == "dev.toolgate.call.completed.v1"]
    assert done == [each.call_id for each in then]
