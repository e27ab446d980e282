"""What the tests of containers share: a `Docker` on a real engine, jobs for it, and a look at what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

from docker.errors import APIError  # type: ignore[import-untyped]  # the SDK ships no types

from sandboxes.docker import Docker
from sandboxes.model import Exit, Job, Limits, OnCall
from tests.engine import Engine

# Bounds a hang; no test measures time.
PATIENCE = 90.0


@contextlib.contextmanager
def root() -> Iterator[str]:
    """A folder for sockets: short, unlike pytest's own, for the path of a socket has 107 bytes."""
    folder = tempfile.mkdtemp(prefix="tg-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sandbox(engine: Engine, folder: str, **options: object) -> Docker:
    """A `Docker` on this engine that keeps its sockets in `folder`; nothing stands ready unless `declared`."""
    images = {name: one for name, one in engine.images.items() if name in {"python", "shell"}}
    return Docker(engine.address.removeprefix("unix://"), images=images, root=folder, **options)  # type: ignore[arg-type]  # a mixed bag


@contextlib.asynccontextmanager
async def opened(engine: Engine, **options: object) -> AsyncIterator[Docker]:
    """A started `Docker`, closed at the end."""
    with root() as folder:
        docker = sandbox(engine, folder, **options)
        try:
            await docker.start()
            yield docker
        finally:
            await docker.close()


def play(scenario: Coroutine[object, object, None]) -> None:
    """Runs an async scenario to its end."""
    asyncio.run(asyncio.wait_for(scenario, PATIENCE))


async def run(docker: Docker, engine: Engine, program: str, on_call: OnCall | None = None, **fields: object) -> Exit:
    """Runs a Python program as a job with these other fields."""
    job = Job(program=program, image=engine.images["python"], **fields)  # type: ignore[arg-type]  # a mixed bag
    return await (docker.run(job) if on_call is None else docker.run(job, on_call))


async def until(holds: Callable[[], object]) -> None:
    """Waits until something holds; the scenario's patience ends it."""
    while not holds():  # noqa: ASYNC110  # what another process does sends no event
        await asyncio.sleep(0.05)


def ours(engine: Engine, folder: str) -> list[str]:
    """The names of the containers on the engine whose sockets lie under `folder`."""
    owner = Path(folder, "owner").read_text()
    with contextlib.closing(engine.client()) as client:
        found = client.api.containers(all=True, filters={"label": [f"dev.toolgate.owner={owner}"]})
    return [one["Names"][0].lstrip("/") for one in found]


def kill(engine: Engine, name: str) -> None:
    """Ends a container from outside, as the kernel or an operator might."""
    with contextlib.closing(engine.client()) as client, contextlib.suppress(APIError):
        client.api.kill(name)


def folders(folder: str) -> list[str]:
    """What lies under the root but the owner's name."""
    return sorted(set(os.listdir(folder)) - {"owner"})


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait(holds: Callable[[], object]) -> None:
    """As `until`, where nothing is async. Raises `TimeoutError`."""
    due = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > due:
            raise TimeoutError
        time.sleep(0.05)


def allow_list(engine: Engine, folder: str, **more: object) -> dict[str, object]:
    """An allow-list for a broker on this engine, as JSON values."""
    images = [engine.images["python"]]
    return {"engine": engine.address.removeprefix("unix://"), "root": folder, "images": images, **more}


def write(path: Path, value: object, mode: int = 0o600) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(value))
    path.chmod(mode)
    return path


LIMITS = Limits(wall=20.0)
