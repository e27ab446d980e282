"""`toolgate simulate`: what would have come of the calls on record under other policies. Nothing executes."""

from __future__ import annotations

import argparse
import sys
import time
from argparse import ArgumentParser

from gateway.audit.text import printable
from gateway.backends import offers
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.reading import on_record
from gateway.loading import load_folders
from gateway.simulate.report import CLASSES
from gateway.simulate.run import Unverified, simulate
from gateway.specs.yaml import SpecErrors
from gateway.units import BadUnit, seconds


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("simulate", parents=[common], help="decide the calls on record again under other policies")
    verb.add_argument("--policies", required=True, metavar="DIR", help="folder of the policies to try")
    verb.add_argument("--specs", metavar="DIR", help="folder of tool specs")
    verb.add_argument("--since", type=_span, default=_span("7d"), help="how far back, like 24h or 30d (default 7d)")
    verb.add_argument(
        "--fail-on",
        type=_classes,
        default=(),
        metavar="CLASSES",
        help=f"exit 1 when a call is of one of these, with commas: {', '.join(CLASSES)}",
    )
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints the differences. Exit 1 when one is of a class that was asked for, 2 when there is nothing to go by."""
    home = home_of(arguments).path
    settings = settings_of(arguments, specs=arguments.specs, policies=arguments.policies)
    try:
        loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
        since = time.time() - arguments.since
        report = simulate(home, loaded.bundle, loaded.catalogue.all(), since)
    except (SpecErrors, Unverified, OSError) as error:
        print("\n".join(map(printable, f"toolgate: {error}".split("\n"))), file=sys.stderr)
        return 2
    on_record(home, "simulate", {"since": since}, report.calls)
    say(arguments, report.as_json() if arguments.json else None, "\n".join(report.lines()))
    return 1 if any(report.found[name] for name in arguments.fail_on) else 0


def _span(text: str) -> float:
    try:
        return seconds(text)
    except BadUnit as bad:
        raise argparse.ArgumentTypeError(str(bad)) from None


def _classes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no class {unknown[0]!r}: take some of {', '.join(CLASSES)}")
    return names
