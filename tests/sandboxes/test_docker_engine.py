"""An engine that stops, hangs, or was never there: a typed answer, soon, and recovery without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.docker import Docker
from sandboxes.model import Exit, Limits, SandboxUnavailable
from tests.engine import Engine, restart, throwaway
from tests.sandboxes.containers import LIMITS, alive, folders, opened, ours, play, root, run, sandbox, until

# Far below the time limits of the engine's operations, far above what noticing takes: bounds a hang.
SOON = 10.0
NO_ANSWER = "the container engine does not answer"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine of this module's own."""
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def own(engine: Engine, place: Path) -> Iterator[Engine]:
    """An engine that these tests may stop and hang; each but the last leaves it running."""
    with throwaway(place, engine) as running:
        yield running


@contextlib.contextmanager
def hanging(engine: Engine) -> Iterator[None]:
    """The engine does not answer in the meantime."""
    engine.hang()
    try:
        yield
    finally:
        engine.recover()


async def soon(docker: Docker, engine: Engine, limits: Limits = LIMITS) -> Exit:
    async with asyncio.timeout(SOON):
        return await run(docker, engine, "print(1)", limits=limits)


def test_without_an_engine_there_is_a_sentence(engine: Engine) -> None:
    """A socket that is not there: `start` says so, a job is unavailable, and nothing is left."""

    async def scenario() -> None:
        with root() as folder:
            docker = Docker(f"{folder}/none.sock", images=engine.images, root=f"{folder}/r")
            try:
                with pytest.raises(SandboxUnavailable, match=NO_ANSWER):
                    await docker.start()
                done = await soon(docker, engine)
                assert (done.status, done.stderr.startswith(NO_ANSWER)) == ("unavailable", True)
                broker = docker.broker_pid
            finally:
                await docker.close()
            assert (broker is not None and alive(broker), folders(f"{folder}/r")) == (False, [])

    play(scenario())


def test_a_hung_engine_is_unavailable_and_then_back(own: Engine) -> None:
    """While the engine hangs a job gets a sentence and no wait; when it is back, the next one runs."""

    async def scenario() -> None:
        async with opened(own) as docker:
            with hanging(own):
                done = await soon(docker, own)
                assert (done.status, done.stderr.startswith(NO_ANSWER)) == ("unavailable", True)
            assert (await soon(docker, own)).status == "ok"

    play(scenario())


def test_a_container_that_stands_ready_serves_while_the_engine_hangs(own: Engine) -> None:
    """It needs no engine to run its job; it is removed when the engine is back, and made up for."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(own, folder, declared=[("python", LIMITS)], pool=1)
            await docker.start()
            try:
                await until(lambda: docker.ready)
                with hanging(own):
                    first, second = await soon(docker, own), await soon(docker, own)
                    assert (first.status, first.warm, second.status) == ("ok", True, "unavailable")
                await until(lambda: docker.ready)
                await until(lambda: len(ours(own, folder)) == 1)
                assert (await soon(docker, own)).warm
            finally:
                await docker.close()
            assert (ours(own, folder), folders(folder)) == ([], [])

    play(scenario())


def test_a_deadline_holds_while_the_engine_hangs(own: Engine) -> None:
    """The answer goes out at the wall limit though nobody can kill by the engine, and the guest runs no more."""

    async def scenario() -> None:
        with root() as folder:
            limits = replace(LIMITS, wall=0.5)
            docker = sandbox(own, folder, declared=[("python", limits)], pool=1)
            await docker.start()
            try:
                await until(lambda: docker.ready)
                with hanging(own):
                    async with asyncio.timeout(SOON):
                        done = await run(docker, own, "while True: pass", limits=limits)
                    assert (done.status, done.warm) == ("timeout", True)
            finally:
                await docker.close()
            assert ours(own, folder) == []

    play(scenario())


def test_a_broker_that_died_is_replaced(engine: Engine) -> None:
    """A new broker comes for the next job, and removes what the dead one could not, once it has seen it twice."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder, declared=[("python", LIMITS)], pool=1)
            await docker.start()
            try:
                await until(lambda: docker.ready)
                (orphan,) = ours(engine, folder)
                first = docker.broker_pid
                assert first is not None
                os.kill(first, signal.SIGKILL)
                await until(lambda: docker.broker_pid not in {None, first} and docker.ready)
                assert (await soon(docker, engine)).status == "ok"
                await until(lambda: orphan not in ours(engine, folder))
            finally:
                await docker.close()
            assert (ours(engine, folder), folders(folder)) == ([], [])

    play(scenario())


def test_an_engine_that_stopped_is_unavailable_and_then_back(own: Engine, place: Path) -> None:
    """Containers that died with it are not given out; when it is started again, jobs run and the pool fills."""

    async def scenario() -> None:
        async with opened(own, declared=[("python", LIMITS)], pool=1) as docker:
            await until(lambda: docker.ready)
            await asyncio.to_thread(own.stop)
            done = await soon(docker, own)
            assert (done.status, done.stderr.startswith(NO_ANSWER)) == ("unavailable", True)
            again = await asyncio.to_thread(restart, own, place)
            try:
                await until(lambda: docker.ready)
                assert (await soon(docker, own)).status == "ok"
            finally:
                await docker.close()
                await asyncio.to_thread(again.stop)

    play(scenario())
