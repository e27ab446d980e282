"""Waiting that is not cut short: for what must be finished although the caller went away. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


async def whole(work: Coroutine[None, None, T]) -> tuple[T, bool]:
    """Awaits `work` to its end, also when the task that waits is cancelled meanwhile.

    Gives its result, and whether the waiting was cancelled: that cancellation is spent, and is the caller's to honour.
    """
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:  # ours, or the task's own when the loop is ending, which ends the waiting too
            cancelled = True
    return task.result(), cancelled
