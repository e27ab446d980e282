"""The reaper: what nobody will come back for goes at the second sighting, and nothing of anybody else's ever does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.allow import Allowed
from sandboxes.engine import Engine as Hands
from sandboxes.folders import Folders
from sandboxes.keeper import LEASE_SECONDS, Keeper
from sandboxes.reaper import Reaper, orphan, overdue
from sandboxes.spawn import ROOT
from sandboxes.template import Shape
from tests.engine import Engine
from tests.sandboxes.containers import LIMITS, PATIENCE, alive, allow_list, folders, ours, play, root, wait

NOW = 1_000_000.0
OWN, LATER, SOONER = "own", str(int(NOW) + 1), str(int(NOW) - 1)


def labels(owner: str | None = OWN, broker: str | None = "gone", lease: str | None = LATER) -> dict[str, str]:
    named = {"dev.toolgate.owner": owner, "dev.toolgate.broker": broker, "dev.toolgate.lease": lease}
    return {name: value for name, value in named.items() if value is not None}


DOOMED = {
    "of a dead broker": ("toolgate-x", labels(), True),
    "of a living broker": ("toolgate-x", labels(broker="lives"), False),
    "ours and held": ("toolgate-held", labels(broker="me"), False),
    "ours and not held": ("toolgate-x", labels(broker="me"), True),
    "another owner's": ("toolgate-x", labels(owner="other"), False),
    "another owner's, its lease over": ("toolgate-x", labels(owner="other", lease=SOONER), True),
    "held, in a time to come": ("toolgate-held", labels(broker="me", lease=SOONER), False),
    "held for too long": ("toolgate-old", labels(broker="me"), True),
    "of a living broker, in a time to come": ("toolgate-x", labels(broker="lives", lease=SOONER), False),
    "nobody's": ("db", {}, False),
    "nobody's with one label": ("db", labels(None, None, SOONER), False),
    "without a broker": ("db", labels(broker=None, lease=SOONER), False),
    "without a lease": ("db", labels(lease=None), False),
    "with a lease that is no number": ("db", labels(owner="other", lease="-1"), False),
}


@pytest.mark.parametrize(("name", "found", "doomed"), DOOMED.values(), ids=DOOMED)
def test_only_what_is_orphaned_or_expired_is_doomed(name: str, found: dict[str, str], doomed: bool) -> None:
    """Three labels of a broker's are needed, and then a dead broker of this owner's or a lease that is over.

    A clock that jumps ends no container of a living broker of this owner.
    """
    held = {"toolgate-held": 1.0, "toolgate-old": LEASE_SECONDS + 1.0}
    lost = orphan(name, found, held, OWN, "me", lambda broker: broker in {"lives", "me"})
    assert (lost or overdue(name, found, held, OWN, NOW)) is doomed


@contextlib.contextmanager
def keeping(engine: Engine, folder: str) -> Iterator[tuple[Keeper, Folders]]:
    """A keeper with a folder of its own under the root, in this process."""
    allowed = Allowed.read(allow_list(engine, folder))
    place = Folders(folder)
    try:
        yield Keeper(Hands(allowed.engine), allowed, place, '{"defaultAction":"SCMP_ACT_ALLOW"}'), place
    finally:
        place.close()


def test_an_orphan_goes_at_the_second_sighting_and_a_stranger_stays(engine: Engine) -> None:
    """After a broker died its container is seen, then removed; one without our labels outlives both looks."""

    async def scenario(folder: str) -> None:
        shape = Shape.of(engine.images["python"], "runc", LIMITS)
        with keeping(engine, folder) as (keeper, place):
            reaper = Reaper(keeper, place)
            with keeping(engine, folder) as (dead, _):
                await dead.create(shape)
                await reaper.look()
                await reaper.look()
                assert len(ours(engine, folder)) == 1, "its broker lives"
            held = await keeper.create(shape)
            counts = []
            for _ in range(3):
                await reaper.look()
                counts.append(len(ours(engine, folder)))
            assert counts == [2, 1, 1]
            await keeper.remove(held)

    with root() as folder, contextlib.closing(engine.client()) as client:
        stranger = client.api.create_container(engine.images["python"], labels={"dev.toolgate.lease": "1"})["Id"]
        try:
            play(scenario(folder))
            assert client.api.inspect_container(stranger)["Id"] == stranger
        finally:
            client.api.remove_container(stranger, force=True)
        assert (ours(engine, folder), folders(folder)) == ([], [])


def test_the_folder_of_a_dead_broker_goes_too(engine: Engine) -> None:
    """What a killed broker left under the root goes at the second sighting; a living one's and a stranger's stay."""

    async def scenario(folder: str) -> None:
        stray = "f" * 16
        with keeping(engine, folder) as (keeper, place), keeping(engine, folder) as (_, other):
            reaper = Reaper(keeper, place)
            await reaper.look()
            assert stray in folders(folder)
            await reaper.look()
            assert folders(folder) == sorted([place.instance, other.instance, "stranger"])

    with root() as folder:
        Path(folder, "f" * 16, "e" * 16).mkdir(parents=True)
        Path(folder, "stranger").mkdir()
        play(scenario(folder))


GATEWAY = """
import asyncio, json, sys
sys.path.insert(0, {source!r})
from sandboxes.docker import Docker
from sandboxes.model import Job, Limits
async def main():
    docker = Docker({engine!r}, images={images!r}, declared=[("python", Limits(wall=60.0))], root={folder!r})
    await docker.start()
    while not docker.ready:
        await asyncio.sleep(0.05)
    job = Job(program="while True: pass", image={images!r}["python"], limits=Limits(wall=60.0))
    running = asyncio.create_task(docker.run(job))
    await asyncio.sleep(0)  # it claims its container
    while docker.ready < 2:
        await asyncio.sleep(0.05)
    print(docker.broker_pid, flush=True)
    await running
asyncio.run(main())
"""


@contextlib.contextmanager
def gateway(engine: Engine, folder: str) -> Iterator[tuple[int, int]]:
    """A process with a pool and a running job, and its broker: their ids."""
    images = {"python": engine.images["python"]}
    program = GATEWAY.format(source=ROOT, engine=engine.address.removeprefix("unix://"), images=images, folder=folder)
    started = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert started.stdout is not None
        yield started.pid, int(started.stdout.readline())
    finally:
        started.kill()
        started.communicate(timeout=PATIENCE)


def test_a_killed_gateway_leaves_nothing(engine: Engine) -> None:
    """SIGKILL in the middle of a job: its broker ends every container, its own folder, and itself."""
    with root() as folder:
        with gateway(engine, folder) as (pid, broker):
            assert len(ours(engine, folder)) >= 3
            os.kill(pid, signal.SIGKILL)
            wait(lambda: not alive(broker))
        assert (ours(engine, folder), folders(folder)) == ([], [])


def test_when_both_are_killed_the_next_broker_cleans_up(engine: Engine) -> None:
    """What gateway and broker could not remove, the reaper of the next broker does, at its second sighting."""

    async def scenario(folder: str) -> None:
        with keeping(engine, folder) as (keeper, place):
            reaper = Reaper(keeper, place)
            before = set(ours(engine, folder))
            await reaper.look()
            assert set(ours(engine, folder)) >= before
            await reaper.look()
            assert not before & set(ours(engine, folder))
            for _ in range(2):  # what the engine was still making when the broker died is seen later
                await reaper.look()
            assert (ours(engine, folder), folders(folder)) == ([], [place.instance])

    with root() as folder:
        with gateway(engine, folder) as (pid, broker):
            os.kill(broker, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            wait(lambda: not alive(broker))
        play(scenario(folder))
