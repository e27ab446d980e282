"""What the sandbox tests share: the built guest, and pools of real worker processes. Never fakes a worker."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sandboxes.guests.build import DEFAULT_FOLDER, ensure
from sandboxes.model import Exit, Job, OnCall
from sandboxes.pool import WasmJs, WasmPython, no_calls

# Bounds a hang; no test measures time.
PATIENCE = 90

Scenario = Callable[[WasmPython], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture(scope="session")
def guests() -> Path:
    """The folder of the built guest; the first test process builds it, the others wait for its lock."""
    folder = Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER)).expanduser()
    ensure(folder)
    return folder


@pytest.fixture
def play(guests: Path) -> Play:
    """Plays an async scenario with a started pool, and closes it. Options are those of `WasmPython`."""

    def run(scenario: Scenario, **options: object) -> None:
        async def whole() -> None:
            pool = WasmPython(guests, **{"workers": 1, "spares": 1, **options})  # type: ignore[arg-type]  # a mixed bag
            await pool.start()
            try:
                await scenario(pool)
            finally:
                await pool.close()

        asyncio.run(asyncio.wait_for(whole(), PATIENCE))

    return run


@pytest.fixture(scope="module")
def run_js() -> Iterator[Callable[..., Exit]]:
    """Runs a job in JavaScript on a real worker, which serves the tests of one file one after the other."""
    folder = Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER)).expanduser()
    with asyncio.Runner() as runner:
        pool = WasmJs(folder, workers=1, spares=0)
        runner.run(pool.start())

        def run(job: Job, on_call: OnCall = no_calls) -> Exit:
            return runner.run(asyncio.wait_for(pool.run(job, on_call), PATIENCE))

        yield run
        runner.run(pool.close())
