"""What both doors share: a caller who goes away, and the trace context."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.doors.asgi import parse_traceparent, while_connected
from gateway.model import Trace


async def never() -> dict[str, Any]:
    """A client that stays."""
    return await asyncio.get_running_loop().create_future()


async def leaves() -> dict[str, Any]:
    """A client that goes away as soon as anybody looks."""
    return {"type": "http.disconnect"}


def test_work_whose_client_stays_gives_its_result() -> None:
    """Quick or slow, the result is handed on and the task is not marked as cancelled."""

    async def slow() -> str:
        await asyncio.sleep(0.15)
        return "done"

    async def both() -> tuple[str | None, int]:
        result = await while_connected(slow(), never)
        task = asyncio.current_task()
        assert task is not None
        return result, task.cancelling()

    assert asyncio.run(both()) == ("done", 0)


def test_work_whose_client_leaves_is_cancelled() -> None:
    """The work sees the cancellation and may end in its own way; nobody gets a result; the task lives on."""
    seen: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
        await asyncio.sleep(0)
        return "recorded"

    async def run() -> tuple[str | None, int]:
        result = await while_connected(work(), leaves)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return result, task.cancelling()

    assert asyncio.run(run()) == (None, 0)
    assert seen == ["cancelled"]


def test_a_server_that_stops_cancels_too() -> None:
    """A cancellation that is not the client's goes through."""

    async def run() -> None:
        task = asyncio.create_task(while_connected(asyncio.sleep(60), never))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c",
        "é" * 60,
    ],
)
def test_a_malformed_traceparent_is_ignored(header: str | None) -> None:
    """W3C Trace Context: a vendor that cannot parse it starts a new trace."""
    assert parse_traceparent(header) is None


def test_a_valid_traceparent_names_trace_and_parent() -> None:
    """Version 00 of the header."""
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert parse_traceparent(header) == Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
