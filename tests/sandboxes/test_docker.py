"""Jobs in containers on a real engine: what they can do and see, how they end, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace

import pytest

from sandboxes.docker import Docker
from sandboxes.model import MIB, Job, Limits
from sandboxes.offers import DOCKER_GUARANTEES
from tests.engine import Engine
from tests.sandboxes.containers import LIMITS, alive, folders, kill, opened, ours, play, root, run, sandbox, until

INSIDE = r"""
import ctypes, glob, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def tried(work):
    try:
        work()
        return "done"
    except OSError as error:
        return error.errno
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    return "done" if libc.syscall(*arguments) >= 0 else ctypes.get_errno()
result = {
    "uid": os.getuid(),
    "gid": os.getgid(),
    "groups": os.getgroups(),
    "capabilities": {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")},
    "seccomp": int(status["Seccomp"]),
    "no_new_privs": int(status["NoNewPrivs"]),
    "root": tried(lambda: open("/x", "w")),
    "gate": os.listdir("/run/toolgate"),
    "gate_written": tried(lambda: open("/run/toolgate/x", "w")),
    "interfaces": os.listdir("/sys/class/net"),
    "inet": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "vsock": tried(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
    "io_uring": call(425, 1, 0),
    "new_user": call(272, 0x10000000),
    "engine": [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)],
    "environ": sorted(os.environ),
    "hostname": socket.gethostname(),
    "scratch": [line.split()[3] for line in open("/proc/mounts") if line.split()[1] == "/tmp"],
}
"""


def test_a_job_runs_in_a_container_that_stands_ready(engine: Engine) -> None:
    """Input, output, a tool called from inside, files in and out: one job, in a container made before it came."""

    async def tool(name: str, args: bytes) -> bytes:
        return json.dumps({name: json.loads(args)}).encode()

    async def scenario() -> None:
        limits = replace(LIMITS, files_out=1024)
        async with opened(engine, declared=[("python", limits)]) as docker:
            await until(lambda: docker.ready)
            program = (
                "print('hello'); open('out.txt', 'w').write(open('in.txt').read() * 2)\n"
                "result = call('ask', number=args['n'])"
            )
            done = await run(
                docker,
                engine,
                program,
                tool,
                input=b'{"n": 7}',
                tools=frozenset({"ask"}),
                files={"in.txt": b"ab"},
                limits=limits,
            )
            assert (done.status, done.stdout, done.value) == ("ok", "hello\n", {"ask": {"number": 7}})
            assert (dict(done.files), done.usage.host_calls) == ({"out.txt": b"abab"}, 1)
            assert (done.warm, done.backend, done.guarantees) == (True, "docker", docker.guarantees)

    play(scenario())


def test_a_container_is_hardened_as_seen_from_inside(engine: Engine) -> None:
    """No rights, no writable root, no network, no dangerous system call, no environment of ours: probed from inside."""

    async def scenario() -> None:
        async with opened(engine) as docker:
            done = await run(docker, engine, INSIDE, limits=LIMITS)
        assert done.status == "ok", done.stderr
        seen = done.value
        assert isinstance(seen, dict)
        scratch = seen.pop("scratch")
        assert seen == {
            "uid": 65534,
            "gid": 65534,
            "groups": [65534],
            "capabilities": {"CapEff": 0, "CapPrm": 0, "CapBnd": 0, "CapInh": 0, "CapAmb": 0},
            "seccomp": 2,
            "no_new_privs": 1,
            "root": 30,  # EROFS
            "gate": [],
            "gate_written": 30,
            "interfaces": ["lo"],
            "inet": 1,  # EPERM
            "netlink": 1,
            "vsock": 1,
            "io_uring": 1,
            "new_user": 1,
            "engine": [],
            "environ": ["HOME", "LANG", "PATH", "TOOLGATE_CALLS"],
            "hostname": "sandbox",
        }
        assert len(scratch) == 1
        assert {"noexec", "nosuid", "nodev", f"size={16 * 1024}k"} <= set(scratch[0].split(","))

    play(scenario())


def test_a_backend_promises_what_it_probed(engine: Engine) -> None:
    """Before a container was probed nothing is promised; afterwards what was seen, and a shared kernel is shared."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder)
            assert docker.guarantees == frozenset()
            try:
                await docker.start()
                assert docker.guarantees == DOCKER_GUARANTEES
                done = await run(docker, engine, "print(1)", require=frozenset({"no-shared-kernel", "memory-cap"}))
            finally:
                await docker.close()
        assert (done.status, done.stderr) == ("unavailable", "docker does not guarantee no-shared-kernel\n")

    play(scenario())


ENDINGS = {
    "while True: pass": ("timeout", None),
    "import time; time.sleep(60)": ("timeout", None),
    "x = bytearray(400 << 20)": ("limit", "memory"),
    "import os, time\nwhile True: os.fork() or time.sleep(60)": ("limit", "pids"),
    "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()": (
        "limit",
        "pids",
    ),
    "open('x', 'wb').write(b'1' * (40 << 20))": ("limit", "disk"),
    "while True: print('x' * 4096)": ("limit", "output"),
    "1 / 0": ("error", None),
}


@pytest.mark.parametrize("program", ENDINGS, ids=[f"{status}-{limit}" for status, limit in ENDINGS.values()])
def test_a_job_ends_as_what_ended_it(engine: Engine, program: str) -> None:
    """Each limit is named by which it was; nothing raises."""

    async def scenario() -> None:
        async with opened(engine) as docker:
            done = await run(docker, engine, program, limits=Limits(wall=4.0, memory=128 * MIB))
        assert (done.status, done.limit) == ENDINGS[program], done.stderr

    play(scenario())


RUNNER_DIES = {
    "call('x')": ("crashed", None),
    "import os\nif os.fork() == 0: x = bytearray(400 << 20)\nos.wait(); call('x')": ("limit", "memory"),
}


@pytest.mark.parametrize("program", RUNNER_DIES, ids=["crash", "memory"])
def test_a_runner_that_died_says_nothing_but_the_engine_does(engine: Engine, program: str) -> None:
    """A container that ended before its answer is a crash, or the memory limit by the engine's account."""

    async def scenario() -> None:
        with root() as folder:

            async def die(_name: str, _args: bytes) -> bytes:
                for name in ours(engine, folder):
                    await asyncio.to_thread(kill, engine, name)
                return b"null"

            docker = sandbox(engine, folder)
            await docker.start()
            done = await run(docker, engine, program, die, tools=frozenset({"x"}), limits=LIMITS)
            await docker.close()
        assert (done.status, done.limit) == RUNNER_DIES[program]

    play(scenario())


def test_the_smallest_container_still_runs(engine: Engine) -> None:
    """Within the lowest bound of every limit there is room for the runner and a snippet."""

    async def scenario() -> None:
        async with opened(engine) as docker:
            done = await run(
                docker, engine, "print(1)", limits=Limits(wall=30, memory=16 * MIB, cpu=0.05, pids=4, disk=MIB)
            )
        assert (done.status, done.stdout) == ("ok", "1\n"), done.stderr

    play(scenario())


def test_a_container_serves_one_job(engine: Engine) -> None:
    """What a job leaves in its container, no later job meets: each has a container of its own."""

    async def scenario() -> None:
        async with opened(engine, declared=[("python", LIMITS)]) as docker:
            program = "import os\nresult = os.path.exists('/tmp/left'); open('/tmp/left', 'w').write('x')"
            done = [await run(docker, engine, program, limits=LIMITS) for _ in range(4)]
            assert [one.value for one in done] == [False] * 4
            assert len({one.sandbox_id for one in done}) == 4

    play(scenario())


def test_nothing_is_left_after_jobs_that_end_in_every_way(engine: Engine) -> None:
    """After 20 jobs, cancelled ones and crashes among them, and `close`: no container, process, folder or socket."""
    programs = ["print(1)", "import os; os.kill(os.getpid(), 9)", "import time; time.sleep(60)", "while True: pass"]

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder, declared=[("python", LIMITS)])
            await docker.start()
            broker = docker.broker_pid
            assert broker is not None
            for lot in range(5):
                tasks = [
                    asyncio.create_task(run(docker, engine, program, limits=replace(LIMITS, wall=1.0)))
                    for program in programs[:3]
                ]
                tasks.append(asyncio.create_task(run(docker, engine, programs[3], limits=LIMITS)))
                await asyncio.sleep(0.1 * lot)
                for name in ours(engine, folder)[:1]:
                    await asyncio.to_thread(kill, engine, name)
                tasks[3].cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks)
                await asyncio.gather(*tasks, return_exceptions=True)
            await docker.close()
            assert (ours(engine, folder), folders(folder), alive(broker)) == ([], [], False)

    play(scenario())


def test_a_cancelled_job_kills_its_container(engine: Engine) -> None:
    """Cancelling whoever waits ends the container while the pool goes on."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder)
            await docker.start()
            try:
                task = asyncio.create_task(run(docker, engine, "while True: pass", limits=LIMITS))
                await until(lambda: ours(engine, folder))
                await asyncio.sleep(0.5)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: ours(engine, folder) == [])
                assert (await run(docker, engine, "print(1)", limits=LIMITS)).status == "ok"
            finally:
                await docker.close()

    play(scenario())


def test_what_a_tool_raises_comes_through(engine: Engine) -> None:
    """A fault of ours in `on_call` is the caller's to see, and the container does not outlive it."""

    class Fault(Exception):
        pass

    async def broken(_name: str, _args: bytes) -> bytes:
        raise Fault

    async def scenario() -> None:
        async with opened(engine) as docker:
            with pytest.raises(Fault):
                await run(docker, engine, "call('ask')", broken, tools=frozenset({"ask"}), limits=LIMITS)

    play(scenario())


def test_a_job_without_time_is_not_started(engine: Engine) -> None:
    """A deadline that no container can meet ends as unavailable, and nothing ran."""

    async def scenario() -> None:
        async with opened(engine) as docker:
            done = await run(docker, engine, "print(1)", deadline=time.monotonic() + 0.001)
        assert (done.status, done.stderr) == ("unavailable", "no container became ready in time\n")

    play(scenario())


def test_jobs_that_give_up_on_their_container_leave_nothing(engine: Engine) -> None:
    """Deadlines that pass at any moment of a start: those after them run, and no container is left."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder, most=4)
            await docker.start()
            try:
                hurried = [
                    run(docker, engine, "print(1)", deadline=time.monotonic() + 0.02 * step) for step in range(1, 21)
                ]
                given_up = await asyncio.gather(*hurried)
                assert {one.status for one in given_up} <= {"unavailable", "ok", "timeout"}
                assert given_up[0].status == "unavailable"
                done = await asyncio.gather(*(run(docker, engine, "print(1)", limits=LIMITS) for _ in range(4)))
                assert [one.stdout for one in done] == ["1\n"] * 4
                await until(lambda: ours(engine, folder) == [])
            finally:
                await docker.close()
            assert folders(folder) == []

    play(scenario())


def test_an_image_that_is_not_registered_does_not_run(engine: Engine) -> None:
    """The broker's list is closed: another image, even one the engine has, is refused by it."""

    async def scenario() -> None:
        async with opened(engine) as docker:
            done = await docker.run(Job(program="print(1)", image=engine.images["base"]))
        assert (done.status, done.stderr) == ("unavailable", "that image is not on the broker's list\n")

    play(scenario())


def test_an_image_that_is_gone_does_not_hide_what_the_others_give(engine: Engine) -> None:
    """What can be had is found with an image that there is, whichever comes first."""
    images = {"absent": "sha256:" + "0" * 64, "python": engine.images["python"]}

    async def scenario() -> None:
        with root() as folder:
            docker = Docker(engine.address.removeprefix("unix://"), images=images, root=folder)
            try:
                await docker.start()
                assert docker.guarantees == DOCKER_GUARANTEES
            finally:
                await docker.close()

    play(scenario())


@pytest.mark.parametrize("runtime", ["runsc", "kata"])
def test_a_runtime_that_is_missing_is_not_replaced(engine: Engine, runtime: str) -> None:
    """Where the engine does not know the runtime, nothing runs, and the sentence names it."""

    async def scenario() -> None:
        with root() as folder:
            docker = sandbox(engine, folder, runtime=runtime)
            if runtime in str((await docker.status())["runtimes"]):
                pytest.skip(f"this engine has {runtime}")
            try:
                with pytest.raises(Exception, match=runtime):
                    await docker.start()
                assert (await run(docker, engine, "print(1)")).status == "unavailable"
            finally:
                await docker.close()

    play(scenario())
