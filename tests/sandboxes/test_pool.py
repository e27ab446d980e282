"""The pool: who gets which worker, what happens when one dies, and that nothing stays behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.guest import WASM_GUARANTEES
from sandboxes.model import Job, Limits, SandboxUnavailable
from sandboxes.pool import WasmPython, open_sandbox
from sandboxes.wasm import NICE

LOOP = Job("while True: pass", limits=Limits(wall=30))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state(pid: int) -> str:
    """The kernel's letter for what the process does: R runs, Z is dead but not yet reaped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def gone(pid: int) -> bool:
    try:
        return not alive(pid) or state(pid) == "Z"
    except FileNotFoundError:
        return True


def descriptors(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  # the kernel sends no event for what is waited for
        await asyncio.sleep(0.01)


async def until_busy(pool: WasmPython, task: "asyncio.Task[object]") -> int:
    """The pid of the one worker that has a job and burns CPU, once there is one."""
    while not task.done():
        for worker in pool._busy:
            if worker.pid is not None and state(worker.pid) == "R":
                return worker.pid
        await asyncio.sleep(0.01)
    raise AssertionError("the job ended")


def worker_of(sandbox_id: str) -> str:
    return sandbox_id.split("-")[0]


def test_a_killed_worker_is_a_crash_and_is_replaced(play):
    """A worker killed in the middle of a job ends it as crashed, and the next job runs."""

    async def scenario(pool: WasmPython) -> None:
        running = asyncio.create_task(pool.run(LOOP))
        await asyncio.sleep(0.1)
        os.kill(await until_busy(pool, running), signal.SIGKILL)
        assert (await running).status == "crashed"
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"

    play(scenario, spares=0)


def test_an_idle_worker_that_died_is_not_used(play):
    """A worker that died while idle is passed over and replaced."""

    async def scenario(pool: WasmPython) -> None:
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: gone(pid))
        await asyncio.sleep(0.05)
        done = await pool.run(Job("print(1)"))
        assert (done.status, done.warm) == ("ok", False)

    play(scenario, spares=0)


def test_cancelling_kills_the_sandbox(play):
    """When the caller goes away the worker is killed at once, and the next job runs on another."""

    async def scenario(pool: WasmPython) -> None:
        running = asyncio.create_task(pool.run(LOOP))
        await asyncio.sleep(0.1)
        pid = await until_busy(pool, running)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"
        await until(lambda: not alive(pid))
        assert pid not in pool.pids

    play(scenario)


def test_two_tenants_never_share_a_worker(play):
    """Over interleaved jobs of three tenants on two workers, each worker has run one tenant's jobs only."""

    async def scenario(pool: WasmPython) -> None:
        owners: dict[str, set[str]] = {}
        for turn in range(9):
            for tenant in ("a", "b", "c")[: 2 + turn % 2]:
                done = await pool.run(Job("print(1)", tenant=tenant))
                assert done.status == "ok"
                owners.setdefault(worker_of(done.sandbox_id), set()).add(tenant)
        assert {len(tenants) for tenants in owners.values()} == {1}

    play(scenario, workers=1, spares=1)


def test_a_tenant_keeps_its_worker(play):
    """Jobs of one tenant run on one worker, each under an id of its own."""

    async def scenario(pool: WasmPython) -> None:
        ids = [(await pool.run(Job("print(1)", tenant="a"))).sandbox_id for _ in range(4)]
        assert len(set(ids)) == 4
        assert len({worker_of(one) for one in ids}) == 1

    play(scenario)


def test_what_a_job_took_is_told(play):
    """A job's usage holds its processor time, which idling in a call is not part of, and its count of bytes."""

    async def idle(_name: str, _args: bytes) -> bytes:
        await asyncio.sleep(0.5)
        return b"1"

    async def scenario(pool: WasmPython) -> None:
        used = (await pool.run(Job("call('idle'); print(1)", tools=frozenset({"idle"})), idle)).usage
        assert used.cpu_ms is not None
        assert 0 < used.cpu_ms < used.sandbox_ms
        assert (used.bytes_out, used.host_calls) == (2, 1)

    play(scenario)


def test_a_worker_is_replaced_after_its_runs(play):
    """A worker that has run as often as it may is replaced before the next job."""

    async def scenario(pool: WasmPython) -> None:
        workers = [worker_of((await pool.run(Job("print(1)"))).sandbox_id) for _ in range(6)]
        assert [workers.count(one) for one in dict.fromkeys(workers)] == [3, 3]

    play(scenario, runs_per_worker=3)


def test_jobs_wait_in_line_until_their_deadline(play):
    """With the only worker busy a job waits; one whose deadline passes first is unavailable, a patient one runs."""

    async def scenario(pool: WasmPython) -> None:
        long = asyncio.create_task(pool.run(Job("while True: pass", limits=Limits(wall=1.0))))
        await asyncio.sleep(0.05)
        hasty = await pool.run(Job("print(1)", deadline=time.monotonic() + 0.1))
        patient = await pool.run(Job("print(1)", deadline=time.monotonic() + 60))
        assert hasty.status == "unavailable"
        assert (patient.status, patient.warm) == ("ok", False)
        assert (await long).status == "timeout"

    play(scenario)


def test_a_deadline_shortens_the_wall_limit(play):
    """A job past its deadline does not run; one that meets it while running is a timeout."""

    async def scenario(pool: WasmPython) -> None:
        assert (await pool.run(Job("print(1)", deadline=time.monotonic() - 1))).status == "unavailable"
        done = await pool.run(Job("while True: pass", deadline=time.monotonic() + 0.3))
        assert done.status == "timeout"

    play(scenario)


def test_many_jobs_at_once_each_get_their_own_answer(play):
    """Fifty concurrent jobs of five tenants on two workers all end well and none sees another's output."""

    async def scenario(pool: WasmPython) -> None:
        jobs = [Job(f"print({n})", tenant=str(n % 5)) for n in range(50)]
        done = await asyncio.gather(*(pool.run(job) for job in jobs))
        assert [one.stdout for one in done] == [f"{n}\n" for n in range(50)]

    play(scenario, workers=2)


def test_nothing_is_left_after_close(guests):
    """After close, with a job in flight and a worker starting, none of the processes exists and the job has ended."""

    async def scenario() -> None:
        before = len(os.listdir("/proc/self/fd"))
        pool = WasmPython(guests, workers=2, spares=1)
        await pool.start()
        running = asyncio.create_task(pool.run(LOOP))
        pid = await until_busy(pool, running)
        pids = pool.pids
        await pool.close()
        assert pid in pids
        assert [pid for pid in pids if alive(pid)] == []
        assert (await running).status == "crashed"
        assert (await pool.run(Job("print(1)"))).status == "unavailable"
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_worker_dies_with_its_parent(guests, tmp_path):
    """A worker in an endless loop is gone once the process that started it was killed."""
    program = f"""
import asyncio, sys
from pathlib import Path
from sandboxes.model import Job
from sandboxes.pool import WasmPython
async def main():
    pool = WasmPython(Path({str(guests)!r}), workers=1, spares=0)
    await pool.start()
    print(*pool.pids, flush=True)
    await pool.run(Job("while True: pass"))
asyncio.run(main())
"""

    async def scenario() -> None:
        root = str(Path(__file__).parents[2])
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, cwd=root, stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        parent.kill()
        await parent.wait()
        await until(lambda: gone(pid))

    asyncio.run(asyncio.wait_for(scenario(), 60))


def check_confined(proc: Path) -> None:
    # Python itself sets LC_CTYPE when it starts with no locale.
    assert (proc / "environ").read_bytes() in (b"", b"LC_CTYPE=C.UTF-8\0")
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()
    limits = (proc / "limits").read_text().splitlines()
    assert [line.split()[4:6] for line in limits if line.startswith("Max core")] == [["0", "0"]]


def test_a_worker_holds_nothing_of_its_parent(play):
    """A worker has no environment, its own session, no new privileges, no core, one socket and its guest's file."""

    async def scenario(pool: WasmPython) -> None:
        (pid,) = pool.pids
        targets = descriptors(pid)
        assert len([target for target in targets if "socket:" in target]) == 1
        files = [target for target in targets if target.startswith("/") and target != "/dev/null"]
        assert [target for target in files if not target.endswith(".cwasm")] == []
        check_confined(Path(f"/proc/{pid}"))
        assert os.getsid(pid) == pid

    play(scenario, spares=0)


@pytest.mark.parametrize(
    ("backend", "require", "said"),
    [
        ("docker", frozenset(), "'docker' is not supported yet"),
        ("wasm-python", frozenset({"no-shared-kernel"}), "wasm-python does not guarantee no-shared-kernel"),
    ],
)
def test_a_demand_that_cannot_be_met_is_refused(backend, require, said):
    """An unknown backend or a guarantee it does not give is refused by name before anything is started."""

    async def scenario() -> None:
        async with open_sandbox(backend, Limits(), require):
            raise AssertionError("opened")

    with pytest.raises(SandboxUnavailable, match=said):
        asyncio.run(scenario())


def test_open_sandbox_stands_alone(guests):
    """`open_sandbox` runs jobs with nothing else set up, under the lower of the two limits."""

    async def scenario() -> None:
        async with open_sandbox("wasm-python", Limits(output=10), frozenset({"no-guest-syscalls"})) as box:
            assert box.guarantees == WASM_GUARANTEES
            assert (await box.run(Job("print(1)"))).stdout == "1\n"
            assert (await box.run(Job("print('x' * 20)"))).limit == "output"

    asyncio.run(scenario())


def test_a_worker_program_that_cannot_start_is_unavailable():
    """A pool whose worker program does not exist or says nothing refuses to start, with a sentence."""

    async def scenario(argv: list[str]) -> None:
        await WasmPython(worker_argv=argv).start()

    for argv in (["/nonexistent"], ["/bin/false"]):
        with pytest.raises(SandboxUnavailable, match="the sandbox worker did not start"):
            asyncio.run(scenario(argv))


def test_a_long_job_leaves_the_processor_to_others(play):
    """While it goes on it is nice, and the next job meets a worker that is not."""

    async def scenario(pool: WasmPython) -> None:
        (pid,) = pool.pids
        short = await pool.run(Job("print(1)"))
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0
        running = asyncio.create_task(pool.run(replace(LOOP, limits=Limits(wall=1.0))))
        while os.getpriority(os.PRIO_PROCESS, pid) == 0 and not running.done():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)
        assert os.getpriority(os.PRIO_PROCESS, pid) == NICE
        assert (short.status, (await running).status) == ("ok", "timeout")
        await pool.run(Job("print(1)"))
        (after,) = pool.pids
        assert os.getpriority(os.PRIO_PROCESS, after) == 0

    play(scenario, spares=0)
