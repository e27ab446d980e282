"""Idempotency keys where calls wait for people, and where code makes calls: the same rule, at the right moment."""

from __future__ import annotations

import asyncio
import json

from gateway.work import Calls, Work
from tests.gateway.coder import LOOK, SPECS, playing
from tests.gateway.stages.test_approve import ANN, HELLO, lab_of, parked


def test_a_call_that_waits_for_a_person_leaves_its_key_free() -> None:
    """Parked as often as it is repeated; it takes the key when it runs, and from then on repeats are told."""

    async def run() -> None:
        lab = lab_of()
        approval = await parked(lab, idempotency_key="k")
        assert await parked(lab, idempotency_key="k") == approval
        await lab.gate.answer(ANN, approval, True)
        ran = await lab.call("echo", HELLO, idempotency_key="k")
        again = await lab.call("echo", HELLO, idempotency_key="k")
        assert [(each.status, each.repeat) for each in (ran, again)] == [("done", False), ("done", True)]
        assert len(lab.trial.net.asked) == 1

    asyncio.run(run())


def test_the_same_call_of_code_is_one_where_its_tool_says_so() -> None:
    """Code sends no keys; what it repeats is told again, with its labels, and to a later run of the code too."""

    async def play(work: Work, calls: Calls) -> object:
        told = [json.loads(await calls.call("look", b'{"what": "sky"}')) for _ in range(3)]
        assert calls.labels == {"untrusted"}
        return told

    lab = playing(play, specs={**SPECS, "look.yaml": LOOK + "idempotency: {derive: 10m}\n"})
    for _ in range(2):
        assert asyncio.run(lab.call("coder", {"code": "played"})).structured == {"result": [{"said": "hello"}] * 3}
    assert len(lab.trial.net.asked) == 1
