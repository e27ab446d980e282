"""A fresh Python VM per run, through a worker, against the start of a bare `python3`: side by side, in one process.

Prints p50 and p95 in milliseconds and the ratio of the medians. Measures only; never judges.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

from sandboxes.model import Job
from sandboxes.pool import WasmPython

PROGRAM = "print(6 * 7)"
# The interpreter itself, since a `python3` on the path may be a script in front of it and flatter us.
BARE = [os.path.realpath(sys.executable), "-I", "-S", "-c", "0"]
PAUSE = 0.004


async def _sandboxed_ms(pool: WasmPython) -> float:
    start = time.perf_counter()
    done = await pool.run(Job(PROGRAM))
    spent = (time.perf_counter() - start) * 1000
    if done.status != "ok" or done.stdout != "42\n":
        raise RuntimeError(f"the run ended as {done}")
    return spent


def _bare_ms() -> float:
    start = time.perf_counter()
    subprocess.run(BARE, check=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


async def _measure(runs: int) -> dict[str, float]:
    pool = WasmPython(workers=1, spares=0)
    await pool.start()
    try:
        for _ in range(20):
            await _sandboxed_ms(pool)
        fresh, bare = [], []
        for _ in range(runs):
            await asyncio.sleep(PAUSE)
            fresh.append(await _sandboxed_ms(pool))
            await asyncio.sleep(PAUSE)
            bare.append(_bare_ms())
    finally:
        await pool.close()
    low, high = statistics.quantiles(fresh, n=20), statistics.quantiles(bare, n=20)
    return {
        "runs": runs,
        "wasm_python_p50_ms": round(low[9], 3),
        "wasm_python_p95_ms": round(low[18], 3),
        "bare_python_p50_ms": round(high[9], 3),
        "bare_python_p95_ms": round(high[18], 3),
        "ratio_p50": round(low[9] / high[9], 3),
    }


def measure(runs: int = 300) -> dict[str, float]:
    """Figures of `runs` alternating pairs (at least 2). `ratio_p50`, sandboxed over bare: goal 0.15, required 0.45."""
    return asyncio.run(_measure(runs))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 300), indent=2) + "\n")
