"""`python -m prove.abuse`: sixteen jobs that abuse their sandboxes, and what a caller of another tool notices of them.

A real gateway. Prints the victim's waiting times without and with the abuse, and how the gateway's own memory grew;
exit 1 when it grew by more than 64 MiB. Times depend on the cores there are, so they are told and not judged.
`--no-shell` leaves the containers out.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.started import ROOT, asgi
from gateway.backends import images
from gateway.settings import Sandboxes
from sandboxes.docker import ENGINE
from tests.served import Served, Wire, served

ABUSERS, CALLS = 16, 400
MOST_GROWN = 64 << 20
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: prove.abuse
rules:
- {id: all, effect: permit, match: {tools: [echo, run_python, run_javascript, run_shell], agents: [dev]}}
"""
ABUSE = [
    ("run_python", {"code": "while True: pass"}),
    ("run_python", {"code": "x = []\nwhile True: x.append('a' * 99999)"}),
    ("run_python", {"code": "while True: print('x' * 1000)"}),
    ("run_python", {"code": "result = 'x' * 262000"}),
    ("run_javascript", {"code": "for (;;) {}"}),
    ("run_javascript", {"code": "const x = []; for (;;) x.push(new Array(1e5).fill(1))"}),
    ("run_shell", {"script": "f() { f | f & }; f"}),
    ("run_shell", {"script": "yes"}),
]


async def victim(gateway: Served, calls: int) -> list[float]:
    """Milliseconds of each of so many calls, one after the other."""
    wire = await Wire.to(gateway)
    took = []
    for number in range(calls):
        start = time.perf_counter()
        status, said = await wire.call("echo", {"text": f"hello {number}"})
        took.append((time.perf_counter() - start) * 1000)
        if (status, said.get("status")) != (200, "done"):
            raise RuntimeError(f"the victim was refused: {said}")
        await asyncio.sleep(0.01)
    wire.close()
    return took


async def abuser(gateway: Served, number: int, stop: asyncio.Event, seen: Counter[str], shell: bool) -> None:
    """Calls that abuse, one after the other, until told to stop."""
    menu = [each for each in ABUSE if shell or each[0] != "run_shell"]
    while not stop.is_set():
        wire = await Wire.to(gateway)
        tool, arguments = menu[number % len(menu)]
        _, said = await wire.call(tool, arguments)
        problem = said.get("problem") or said
        seen[f"{tool} {problem.get('code') or 'done'}"] += 1
        wire.close()


async def siege(gateway: Served, shell: bool) -> tuple[list[float], list[float], Counter[str], int]:
    """The victim's times without and with abuse, how the abusive calls ended, and the gateway's growth (bytes)."""
    await victim(gateway, 50)
    quiet = await victim(gateway, CALLS)
    before, stop, seen = gateway.rss(), asyncio.Event(), Counter[str]()
    abusers = [asyncio.create_task(abuser(gateway, number, stop, seen, shell)) for number in range(ABUSERS)]
    await asyncio.sleep(2)
    loud = await victim(gateway, CALLS)
    grown = gateway.rss() - before
    stop.set()
    await asyncio.gather(*abusers)
    return quiet, loud, seen, max(grown, gateway.rss() - before)


def main() -> int:
    """Runs it and prints what was seen."""
    shell = "shell" in images(Sandboxes().guests.expanduser()) and "--no-shell" not in sys.argv
    with tempfile.TemporaryDirectory(prefix="prove") as folder, asgi("bench.upstream:app") as upstream:
        specs, policies = Path(folder, "specs"), Path(folder, "policies")
        specs.mkdir()
        policies.mkdir()
        (policies / "all.yaml").write_text(POLICY)
        echo = (ROOT / "bench/specs/echo.yaml").read_text().replace("127.0.0.1:9700", f"127.0.0.1:{upstream.port}")
        (specs / "echo.yaml").write_text(echo)
        for name in ("run_python", "run_javascript", *(["run_shell"] if shell else [])):
            text = (ROOT / "tool_specs" / f"{name}.yaml").read_text().partition("cases:")[0]
            (specs / f"{name}.yaml").write_text(text.replace("concurrency: 4", "concurrency: 16"))
        env = {"TOOLGATE_SANDBOXES__DOCKER__SOCKET": ENGINE} if shell else {}
        with served(Path(folder, "home"), "--specs", str(specs), "--policies", str(policies), env=env) as gateway:
            quiet, loud, seen, grown = asyncio.run(siege(gateway, shell))
    for name, times in (("quiet", quiet), ("abused", loud)):
        parts = statistics.quantiles(times, n=100)
        print(f"victim {name:<7} p50 {parts[49]:7.2f} ms   p99 {parts[98]:7.2f} ms")
    ratio = statistics.quantiles(loud, n=100)[98] / statistics.quantiles(quiet, n=100)[98]
    print(f"victim's p99 abused / quiet: {ratio:.1f}, with {ABUSERS} abusers on {os.cpu_count()} cores")
    print(f"abusive calls: {dict(seen)}")
    print(f"gateway grew by {grown / 2**20:.1f} MiB (at most {MOST_GROWN / 2**20:.0f})")
    return 1 if grown > MOST_GROWN else 0


if __name__ == "__main__":
    sys.exit(main())
