"""Sandboxes, each run in a fresh one, beside what they replace: `python3` with no walls, and a cold hardened container.

All figures come from one process and, where they are compared, by turns, so that a slow moment of the machine does not
hit one of them alone. Measures only; never judges.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bench.started import ROOT
from gateway.backends import images, make_backend
from gateway.settings import DockerSandboxes, Sandboxes
from sandboxes.model import MIB, Backend, Job, Limits, SandboxUnavailable
from sandboxes.pool import WasmPython

# The interpreter itself, since a `python3` on the path may be a script in front of it and flatter us.
BARE = [os.path.realpath(sys.executable), "-I", "-S", "-c", "0"]
PAUSE = 0.004
OVER = Limits(wall=0.3)
SPIN = Job("x = 0\nfor n in range(200_000): x += n\nprint(x)")
FLAGS = [
    *("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=16m", "--ipc", "none"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65534:65534", "--pids-limit", "40"),
    *("--memory", "128m", "--memory-swap", "128m", "--cpus", "1", "--log-driver", "none", "--init"),
    *("--security-opt", f"seccomp={ROOT / 'sandboxes/profiles/seccomp.json'}", "--entrypoint", "python3"),
]
Report = dict[str, float]


@asynccontextmanager
async def started(backend: Backend) -> AsyncIterator[Backend]:
    """A backend for a while."""
    try:
        await backend.start()
        yield backend
    finally:
        await backend.close()


async def _run_ms(backend: Backend, job: Job) -> float:
    start = time.perf_counter()
    done = await backend.run(job)
    spent = (time.perf_counter() - start) * 1000
    if done.status != "ok" or done.stdout != "42\n":
        raise RuntimeError(f"the run ended as {done}")
    return spent


def _child_ms(argv: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


async def _by_turns(runs: int, pause: float, *timed: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """Each in turn, `runs` times."""
    found: list[list[float]] = [[] for _ in timed]
    for _ in range(runs):
        for each, times in zip(timed, found, strict=True):
            await asyncio.sleep(pause)
            times.append(await each())
    return found


def _p(times: list[float], part: int) -> float:
    return statistics.quantiles(times, n=20)[part - 1]


async def fresh_vms(runs: int = 200) -> Report:
    """A fresh Python per run, through a worker, beside the start of a bare `python3`; then a fresh JavaScript."""
    settings = Sandboxes(workers=1)
    async with (
        started(WasmPython(workers=1, spares=0)) as python,
        started(make_backend("wasm-js", settings, (), print)) as script,
    ):
        ours, js = Job("print(6 * 7)"), Job("console.log(6 * 7)")
        for _ in range(20):
            await _run_ms(python, ours)
            await _run_ms(script, js)
        fresh, bare = await _by_turns(
            runs, PAUSE, lambda: _run_ms(python, ours), lambda: asyncio.to_thread(_child_ms, BARE)
        )
        (quick,) = await _by_turns(runs, PAUSE, lambda: _run_ms(script, js))
    return {
        "wasm_python_p50": _p(fresh, 10),
        "wasm_python_p95": _p(fresh, 19),
        "wasm_js_p50": _p(quick, 10),
        "wasm_js_p95": _p(quick, 19),
        "bare_python_p50": _p(bare, 10),
    }


async def containers(runs: int = 40) -> Report:
    """A warm container per run, at a pace that lets the pool refill, beside a cold hardened `docker run`.

    Raises `SandboxUnavailable` without an engine, the images, or the command line of Docker.
    """
    known = images(Sandboxes().guests.expanduser())
    if "python" not in known or shutil.which("docker") is None:
        raise SandboxUnavailable("the image `python` (make runners) and the command `docker` are needed")
    limits = Limits(memory=128 * MIB)
    job = Job("print(6 * 7)", image=known["python"], limits=limits)
    cold_run = ["docker", "run", *FLAGS, known["python"], "-I", "-S", "-c", "0"]
    async with started(_docker(known, limits)) as docker:
        await asyncio.sleep(3)
        idle = _container_mib()
        await _run_ms(docker, job)
        warm, cold = await _by_turns(
            runs, 1.0, lambda: _run_ms(docker, job), lambda: asyncio.to_thread(_child_ms, cold_run)
        )
    return {
        "docker_warm_p50": _p(warm, 10),
        "docker_warm_p95": _p(warm, 19),
        "docker_cold_p50": _p(cold, 10),
        "docker_idle": idle,
    }


def _docker(known: dict[str, str], limits: Limits) -> Backend:
    backend = make_backend("docker", Sandboxes(docker=DockerSandboxes(warm=3)), (), print)
    backend.declare([(known["python"], limits)])  # type: ignore[attr-defined]  # this backend is a Docker
    return backend


def _container_mib() -> float:
    """What one more idle container takes: the private memory of its processes and its shim, MiB, the mean over all."""
    total, shims = 0, 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            ours = b"runner.py" in command or b"containerd-shim" in command
            rollup = (path / "smaps_rollup").read_text() if ours else ""
        except OSError:
            continue
        shims += b"containerd-shim" in command
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    return total / 1024 / max(shims, 1)


async def deadlines(runs: int = 10) -> Report:
    """Milliseconds by which a job outlives its wall limit of 300 ms: one that loops, one whose tool call is stuck."""

    async def stuck(_name: str, _args: bytes) -> bytes:
        await asyncio.sleep(3600)
        return b"null"

    async def over(backend: Backend, job: Job) -> float:
        start = time.perf_counter()
        done = await backend.run(job, stuck)
        if done.status != "timeout":
            raise RuntimeError(f"the run ended as {done}")
        return (time.perf_counter() - start - job.limits.wall) * 1000

    async with started(WasmPython(workers=1, spares=2)) as python:
        loop, call = Job("while True: pass", limits=OVER), Job("call('stuck')", tools=frozenset({"stuck"}), limits=OVER)
        looping, blocked = await _by_turns(runs, 0.6, lambda: over(python, loop), lambda: over(python, call))
    return {"overshoot_loop": max(looping), "overshoot_blocked": max(blocked)}


async def scaling(seconds: float = 4.0) -> Report:
    """Runs per second of a small computation, with one worker process and with two."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    async with started(WasmPython(workers=1, spares=0)) as one, started(WasmPython(workers=2, spares=0)) as two:
        for _ in range(3):
            for workers, pool in ((1, one), (2, two)):
                rates[workers].append(await _rate(pool, seconds / 3))
    return {"workers_1_rate": max(rates[1]), "workers_2_rate": max(rates[2])}


async def _rate(backend: Backend, seconds: float) -> float:
    count, until = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal count
        while time.monotonic() < until:
            if (await backend.run(replace(SPIN, limits=Limits(wall=30)))).status != "ok":
                raise RuntimeError("a run failed")
            count += 1

    await asyncio.gather(*(client() for _ in range(4)))
    return count / seconds


def parked() -> Report:
    """KiB that one more instance takes while it waits, measured in a process like a worker."""
    said = subprocess.run([sys.executable, "-m", "bench.parked"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {"parked_kib": float(json.loads(said.stdout)["kib"])}


def measure() -> Report:
    """Every figure; those of containers are left out where none can be had, with a line that says so."""
    found = asyncio.run(fresh_vms()) | asyncio.run(deadlines()) | asyncio.run(scaling()) | parked()
    try:
        found |= asyncio.run(containers())
    except SandboxUnavailable as error:
        print(f"no figures of containers: {error}")
    return found


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
