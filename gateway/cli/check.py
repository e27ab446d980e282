"""`toolgate check` and `schema`: files, judged before they are served. Nothing is dialled."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser
from contextlib import AsyncExitStack

from gateway.backends import offers, open_backends
from gateway.cases import run_cases, sandboxed
from gateway.cli.common import Arguments, Verbs, say, settings_of
from gateway.loading import SCHEMAS, Loaded, load_folders
from gateway.policy.cases import CaseResult
from gateway.settings import Settings
from gateway.specs.yaml import SpecErrors


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verbs."""
    check = verbs.add_parser(
        "check", parents=[common], help="settings, specs and policies: every finding; runs the cases"
    )
    check.add_argument("--specs", help="folder of tool specs")
    check.add_argument("--policies", help="folder of policies")
    check.set_defaults(run=run_check)
    schema = verbs.add_parser("schema", parents=[common], help="JSON Schema of a kind of file, for editors")
    schema.add_argument("kind", choices=sorted(SCHEMAS))
    schema.set_defaults(run=run_schema)


def run_check(arguments: Arguments) -> int:
    """Prints every finding, then how the cases went. Exit 1 on any finding or failed case."""
    settings = settings_of(arguments, specs=arguments.specs, policies=arguments.policies)
    try:
        loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
    except SpecErrors as error:
        findings = [str(finding) for finding in error.findings]
        say(arguments, {"ok": False, "findings": findings, "cases": []}, "\n".join(findings))
        return 1
    results = asyncio.run(_cases(loaded, settings))
    findings = [str(finding) for finding in loaded.findings]
    failed = [result for result in results if not result.ok]
    lines = findings + [f"{r.source}: case {r.name!r}: wanted {r.wanted}, got {r.got}" for r in failed]
    tools, digest = len(loaded.catalogue.all()), loaded.bundle.digest
    ok = not lines
    lines.append(
        f"{'ok' if ok else 'not ok'}: {_count(tools, 'tool')}, {_count(len(results), 'case')}, bundle {digest}"
    )
    cases = [{"name": r.name, "source": r.source, "ok": r.ok, "wanted": r.wanted, "got": r.got} for r in results]
    say(arguments, {"ok": ok, "findings": findings, "cases": cases, "bundle": digest}, "\n".join(lines))
    return 0 if ok else 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


async def _cases(loaded: Loaded, settings: Settings) -> list[CaseResult]:
    """All cases; a sandbox is started only when one of them runs code in it."""
    small = settings.sandboxes.model_copy(update={"workers": 1})
    async with AsyncExitStack() as stack:
        return await run_cases(loaded, await open_backends(small, sandboxed(loaded), stack, _to_stderr))


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def run_schema(arguments: Arguments) -> int:
    """Prints the JSON Schema of a kind of file."""
    print(json.dumps(SCHEMAS[arguments.kind](), indent=2))
    return 0
