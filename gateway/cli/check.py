"""`toolgate check` and `schema`: files, judged before they are served. Nothing is dialled."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser
from collections.abc import Sequence

from gateway.backends import offers
from gateway.cli.common import Arguments, Verbs, say, settings_of
from gateway.cli.judged import as_json, counted, failed_lines, run_all
from gateway.folders import read
from gateway.loading import SCHEMAS, Loaded, load_folders
from gateway.policy.cases import cases_of
from gateway.settings import Settings
from gateway.specs.yaml import SpecError, SpecErrors


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
    judged = asyncio.run(run_all(loaded, [*cases_of(loaded.bundle), *loaded.cases], settings))
    findings = [str(finding) for finding in [*loaded.findings, *_beside(loaded, settings)]]
    lines = findings + failed_lines(judged, loaded.bundle)
    tools, digest = len(loaded.catalogue.all()), loaded.bundle.digest
    ok = not lines
    lines.append(
        f"{'ok' if ok else 'not ok'}: {counted(tools, 'tool')}, {counted(len(judged), 'case')}, bundle {digest}"
    )
    cases = as_json(judged, loaded.bundle)
    say(arguments, {"ok": ok, "findings": findings, "cases": cases, "bundle": digest}, "\n".join(lines))
    return 0 if ok else 1


def _beside(loaded: Loaded, settings: Settings) -> Sequence[SpecError]:
    """What is to be said of the candidate, where the settings name one; its own tests are among it."""
    if settings.candidate is None:
        return ()
    try:
        return loaded.proven(read(settings.candidate, only_yaml=True)).findings
    except SpecErrors as error:
        return error.findings


def run_schema(arguments: Arguments) -> int:
    """Prints the JSON Schema of a kind of file."""
    print(json.dumps(SCHEMAS[arguments.kind](), indent=2))
    return 0
