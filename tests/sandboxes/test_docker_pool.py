"""The pool never gives a job a container that is looser than its limits, on no path, and fills again at once."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.model import BOUNDS, MIB, Job, Limits
from sandboxes.template import ROOM_PIDS, Shape
from tests.engine import Engine
from tests.sandboxes.containers import opened, ours, play, root, run, sandbox, until

BAKED: Final = ("memory", "cpu", "pids", "disk")
# What the gateway's side enforces for each job, in whatever container: that is shown on a real one below.
PER_JOB: Final = ("wall", "output", "host_calls", "files_out")
IMAGE: Final = "sha256:" + "a" * 64
WIDE: Final = Limits(wall=30.0, memory=256 * MIB, cpu=2.0, pids=64, disk=32 * MIB, output=MIB, host_calls=8)


def limits() -> st.SearchStrategy[Limits]:
    """Any limits within the bounds."""
    whole = {name: st.integers(int(low), int(high)) for name, low, high in BOUNDS if name not in {"wall", "cpu"}}
    return st.builds(Limits, wall=st.floats(0.001, 300.0), cpu=st.floats(0.05, 64.0), **whole)


def test_every_limit_is_baked_or_enforced_for_each_job() -> None:
    """A new limit must be put into one of the two lists, and so into a test."""
    assert sorted(one.name for one in fields(Limits)) == sorted(BAKED + PER_JOB)


@given(st.tuples(limits(), limits()), st.sampled_from(["runc", "runsc"]), st.sampled_from([IMAGE, IMAGE[:-1] + "b"]))
def test_one_shape_is_one_set_of_baked_limits(pair: tuple[Limits, Limits], runtime: str, image: str) -> None:
    """Containers are interchangeable exactly when image, runtime and every baked limit are equal."""
    first, second = Shape.of(IMAGE, "runc", pair[0]), Shape.of(image, runtime, pair[1])
    same = all(getattr(pair[0], name) == getattr(pair[1], name) for name in BAKED)
    assert (first == second) is (same and runtime == "runc" and image == IMAGE)
    assert Shape.of(IMAGE, "runc", replace(pair[0], wall=1.0, output=0, host_calls=0, files_out=0)) == first


SEEN = """
import os
def read(*places):
    for place in places:
        try: return open("/sys/fs/cgroup/" + place).read().split()
        except OSError: pass
size = os.statvfs("/tmp")
quota = read("cpu/cpu.cfs_quota_us", "cpu.max") + (read("cpu/cpu.cfs_period_us") or [])
result = {
    "memory": int(read("memory/memory.limit_in_bytes", "memory.max")[0]),
    "pids": int(read("pids/pids.max", "pids.max")[0]),
    "cpu": int(quota[0]) / int(quota[1]),
    "disk": size.f_blocks * size.f_frsize,
}
"""
STRICTER: Final = {"memory": 128 * MIB, "cpu": 0.5, "pids": 16, "disk": 8 * MIB}


@pytest.mark.parametrize("name", [*BAKED, ""])
def test_a_stricter_job_gets_a_stricter_container(engine: Engine, name: str) -> None:
    """With looser containers ready, a job stricter in any baked limit gets a cold one with exactly its own limits."""
    asked = replace(WIDE, **{name: STRICTER[name]}) if name else WIDE

    async def scenario() -> None:
        async with opened(engine, declared=[("python", WIDE)], pool=1) as docker:
            await until(lambda: docker.ready)
            done = await run(docker, engine, SEEN, limits=asked)
            assert (done.status, done.warm) == ("ok", name == ""), done.stderr
            assert done.value == {
                "memory": asked.memory,
                "pids": asked.pids + ROOM_PIDS,
                "cpu": asked.cpu,
                "disk": asked.disk,
            }

    play(scenario())


async def _tool(_name: str, _args: bytes) -> bytes:
    return b"1"


# What a job that is stricter in a limit of its own does in a container that stood ready for a looser one.
ON_EACH_JOB: Final[dict[str, tuple[Limits, str, tuple[str, str | None]]]] = {
    "wall": (replace(WIDE, wall=0.3), "while True: pass", ("timeout", None)),
    "output": (replace(WIDE, output=1000), "print('x' * 2000)", ("limit", "output")),
    "host_calls": (replace(WIDE, host_calls=2), "for _ in range(3): call('ask')", ("limit", "host_calls")),
    "files_out": (
        replace(WIDE, files_out=10),
        "open('a', 'w').write('x' * 11)",
        ("limit", "files_out"),
    ),
}


@pytest.mark.parametrize("name", PER_JOB)
def test_a_stricter_job_is_held_to_its_limits_in_a_warm_container(engine: Engine, name: str) -> None:
    """The limits that no container carries hold for each job, pool hit or not."""
    asked, program, ending = ON_EACH_JOB[name]

    async def scenario() -> None:
        async with opened(engine, declared=[("python", WIDE)], pool=1) as docker:
            await until(lambda: docker.ready)
            done = await run(docker, engine, program, _tool, limits=asked, tools=frozenset({"ask"}))
            assert done.warm
            assert (done.status, done.limit) == ending, done.stderr

    play(scenario())


def test_a_demand_is_checked_on_every_path(engine: Engine) -> None:
    """A guarantee that containers here do not give refuses a job before it runs, warm or cold, pool full or empty."""

    async def scenario() -> None:
        async with opened(engine, declared=[("python", WIDE)], pool=1) as docker:
            await until(lambda: docker.ready)
            for asked in (WIDE, replace(WIDE, pids=16)):
                done = await run(docker, engine, "print(1)", limits=asked, require=frozenset({"deterministic"}))
                assert (done.status, done.stdout) == ("unavailable", "")
            assert docker.ready == 1
            done = await run(docker, engine, "print(1)", limits=WIDE, require=docker.guarantees)
            assert (done.status, done.warm) == ("ok", True)

    play(scenario())


def test_the_pool_follows_what_is_declared(engine: Engine) -> None:
    """As many stand ready as asked for, of the shapes declared now; those of a shape that is not any more go."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder, declared=[("python", WIDE), ("shell", WIDE)], pool=1)
            await docker.start()
            try:
                await until(lambda: docker.ready == 2)
                other = replace(WIDE, pids=16)
                docker.declare([("python", other)], warm={("python", other): 3})
                await until(lambda: docker.ready == 3 and len(ours(engine, folder)) == 3)
                assert not (await run(docker, engine, "print(1)", limits=WIDE)).warm
                assert (await run(docker, engine, "print(1)", limits=other)).warm
                await until(lambda: docker.ready == 3)
            finally:
                await docker.close()

    play(scenario())


def test_more_jobs_than_room_wait_in_line(engine: Engine) -> None:
    """At most so many containers work at once; every job has its turn, and each a container of its own."""

    async def scenario() -> None:
        async with opened(engine, most=2) as docker:
            done = await asyncio.gather(*(run(docker, engine, f"print({n})", limits=WIDE) for n in range(6)))
        assert [one.stdout for one in done] == [f"{n}\n" for n in range(6)]
        assert len({one.sandbox_id for one in done}) == 6

    play(scenario())


def test_a_shell_script_runs_as_a_command(engine: Engine) -> None:
    """A command of the spec's runs in the shell image with the program as its last argument."""

    async def scenario() -> None:
        async with opened(engine) as docker:
            job = Job(program="echo $((6 * 7)); cat ARGS", input=b'{"a":1}', image=engine.images["shell"])
            done = await docker.run(replace(job, command=("sh",), limits=WIDE))
        assert (done.status, done.stdout) == ("ok", '42\n{"a":1}'), done.stderr

    play(scenario())


def test_a_container_does_not_stand_ready_for_ever(engine: Engine) -> None:
    """Long before its lease ends another one takes its place, and it is gone."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder, declared=[("python", WIDE)], pool=1, idle=0.5)
            await docker.start()
            try:
                await until(lambda: docker.ready)
                (first,) = ours(engine, folder)
                await until(lambda: first not in ours(engine, folder) and docker.ready)
            finally:
                await docker.close()

    play(scenario())
