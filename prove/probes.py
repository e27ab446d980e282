"""What a probe is, how a file of them is read, and how a run of one is judged. It runs nothing.

A file holds sections that begin with a line `=== AREA: NAME`, and after it, separated by `; `: `ends STATUS …` (those
that show the probe was held; ok and error when left out), `limit NAME` (which one must be named when it ends by a
limit), `tools NAME …` (what it may call). The section `=== prelude` is put before each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandboxes.model import MIB, Exit, Limits

# A probe prints this, and what it got, when it got something it must not have.
REACHED = "REACHED"
LIMITS = Limits(wall=2.0, memory=96 * MIB, output=64 * 1024, host_calls=16, pids=16, disk=8 * MIB, files_out=256 * 1024)
# Seconds after its wall limit within which a job must have ended.
PATIENCE = 2.0
HOSTILE = Path(__file__).parent / "hostile"


@dataclass(frozen=True, slots=True)
class Probe:
    """One hostile behaviour. `ends` are the statuses that show it was held; any other is weak."""

    area: str
    name: str
    code: str
    ends: frozenset[str] = frozenset({"ok", "error"})
    limit: str | None = None
    tools: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a probe: CONTAINED, WEAK (held, but not as it should be) or ESCAPED, and why."""

    probe: Probe
    verdict: str
    why: str


def read(language: str) -> list[Probe]:
    """The probes of `hostile/LANGUAGE.txt`, in order."""
    _, *sections = (HOSTILE / f"{language}.txt").read_text().split("\n=== ")
    prelude = ""
    probes = []
    for section in sections:
        title, _, code = section.partition("\n")
        if title == "prelude":
            prelude = code
            continue
        name, *marks = title.split("; ")
        area, _, name = name.partition(": ")
        said = {mark.partition(" ")[0]: mark.split(" ")[1:] for mark in marks}
        ends = frozenset(said.get("ends", ["ok", "error"]))
        limit = said.get("limit", [None])[0]
        probes.append(Probe(area, name, prelude + code, ends, limit, frozenset(said.get("tools", []))))
    return probes


def judge(probe: Probe, exit: Exit, seconds: float, touched: str | None) -> Told:
    """The verdict. `seconds` is how long the caller waited; `touched` names a trap of the host that was sprung."""
    said = exit.stdout + exit.stderr + repr(exit.value) + repr(dict(exit.files))
    shown = "\n".join(line for line in said.splitlines() if "print(" not in line and "console." not in line)
    if touched is not None:
        return Told(probe, "ESCAPED", f"{touched} was reached")
    if REACHED in shown:
        return Told(probe, "ESCAPED", shown[shown.index(REACHED) :].splitlines()[0][:100])
    if seconds > LIMITS.wall + PATIENCE:
        return Told(probe, "WEAK", f"ended after {seconds:.1f} s, limit {LIMITS.wall:g} s")
    if exit.status not in probe.ends:
        last = exit.stderr.strip().splitlines()[-1:] or [""]
        return Told(probe, "WEAK", f"ended as {exit.status} {exit.limit or ''}: {last[0][:80]}")
    if exit.status == "limit" and probe.limit not in (None, exit.limit):
        return Told(probe, "WEAK", f"named the limit {exit.limit}, not {probe.limit}")
    return Told(probe, "CONTAINED", exit.status if exit.limit is None else f"limit {exit.limit}")
