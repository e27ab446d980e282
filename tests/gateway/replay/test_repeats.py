"""Idempotency keys in a replay: what was one call is one call again, however often it was and is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.gateway.replay.recording import Made, Recording, answered

FIRST, OTHER, PLAIN = Made("say", key="k1"), Made("say", key="k2"), Made("say")


def test_repeats_come_back_as_repeats(tmp_path: Path) -> None:
    """In the order of the record: what ran runs, what was told again is told again, a failure too, and a reused key."""
    broken, reused = Made("say", "break", key="k3"), Made("say", "other", key="k1")
    made = [FIRST, FIRST, OTHER, PLAIN, FIRST, broken, broken, reused]

    async def run() -> None:
        recording = Recording(tmp_path)
        then = await recording.make(made)
        assert [outcome.repeat for outcome in then] == [False, True, False, False, True, False, True, False]
        assert recording.upstream.count == 4
        async with recording.replayed() as replay:
            now = [await replay.call(each) for each in made]
            assert list(map(answered, now))[:-1] == list(map(answered, then))[:-1]
            assert [outcome.repeat for outcome in now] == [outcome.repeat for outcome in then]
            assert now[-1].problem is not None
            assert now[-1].problem.code == "key_reused"
            assert replay.report["ok"], replay.report
        assert recording.upstream.count == 4

    asyncio.run(run())


def test_a_call_once_more_under_its_key_is_that_call(tmp_path: Path) -> None:
    """It takes no other call's place, though their arguments are the same."""

    async def run() -> None:
        recording = Recording(tmp_path)
        then = await recording.make([FIRST, OTHER])
        async with recording.replayed() as replay:
            now = [await replay.call(made) for made in (FIRST, FIRST, FIRST, OTHER)]
            assert [outcome.text for outcome in now] == [then[0].text] * 3 + [then[1].text]
            assert replay.report["ok"], replay.report

    asyncio.run(run())


def test_keys_may_be_left_out_or_come_in_another_order(tmp_path: Path) -> None:
    """By its key a call is found wherever it stands; without one the calls are those of the record, in its order."""

    async def run() -> None:
        recording = Recording(tmp_path)
        then = await recording.make([FIRST, OTHER, FIRST])
        async with recording.replayed() as replay:
            now = [await replay.call(made) for made in (OTHER, FIRST, FIRST)]
            assert [outcome.text for outcome in now] == [then[1].text, then[0].text, then[0].text]
            assert replay.report["ok"], replay.report
        async with recording.replayed() as replay:
            now = [await replay.call(PLAIN) for _ in then]
            assert [outcome.text for outcome in now] == [outcome.text for outcome in then]
            assert replay.report["ok"], replay.report

    asyncio.run(run())


def test_what_was_under_way_then_is_so_again(tmp_path: Path) -> None:
    """A call that was told to wait is told so once more, though nothing takes time in a replay."""

    async def run() -> None:
        recording = Recording(tmp_path)
        slow = Made("slow", "hang", key="k")
        then = await recording.make([slow, slow], at_once=True)
        async with recording.replayed() as replay:
            now = [await replay.call(slow), await replay.call(slow)]
            codes = [sorted(str(each.problem and each.problem.code) for each in told) for told in (then, now)]
            assert codes == [["in_progress", "timeout"]] * 2
            assert replay.report["ok"], replay.report

    asyncio.run(run())
