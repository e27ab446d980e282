"""`toolgate audit export`: the ledger as a stream for other systems, or one call as a case.

It takes no lock that a gateway knows. What is given out in the clear is put on record before.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.audit import query
from gateway.audit.archive import not_found
from gateway.audit.export import exporter
from gateway.audit.retold import Untellable, retell
from gateway.audit.search import find_call
from gateway.audit.text import printable
from gateway.cli.common import Arguments, Verbs, home_of
from gateway.cli.reading import on_record
from gateway.units import BadUnit, seconds

_FORMATS = ("jsonl", "ocsf", "cloudevents")
_PLAIN = frozenset(map(chr, range(0x20, 0x7F))) - {'"', "\\"}


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds the verb below `audit`."""
    verb = what.add_parser("export", parents=[common], help="records for other systems, or a call as a case")
    verb.add_argument("--since", help="records of the last time only, for example 7d or 12h (default: all)")
    verb.add_argument("--format", choices=_FORMATS, default="jsonl", help="one JSON object a line (default jsonl)")
    verb.add_argument("--with-content", action="store_true", help="arguments and results too, decrypted")
    verb.add_argument("--as-case", metavar="CALL_ID", help="one call as a file of cases, for toolgate test")
    verb.set_defaults(run=run_export)


def run_export(arguments: Arguments) -> int:
    """Prints what was asked for. Exit 1 when there is no such call or no case can tell it, 2 for a wrong time."""
    try:
        begin = 0.0 if arguments.since is None else time.time() - seconds(arguments.since)
    except BadUnit as error:
        return _wrong(f"--since: {error}", 2)
    home = home_of(arguments).path
    if arguments.as_case is not None:
        return _as_case(home, arguments.as_case)
    found = query.since(home, begin)
    if arguments.with_content:
        on_record(home, "audit export", {"since": arguments.since and begin, "format": arguments.format})
    shown = query.reveal(home, found) if arguments.with_content else map(_sealed, found)
    forms = exporter(arguments.format, _gateway(home), __version__, content=arguments.with_content)
    for each in shown:
        for form in forms(each):
            print(json.dumps(form))
    return 0


def _sealed(record: query.Record) -> query.Shown:
    return query.Shown(record, None)


def _gateway(home: Path) -> str:
    """The gateway's name, which begins its public key (a C2SP verifier key)."""
    return (home / "audit" / "key.pub").read_text().partition("+")[0]


def _as_case(home: Path, call_id: str) -> int:
    asked = next(query.reveal(home, find_call(home, call_id)), None)
    if asked is None:
        return _wrong(not_found(home, call_id), 1)
    place = (asked.record["shard"], asked.record["seq"])
    before = takewhile(lambda record: (record["shard"], record["seq"]) != place, query.records(home))
    try:
        told = retell(asked, query.reveal(home, before))
    except Untellable as why:
        return _wrong(f"no case can tell {call_id}: {why}", 1)
    on_record(home, "audit export --as-case", {"call": call_id})
    for note in told.notes:
        print(f"# {note}")
    print("# specs and policies: files or folders, named from where this file stands")
    head = {"apiVersion": "toolgate/v1", "kind": "Cases", "specs": ["tool_specs"], "policies": ["policies"]}
    print("\n".join(_yaml({**head, "cases": [told.case]})))
    return 0


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """YAML in blocks, of JSON values; text in double quotes, with everything but plain ASCII escaped."""
    entries: Iterable[tuple[str, Any]]
    if isinstance(value, Mapping):
        entries = [(f"{_scalar(name)}:" if not _word(name) else f"{name}:", each) for name, each in value.items()]
    else:
        entries = [("-", each) for each in value]
    for lead, each in entries:
        if isinstance(each, Mapping | list) and each:
            yield indent + lead
            yield from _yaml(each, indent + "  ")
        else:
            yield f"{indent}{lead} {_scalar(each)}"


def _word(text: str) -> bool:
    return text.isascii() and text.isidentifier() and text not in ("null", "true", "false")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return '"' + "".join(c if c in _PLAIN else f"\\U{ord(c):08x}" for c in value) + '"'
    return json.dumps(value)


def _wrong(said: str, code: int) -> int:
    print(f"toolgate: {printable(said)}", file=sys.stderr)
    return code
