"""`python -m prove.hostile_suite [BACKEND …]`: hostile code in every sandbox there is here, and what came of it.

Exit 1 when one probe escaped or was held weakly. Real sandboxes, real traps; nothing is assumed to hold.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from prove.backends import opened, registered
from prove.probes import LIMITS, Probe, Told, judge, read
from prove.traps import Traps, laid
from sandboxes.model import Backend, CallRefused, Job, SandboxUnavailable
from sandboxes.modules import ModuleRefused

LANGUAGES = {"wasm-python": "python", "wasm-js": "javascript", "wasm": "wat", "docker": "python"}


async def answer(name: str, args: bytes) -> bytes:
    """The tools a probe may call: `echo` answers, `sleep` does not."""
    if name == "sleep":
        await asyncio.sleep(3600)
    if name != "echo":
        raise CallRefused("no such tool")
    return b"null"


async def play(backend: Backend, probe: Probe, job: Job, traps: Traps) -> Told:
    """One probe in a sandbox of its own."""
    started = time.monotonic()
    exit = await backend.run(job, answer)
    return judge(probe, exit, time.monotonic() - started, traps.touched(exit))


async def suite(backend: Backend, language: str, base: Job, traps: Traps) -> list[Told]:
    """Every probe of a language over one backend, one after the other."""
    args = json.dumps({**traps.args, "secret": "a secret is not told"}).encode()
    told = []
    for probe in read(language):
        job = replace(base, input=args, limits=LIMITS, tools=probe.tools, now=1.8e9)
        try:
            job = replace(job, module=registered(probe.code)) if language == "wat" else replace(job, program=probe.code)
            result = await play(backend, probe, job, traps)
        except ModuleRefused as refused:
            result = Told(probe, "CONTAINED", f"not registered: {str(refused)[:60]}")
        told.append(result)
        print(f"{result.verdict:<9} {backend.name:<12} {probe.area:<10} {probe.name:<36} {result.why}", flush=True)
    return told


async def main(names: list[str]) -> int:
    """Runs the suite over the named backends; all by default."""
    bad = 0
    with tempfile.TemporaryDirectory(prefix="tg") as folder, laid(Path(folder)) as traps:
        for name in names or list(LANGUAGES):
            async with AsyncExitStack() as stack:
                try:
                    backend, base = await opened(name, stack)
                except SandboxUnavailable as error:
                    print(f"{name} cannot be had here: {error}")
                    bad += 1
                    continue
                told = await suite(backend, LANGUAGES[name], base, traps)
            counts = Counter(result.verdict for result in told)
            bad += counts["WEAK"] + counts["ESCAPED"]
            print(
                f"{name}: {len(told)} probes, {counts['CONTAINED']} contained, {counts['WEAK']} weak, "
                f"{counts['ESCAPED']} escaped\n",
                flush=True,
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
