"""Cases as commands show them: run, and for each that failed where it stands, what it wanted, what came, and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from gateway.audit.text import printable
from gateway.backends import open_backends
from gateway.cases import fresh_trial, run_case, run_cases, sandboxed
from gateway.explaining import explain_case
from gateway.loading import Loaded
from gateway.policy.bundle import PolicyBundle
from gateway.policy.cases import Case, CaseFile, CaseResult
from gateway.policy.past import Misfit
from gateway.runners.canned import Upstream
from gateway.settings import Sandboxes, Settings
from gateway.tool import Json, SandboxBackend, Tool

Judged = tuple[Case, CaseResult]


async def run_all(loaded: Loaded, cases: Sequence[Case], settings: Settings) -> list[Judged]:
    """The cases of policies and specs (`cases`, in their order); a sandbox is started only when one runs code in it."""
    async with AsyncExitStack() as stack:
        sandboxes = await open_backends(_small(settings), sandboxed(loaded), stack, _to_stderr)
        return list(zip(cases, await run_cases(loaded, sandboxes), strict=True))


async def run_file(file: CaseFile, loaded: Loaded, settings: Settings) -> list[Judged]:
    """The cases of one file, each through a gateway of its own with the file's upstream."""
    upstream = Upstream(*file.upstream) if file.upstream else None
    async with AsyncExitStack() as stack:
        sandboxes = await open_backends(_small(settings), _running(file, loaded), stack, _to_stderr)
        return [(case, await run_case(fresh_trial(loaded, sandboxes, upstream), case)) for case in file.cases]


def _running(file: CaseFile, loaded: Loaded) -> list[Tool]:
    """The sandboxed tools, those that they call among them, when some case expects that something ran."""
    wanted = any(case.expect.kind == "done" for case in file.cases)
    return [tool for tool in loaded.catalogue.all() if wanted and isinstance(tool.backend, SandboxBackend)]


def failed_lines(judged: Sequence[Judged], bundle: PolicyBundle) -> list[str]:
    """For each failed case two lines: what was wanted and what came, and in one sentence why."""
    lines = []
    for case, result in judged:
        if not result.ok:
            lines.append(f"{result.source}: case {result.name!r}: wanted {result.wanted}, got {result.got}")
            lines += [f"  {why}" for why in _why(case, bundle)]
    return [printable(line) for line in lines]


def as_json(judged: Sequence[Judged], bundle: PolicyBundle) -> list[Json]:
    """All cases for machines; a failed one has `why`."""
    return [
        {"name": r.name, "source": r.source, "ok": r.ok, "wanted": r.wanted, "got": r.got}
        | ({} if r.ok else {"why": next(iter(_why(case, bundle)), None)})
        for case, r in judged
    ]


def counted(number: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _why(case: Case, bundle: PolicyBundle) -> list[str]:
    """What policy says of the case's call, and requires where the case wants that; nothing of a bad history."""
    try:
        first, *details = map(str, explain_case(case, bundle)["lines"])
    except Misfit:
        return []
    wants = case.expect.obligations is not None
    return [first, *(line for line in details if wants and line.startswith("obligation "))]


def _small(settings: Settings) -> Sandboxes:
    return settings.sandboxes.model_copy(update={"workers": 1})


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
