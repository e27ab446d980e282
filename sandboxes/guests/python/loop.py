"""asyncio and executors without a world to wait for: all takes turns, and sleeping moves the job's clock, not ours.

Runs inside the guest only. There are no sockets, no threads and no signals to wait for; waiting for them is an error.
"""

import asyncio
import asyncio.base_events
import asyncio.events
import concurrent.futures
from collections.abc import Callable
from typing import Any

import world  # type: ignore[import-not-found]  # lies beside this file in the guest


class Turns:
    """Stands where a selector stands: nothing ever comes in, so a wait with an end is over at once."""

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits for another, and nothing comes from outside")
        world.TERMS.skip(timeout)
        return []


class Loop(asyncio.base_events.BaseEventLoop):
    """An event loop on the job's clock. What asyncio would give a thread runs at once, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = Turns()

    def _process_events(self, _events: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who could be woken."""

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]  # narrower on purpose
        return asyncio.wrap_future(InTurn().submit(func, *args), loop=self)

    async def getaddrinfo(self, *_args: Any, **_named: Any) -> Any:
        raise PermissionError("there is no network in this sandbox: use fetch(url)")


class InTurn(concurrent.futures.Executor):
    """Stands where `ThreadPoolExecutor` stood: what is submitted runs at once."""

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # it belongs to whoever asks for the result
            future.set_exception(error)
        return future


class Policy(asyncio.events._BaseDefaultEventLoopPolicy):  # type: ignore[misc, name-defined]  # new in Python 3.14
    _loop_factory = Loop


def install() -> None:
    """Makes `asyncio.run`, `ThreadPoolExecutor` and their kin use these."""
    asyncio.events._event_loop_policy = Policy()  # type: ignore[attr-defined]  # no stub lists it
    asyncio.EventLoop = asyncio.SelectorEventLoop = Loop  # type: ignore[attr-defined, assignment]  # the point
    concurrent.futures.ThreadPoolExecutor = InTurn  # type: ignore[assignment, misc]  # the point
