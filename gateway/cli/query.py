"""`toolgate audit query`: records by who, what and when, from the index. It takes no lock that a gateway knows."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from gateway.audit.search import page
from gateway.audit.text import printable, render
from gateway.cli.common import Arguments, Verbs, home_of, say
from gateway.cli.reading import on_record
from gateway.tool import Json
from gateway.units import BadUnit, moment
from gateway.wanted import BadCursor, Wanted

_FILTERS = {
    "call": ("ID", "records of one call"),
    "session": ("ID", "of a session"),
    "tenant": ("T", "of a tenant"),
    "agent": ("A", "of an agent"),
    "user": ("U", "of a person"),
    "tool": ("T", "about a tool"),
    "type": ("TYPE", "of a type, or of all that begin so: call.*"),
    "effect": ("EFFECT", "of calls so decided: permit, forbid"),
    "status": ("STATUS", "of calls that ended so: done, failed, refused"),
    "code": ("CODE", "of calls with this problem"),
    "rule": ("ID", "of calls that this rule decided"),
}


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds the sub-command."""
    verb = what.add_parser("query", parents=[common], help="records by who, what and when, oldest first")
    for name, (metavar, said) in _FILTERS.items():
        verb.add_argument(f"--{name}", metavar=metavar, help=said)
    verb.add_argument("--since", metavar="WHEN", help="not before: 7d ago, or a time like 2026-01-31T12:00:00Z")
    verb.add_argument("--until", metavar="WHEN", help="before")
    verb.add_argument("--limit", type=int, default=100, help="at most so many (default 100)")
    verb.add_argument("--after", metavar="CURSOR", help="go on where an earlier answer ended")
    verb.add_argument("--reverse", action="store_true", help="newest first")
    verb.add_argument("--content", action="store_true", help="with arguments and results in the clear")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints the records. Exit 1 when there is none, 2 for a filter that cannot be read."""
    home = home_of(arguments)
    try:
        wanted, limit = _wanted(arguments), arguments.limit
        if limit < 1:
            raise ValueError("--limit: at least 1")
        found = page(
            home.path, wanted, limit, arguments.after, newest_first=arguments.reverse, content=arguments.content
        )
    except BadCursor as bad:
        print(f"toolgate: --after: {bad}", file=sys.stderr)
        return 2
    except (BadUnit, ValueError) as bad:
        print(f"toolgate: {printable(str(bad))}", file=sys.stderr)
        return 2
    if arguments.content and found.records:
        on_record(home.path, "audit query", asdict(wanted), len(found.records))
    lines = [line for each in found.records for line in _lines(each)]
    whole = {"records": list(found.records), "next_cursor": found.next_cursor}
    say(arguments, whole, "\n".join(lines) or "no such record")
    if found.next_cursor and not arguments.json:
        print(f"there are more: --after {found.next_cursor}", file=sys.stderr)
    return 0 if found.records else 1


def _wanted(arguments: Arguments) -> Wanted:
    given: dict[str, Any] = {name: getattr(arguments, name) for name in _FILTERS}
    for name, value in given.items():
        if value is not None and not value.isprintable():
            raise ValueError(f"--{name}: not a name")
    now = time.time()
    for name in ("since", "until"):
        said = getattr(arguments, name)
        try:
            given[name] = None if said is None else moment(said, now)
        except BadUnit as bad:
            raise BadUnit(f"--{name}: {bad}") from None
    return Wanted(**given)


def _lines(found: Mapping[str, Json]) -> list[str]:
    """One line for the record; content, where it was asked for, indented under it."""
    lines = [render(cast(Mapping[str, Json], found["record"]))]
    content = found.get("unreadable") or found.get("content")
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        lines += [f"    {line}" for line in text.splitlines()]
    return lines
