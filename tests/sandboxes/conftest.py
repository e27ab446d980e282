"""What the sandbox tests share: the built guest, and pools of real worker processes. Never fakes a worker."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandboxes.guests.build import DEFAULT_FOLDER, ensure
from sandboxes.pool import WasmPython

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
