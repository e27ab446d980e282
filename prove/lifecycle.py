"""`python -m prove.lifecycle [CALLS]`: what is left when calls, hang-ups, crashes and a killed gateway are over.

A real gateway with sandboxes of every kind there is here. Counts the containers, processes, sockets and folders that
were not there before; exit 1 when there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gateway.backends import images
from gateway.settings import Sandboxes
from sandboxes.docker import ENGINE, default_root
from sandboxes.engine import Engine, EngineDown
from sandboxes.keeper import OWNER
from tests.served import Served, Wire, ready, start

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: prove.lifecycle
rules:
- {id: all, effect: permit, match: {tools: [run_python, run_javascript, run_shell], agents: [dev]}}
"""
CALLS = {
    "run_python": [{"code": "print(1)"}, {"code": "1/0"}, {"code": "x = []\nwhile True: x.append('a' * 9999)"}],
    "run_javascript": [{"code": "console.log(1)"}, {"code": "throw 1"}],
    "run_shell": [{"script": "echo 1"}, {"script": "exit 3"}, {"script": "kill -9 $$"}],
}
LOOPS = {
    "run_python": {"code": "while True: pass"},
    "run_javascript": {"code": "for (;;) {}"},
    "run_shell": {"script": "sleep 60"},
}
# Of a mix, one container for so many calls; it takes some hundred times as long to make as a VM.
SHELL_SHARE = 0.05
# Seconds within which what a dead gateway left must be gone: two sightings of the reaper, and some.
PATIENCE = 30.0


def left() -> Counter[str]:
    """Processes of ours, containers of ours, sockets and folders of sandboxes that exist now."""
    found: Counter[str] = Counter()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            # A zombie has no command line; a container's own processes end with it.
            found["processes"] += b"sandboxes." in command or b"toolgate\0serve" in command
    root = Path(default_root())
    found["folders"] = sum(1 for path in root.rglob("*") if path.is_dir()) if root.is_dir() else 0
    found["sockets"] = sum(1 for path in root.rglob("*") if path.is_socket()) if root.is_dir() else 0
    found["temporary"] = len(list(Path(tempfile.gettempdir()).glob("toolgate*")))
    with contextlib.suppress(EngineDown):
        found["containers"] = len(Engine(ENGINE).labelled(OWNER))
    return found


async def calls(gateway: Served, tools: list[str], count: int) -> Counter[str]:
    """A mix of calls that end in every way, eight at a time; statuses by name."""
    seen: Counter[str] = Counter()
    chance = random.Random(1)

    async def client(number: int) -> None:
        wire = await Wire.to(gateway)
        for _ in range(number):
            tool = "run_shell" if "run_shell" in tools and chance.random() < SHELL_SHARE else chance.choice(tools[:2])
            _, said = await wire.call(tool, chance.choice(CALLS[tool]))
            seen[said.get("status") if isinstance(said.get("status"), str) else said["code"]] += 1

    await asyncio.gather(*(client(count // 8) for _ in range(8)))
    return seen


async def hang_ups(gateway: Served, tools: list[str], count: int) -> None:
    """Callers that go away while their code runs."""
    for number in range(count):
        wire = await Wire.to(gateway)
        tool = tools[number % len(tools)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wire.call(tool, LOOPS[tool]), 0.3)
        wire.close()


def crashes(gateway: Served, count: int) -> None:
    """Workers that are killed while they run."""
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")
    for _ in range(count):
        for pid in map(int, children.read_text().split()):
            with contextlib.suppress(OSError):
                if b"sandboxes.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)


async def life(home: Path, flags: list[str], tools: list[str], count: int, *, killed: bool) -> Counter[str]:
    """One gateway's life: calls, hang-ups, crashes, then SIGTERM or SIGKILL in the middle of work."""
    process = start(home, *flags, env={"TOOLGATE_SANDBOXES__DOCKER__SOCKET": ENGINE})
    gateway = ready(process, home)
    seen = await calls(gateway, tools, count)
    await hang_ups(gateway, tools, 12)
    await asyncio.to_thread(crashes, gateway, 3)
    seen += await calls(gateway, tools, 40)
    wires = [await Wire.to(gateway) for _ in tools]
    running = [asyncio.create_task(wire.call(tool, LOOPS[tool])) for wire, tool in zip(wires, tools, strict=True)]
    await asyncio.sleep(1)
    process.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
    await asyncio.gather(*running, return_exceptions=True)
    await asyncio.to_thread(process.wait, 60)
    return seen


def gone(before: Counter[str]) -> tuple[Counter[str], float]:
    """What is there and was not before, and how long it took until nothing was (seconds)."""
    started = time.monotonic()
    while True:
        more = left() - before
        spent = time.monotonic() - started
        if not more or spent > PATIENCE:
            return more, spent
        time.sleep(0.2)


def main(count: int) -> int:
    """Both ways to end; exit 1 when something stays."""
    tools = ["run_python", "run_javascript"]
    if "shell" in images(Sandboxes().guests.expanduser()):
        tools.append("run_shell")
    before, bad = left(), 0
    with tempfile.TemporaryDirectory(prefix="prove") as folder:
        policies = Path(folder, "policies")
        policies.mkdir()
        (policies / "all.yaml").write_text(POLICY)
        for killed in (False, True):
            flags = ["--policies", str(policies)]
            seen = asyncio.run(life(Path(folder, "home"), flags, tools, count, killed=killed))
            more, spent = gone(before)
            bad += sum(more.values())
            how = "SIGKILL" if killed else "SIGTERM"
            print(f"{count} calls, 12 hang-ups, 3 rounds of crashes, {how}: {dict(seen)}")
            print(f"left after {spent:.1f} s: {dict(more) or 'nothing'}\n", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
