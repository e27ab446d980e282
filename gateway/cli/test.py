"""`toolgate test`: policy cases, run and explained. Nothing is dialled, and nothing is served or recorded."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from gateway.backends import offers
from gateway.case_files import open_cases
from gateway.cli.common import Arguments, Verbs, say, settings_of
from gateway.cli.judged import Judged, as_json, counted, failed_lines, run_file
from gateway.folders import read
from gateway.loading import Loaded, load_files
from gateway.policy.cases import cases_of, run_cases
from gateway.settings import Settings
from gateway.specs import yaml
from gateway.specs.yaml import SpecErrors


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("test", parents=[common], help="policy cases: which fail, and why")
    verb.add_argument(
        "path", nargs="?", type=Path, help="policy file, folder, or file of cases (default: the settings')"
    )
    verb.add_argument("--specs", help="folder of tool specs")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints each failed case and why it came out so. Exit 1 when one failed, 2 when there is nothing to run."""
    settings = settings_of(arguments, specs=arguments.specs)
    try:
        loaded, judged = _judged(arguments.path, settings)
    except SpecErrors as error:
        findings = [str(finding) for finding in error.findings]
        say(arguments, {"ok": False, "findings": findings, "cases": []}, "\n".join(findings))
        return 2
    failed = [result for _, result in judged if not result.ok]
    lines = failed_lines(judged, loaded.bundle)
    lines.append(f"{counted(len(judged), 'case')}: {len(judged) - len(failed)} passed, {len(failed)} failed")
    say(arguments, {"ok": not failed, "findings": [], "cases": as_json(judged, loaded.bundle)}, "\n".join(lines))
    return 1 if failed else 0


def _judged(path: Path | None, settings: Settings) -> tuple[Loaded, list[Judged]]:
    """Raises `SpecErrors` for files that cannot be read, or are wrong."""
    given, specs = offers(settings.sandboxes), settings.folder("tool_specs")
    if path is not None and path.is_file() and _is_cases(path):
        file, loaded = open_cases(path, given)
        return loaded, asyncio.run(run_file(file, loaded, settings))
    policies = path or settings.folder("policies")
    if (policies / "tool_specs").is_dir() and (policies / "policies").is_dir():
        specs, policies = policies / "tool_specs", policies / "policies"
    loaded = load_files(read(specs), _policies(policies), given)
    cases = cases_of(loaded.bundle)
    return loaded, list(zip(cases, run_cases(loaded.bundle, cases), strict=True))


def _policies(path: Path) -> Mapping[str, bytes]:
    return {str(path): path.read_bytes()} if path.is_file() else read(path)


def _is_cases(path: Path) -> bool:
    try:
        value = yaml.load(path.read_bytes(), str(path)).value
    except yaml.SpecError as error:
        raise SpecErrors([error]) from None
    return isinstance(value, dict) and value.get("kind") == "Cases"
