"""A used VM's memory is restored before its slot serves again: what one run wrote, no later run can find."""

import hashlib
import os
import struct
from pathlib import Path

import pytest

from sandboxes.model import MIB, Job, Limits
from sandboxes.pool import WasmPython

PAGE = 4096
PRESENT = 1 << 63
LATER_RUNS = 1000

# The marker is computed inside, so that it stands in the guest's memory only and in no program, frame or answer.
PLANT = """
import builtins, gc, hashlib, json, math, random, sys, wit_world
marker = hashlib.sha256(b"planted").digest()
keep = [marker * 100, bytearray(marker * 1_000_000), memoryview(marker + b"x"), {marker: [marker * 3]}]
builtins.leak = math.leak = json.leak = sys.leak = wit_world.leak = marker * 7
sys.modules["leak"] = type(sys)("leak"); sys.modules["leak"].marker = marker * 5
random.seed(marker)
class Leak:
    text = marker.hex()
    def __del__(self): pass
circle = [marker + b"c"]; circle.append(circle)
gone = [bytes(marker * n) for n in range(1, 3000)]
del gone
gc.freeze()
def deep(n):
    local = marker + bytes([n])
    return deep(n - 1) if n else call("look")
deep(200)
"""
LOOK = """
import builtins, json, math, random, sys, wit_world
print([hasattr(m, "leak") for m in (builtins, math, json, sys, wit_world)], "leak" in sys.modules, random.random())
"""
MARKER = hashlib.sha256(b"planted").digest()


READABLE = pytest.mark.skipif(os.getuid() != 0, reason="a worker's memory can be read by root only")


def holds_marker(pid: int) -> bool:
    """Whether the marker stands in any resident page of the process, wherever it is mapped."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if not rights.startswith("rw"):
                continue
            pagemap.seek(start // PAGE * 8)
            entries = pagemap.read((end - start) // PAGE * 8)
            resident = [
                start + n * PAGE for n, (entry,) in enumerate(struct.iter_unpack("Q", entries)) if entry & PRESENT
            ]
            if any(MARKER in run for run in _runs(memory, resident)):
                return True
    return False


def _runs(memory, pages):
    """The contents of neighbouring pages, joined so that no marker is cut by a page's end."""
    joined = b""
    last = None
    for page in pages:
        if last is not None and page != last + PAGE:
            yield joined
            joined = b""
        memory.seek(page)
        joined += memory.read(PAGE)
        last = page
        if len(joined) >= MIB:
            yield joined
            joined = joined[-len(MARKER) :]
    yield joined


@READABLE
def test_no_later_run_finds_what_an_earlier_one_wrote(play):
    """A marker planted all over a guest is in the worker's memory while it runs and in none of it later."""
    seen: list[bool] = []

    async def scenario(pool: WasmPython) -> None:
        (pid,) = pool.pids

        async def look(_name: str, _args: bytes) -> bytes:
            seen.append(holds_marker(pid))
            return b"1"

        clean = (await pool.run(Job(LOOK))).stdout
        for _ in range(3):
            planted = await pool.run(Job(PLANT, tools=frozenset({"look"}), limits=Limits(memory=256 * MIB)), look)
            assert planted.status == "ok", planted.stderr
        assert seen == [True, True, True]
        for _ in range(LATER_RUNS):
            assert (await pool.run(Job(LOOK))).stdout == clean
        assert pool.pids == {pid}
        assert not holds_marker(pid)

    play(scenario, spares=0, runs_per_worker=2 * LATER_RUNS)


@READABLE
def test_a_guest_stopped_by_force_is_reset_too(play):
    """The memory of a guest that was interrupted or overflowed its stack is restored like any other's."""

    async def stopped(pool: WasmPython, program: str) -> int:
        """The pid of a worker that lived through it: on a busy machine it may be late, and is then killed."""
        while True:
            await pool.run(Job(LOOK))
            (pid,) = pool.pids
            done = await pool.run(Job(program, limits=Limits(wall=1.0, memory=256 * MIB)))
            assert done.status in ("timeout", "limit")
            if pool.pids == {pid}:
                return pid

    async def scenario(pool: WasmPython) -> None:
        plant = PLANT.replace('call("look")', "0")
        for ending in ("while True: pass", "x = []\nfor _ in range(100_000): x = [x]\nrepr(x)"):
            pid = await stopped(pool, plant + ending)
            for _ in range(20):
                await pool.run(Job(LOOK))
            assert pool.pids == {pid}
            assert not holds_marker(pid)

    play(scenario, spares=0)
