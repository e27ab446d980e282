"""`toolgate suggest`: least-privilege permits from what was really called, as a policy file to review."""

from __future__ import annotations

import argparse
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from gateway.audit.text import printable
from gateway.backends import offers
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.judged import counted
from gateway.cli.reading import on_record
from gateway.folders import read
from gateway.specs.load import load_specs
from gateway.specs.yaml import SpecErrors
from gateway.suggest.run import NothingToGoBy, Suggestion, suggest
from gateway.suggest.written import noted
from gateway.units import BadUnit, seconds


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("suggest", parents=[common], help="a policy file to review, made of the calls on record")
    verb.add_argument("--since", type=_span, default=_span("7d"), help="how far back, like 24h or 30d (default 7d)")
    verb.add_argument("--agent", help="only of the calls of this agent")
    verb.add_argument("--specs", metavar="DIR", help="folder of tool specs")
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="a new file to write (default: stdout)")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints or writes the file, and on stderr what is not in it. Exit 2 when there is nothing to make a rule of."""
    home = home_of(arguments).path
    settings = settings_of(arguments, specs=arguments.specs)
    try:
        tools = load_specs(read(settings.folder("tool_specs")), sandboxes=offers(settings.sandboxes)).tools
        since = time.time() - arguments.since
        made = suggest(home, tools, since, arguments.agent)
        on_record(home, "suggest", {"since": since, "agent": arguments.agent}, made.calls)
        if arguments.output is not None:
            with arguments.output.open("x", encoding="ascii") as file:  # a file that somebody reviewed is never lost
                file.write(made.text)
    except (SpecErrors, NothingToGoBy, OSError) as error:
        _warn(f"{error}")
        return 2
    for line in noted(made.silent):
        _warn(f"not in it: {line}")
    _tell(arguments, made)
    return 0


def _tell(arguments: Arguments, made: Suggestion) -> None:
    counts = {"calls": made.calls, "rules": made.rules, "cases": made.cases, "silent": dict(made.silent)}
    if arguments.output is None:
        say(arguments, {**counts, "policy": made.text}, made.text.rstrip("\n"))
        return
    made_of = f"{counted(made.rules, 'rule')} and {counted(made.cases, 'test')}, of {counted(made.calls, 'call')}"
    text = f"{arguments.output}: {made_of}; nothing is in force"
    say(arguments, {**counts, "file": str(arguments.output)}, text)


def _warn(text: str) -> None:
    print("\n".join(map(printable, f"toolgate: {text}".split("\n"))), file=sys.stderr)


def _span(text: str) -> float:
    try:
        return seconds(text)
    except BadUnit as bad:
        raise argparse.ArgumentTypeError(str(bad)) from None
