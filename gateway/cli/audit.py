"""`toolgate audit`: reads and verifies the ledger of a home folder. It takes no lock of a writer; what is read in the
clear is on record, and nothing else is written."""

from __future__ import annotations

import itertools
import json
from argparse import ArgumentParser
from pathlib import Path

import gateway.audit.verify as checker
from gateway.audit import query
from gateway.audit.archive import not_found
from gateway.audit.search import show
from gateway.audit.text import printable, render
from gateway.cli import keeping, proofs, records, rerun, upkeep, verifier
from gateway.cli import query as querying
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.reading import on_record

_NO_DOUBT = "no call is in doubt (what a crash cut short is found at the next start)"


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb and what it can do."""
    verb = verbs.add_parser(
        "audit",
        help="the ledger: tail, query, show, verify, prove, diff, in-doubt, resolve, erase, archive, retain, "
        "rotate-key, rerun, export",
    )
    what = verb.add_subparsers(dest="what", required=True)
    tail = what.add_parser("tail", parents=[common], help="the newest records, one line each")
    tail.add_argument("-n", "--count", type=int, default=20, help="how many (default 20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with new ones as they come")
    tail.add_argument("--calls", action="store_true", help="only records of calls")
    tail.set_defaults(run=run_tail)
    show = what.add_parser("show", parents=[common], help="every record of a call, with its content")
    show.add_argument("call_id")
    show.set_defaults(run=run_show)
    verify = what.add_parser("verify", parents=[common], help="check chain, tree and signatures")
    verify.add_argument("dir", nargs="?", type=Path, help="audit folder (default: the one of the home folder)")
    verify.add_argument("--key", type=Path, help="public key kept elsewhere")
    verify.add_argument("--head", type=Path, action="append", default=[], help="checkpoint kept elsewhere")
    verify.add_argument("--archive", type=Path, help="folder of archived segments, whose lines are checked too")
    verify.set_defaults(run=run_verify)
    doubt = what.add_parser("in-doubt", parents=[common], help="calls that began and whose end nobody knows")
    doubt.set_defaults(run=run_in_doubt)
    upkeep.add(what, common)
    keeping.add(what, common)
    verifier.add(what, common)
    records.add(what, common)
    rerun.add(what, common)
    proofs.add(what, common)
    querying.add(what, common)


def run_tail(arguments: Arguments) -> int:
    """Prints the newest records, oldest first."""
    home = home_of(arguments)
    newest = query.tail(home.path, arguments.count)
    more = query.follow(home.path, newest) if arguments.follow else ()
    for record in itertools.chain(newest, more):
        if not arguments.calls or str(record["type"]).startswith("call."):
            print(json.dumps(record) if arguments.json else render(record), flush=True)
    return 0


def run_show(arguments: Arguments) -> int:
    """Prints the records of one call with arguments and results in the clear."""
    home = home_of(arguments).path
    shown = show(home, arguments.call_id)
    if not shown:
        say(arguments, [], not_found(home_of(arguments).path, arguments.call_id))
        return 1
    on_record(home, "audit show", {"call": arguments.call_id}, len(shown))
    whole = [{"record": each.record, "content": each.content, "unreadable": each.unreadable} for each in shown]
    parts = [f"{render(each.record)}\n{_indented(each.unreadable or each.content)}" for each in shown]
    say(arguments, whole, "\n".join(parts))
    return 0


def _indented(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=True)
    return "\n".join(f"    {printable(line)}" for line in text.splitlines())


def run_verify(arguments: Arguments) -> int:
    """Checks a ledger, with `audit/verify.py`, which also runs by itself."""
    folder = arguments.dir or settings_of(arguments).home / "audit"
    given = [str(folder), *(["--key", str(arguments.key)] if arguments.key else [])]
    given += ["--archive", str(arguments.archive)] if arguments.archive else []
    for head in arguments.head:
        given += ["--head", str(head)]
    return checker.main([*given, "--json"] if arguments.json else given)


def run_in_doubt(arguments: Arguments) -> int:
    """Lists calls that may have run and whose outcome nobody knows. Exit 1 when there is one."""
    found = query.in_doubt(home_of(arguments).path)
    say(arguments, found, "\n".join(render(record) for record in found) or _NO_DOUBT)
    return 1 if found else 0
