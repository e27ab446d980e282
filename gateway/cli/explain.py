"""`toolgate explain`: a past call, stage by stage, from its records alone; or what would be decided of one in a file.

It makes no call, and asks no gateway. What it reads of a past call in the clear is on record.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.audit import query, search
from gateway.audit.archive import not_found
from gateway.audit.query import Shown
from gateway.audit.text import printable
from gateway.backends import offers
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.reading import on_record
from gateway.explaining import explain_case
from gateway.loading import load_folders
from gateway.policy.cases import load_call
from gateway.policy.explain import Form, recorded
from gateway.policy.past import Misfit
from gateway.policy.words import lines
from gateway.problems import TABLE
from gateway.specs.yaml import MAX_BYTES, SpecErrors
from gateway.tool import Json

_STAGES = ("authenticate", "resolve", "validate", "decide", "approve", "admit", "record", "execute", "screen")

_ASIDE = ("approval.", "budget.", "loop.", "session.")
_STANDS = {"call.intent": "it used up the approval", "call.parked": "it waits for a person under"}


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("explain", parents=[common], help="why a past call came out as it did, or one would")
    asked = verb.add_mutually_exclusive_group(required=True)
    asked.add_argument("call_id", nargs="?")
    asked.add_argument("--call", metavar="FILE", help="decide without doing: a call as in a case, or - for stdin")
    verb.add_argument("--specs", help="folder of tool specs, with --call")
    verb.add_argument("--policies", help="folder of policies, with --call")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints who called what, what decided with which values, what the code called, and what each stage took."""
    if arguments.call is not None:
        return _supposed(arguments)
    home = home_of(arguments).path
    shown = search.show(home, arguments.call_id)
    if not shown:
        say(arguments, None, not_found(home, arguments.call_id))
        return 1
    on_record(home, "explain", {"call": arguments.call_id}, len(shown))
    nested = search.nested(home, arguments.call_id)
    asked = _of_call(shown)[0]
    whole = {
        "call_id": arguments.call_id,
        "explained": recorded(asked.record, asked.content),
        "records": [{"record": each.record, "content": each.content, "unreadable": each.unreadable} for each in shown],
        "nested": nested,
    }
    say(arguments, whole, "\n".join(map(printable, explain(shown, nested))))
    return 0


def _supposed(arguments: Arguments) -> int:
    """Decides about the call in a file. Exit 0 permitted, 1 refused, 2 where there is nothing to decide about."""
    try:
        form = _decided(arguments)
    except (SpecErrors, Misfit, OSError) as error:
        print(_safe(f"toolgate: {error}"), file=sys.stderr)
        return 2
    said = form.pop("lines")
    say(arguments, form, "\n".join(map(printable, [said[0], *(f"  {line}" for line in said[1:])])))
    return 0 if form["permitted"] else 1


def _decided(arguments: Arguments) -> Form:
    settings = settings_of(arguments, specs=arguments.specs, policies=arguments.policies)
    case = load_call(*_read(arguments.call))
    loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
    return explain_case(case, loaded.bundle)


def _read(file: str) -> tuple[bytes, str]:
    if file == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1), "stdin"
    return Path(file).read_bytes(), file


def _safe(text: str) -> str:
    """Several lines, each safe for a terminal."""
    return "\n".join(map(printable, text.split("\n")))


def explain(shown: Sequence[Shown], nested: Sequence[query.Record] = ()) -> Iterator[str]:
    """The lines for one call, from its records in order: the first says what was asked, the last how it ended.

    nested: the last record of each call that its code made.
    """
    own = _of_call(shown)
    asked = own[0]
    who, tool = _part(asked.record, "principal"), _part(asked.record, "tool")
    user = f" for {who['user']}" if who.get("user") else ""
    yield f"{asked.record.get('call_id')}: {tool.get('name')} called by agent {who.get('agent')}{user}"
    yield f"  session {asked.record.get('session_id')}, tenant {asked.record.get('tenant')}, {asked.record.get('ts')}"
    if asked.record.get("parent_call_id"):
        yield f"  made because of {asked.record['parent_call_id']}"
    yield from _decision(asked)
    yield from (f"  because of it: {_nested(record)}" for record in nested)
    yield from (line for each in shown for line in _aside(each.record))
    yield from _outcome(own[-1])
    took = _part(own[-1].record, "stages")
    if took:
        yield "  took " + ", ".join(f"{stage} {took[stage]} µs" for stage in _STAGES if stage in took)


def _of_call(shown: Sequence[Shown]) -> Sequence[Shown]:
    """Without what was asked of people about the call, what they said, and what it was warned of."""
    return [each for each in shown if not str(each.record.get("type")).startswith(_ASIDE)] or shown


def _aside(record: query.Record) -> Iterator[str]:
    kind, approval = record.get("type"), _part(record, "approval").get("id")
    if kind == "approval.requested":
        yield f"  people were asked: {approval}"
    elif kind == "approval.decided":
        by, said = _part(record, "by"), "yes" if record.get("yes") else "no"
        rules = ", ".join(map(str, _list(record, "rules")))
        yield f"  {by.get('person') or 'the requester'} said {said} to {rules} ({record.get('via')})"
    elif kind == "loop.warned":
        run = ", ".join(map(str, _list(record, "tools")))
        yield f"  warned: the last {record.get('times')} calls brought nothing new ({run})"
    elif kind == "budget.warned":
        spent = f"{record.get('used'):g} of {record.get('most'):g} {record.get('dimension')}"
        yield f"  warned: {spent} of the {record.get('over')}'s budget were used"
    elif approval:
        yield f"  {_STANDS.get(str(kind), 'its approval was')} {approval}"


def _nested(record: query.Record) -> str:
    outcome = _part(record, "outcome")
    code = f" ({outcome['code']})" if outcome.get("code") else ""
    ended = f"{outcome['status']}{code}" if outcome else f"not known ({record.get('type')})"
    return f"{_part(record, 'tool').get('name')}: {ended}, {record.get('call_id')}"


def _decision(asked: Shown) -> Iterator[str]:
    form = recorded(asked.record, asked.content)
    if form is None:
        first = asked.record.get("repeat_of")
        why = f"this is a repeat of {first}" if first else "the call was refused before policy was asked"
        yield f"  decided: nothing; {why}"
        return
    first, *details = lines(form)
    yield f"  {first}"
    if asked.unreadable:
        yield f"  the clauses cannot be shown: {asked.unreadable}"
    yield from (f"    {line}" for line in details)


def _told(last: query.Record) -> str:
    """How a call ended of which there is no outcome, as far as somebody said so."""
    if last["type"] == "call.resolved":
        return f"{last.get('as')}, as an operator says: {last.get('why')}"
    if last["type"] == "call.reconciled":
        return f"{last.get('as')}, as its backend says in {last.get('asked')}"
    return f"not known ({last['type']})"


def _outcome(ended: Shown) -> Iterator[str]:
    last = ended.record
    outcome, screen = _part(last, "outcome"), _part(last, "screen")
    if not outcome:
        yield f"  ended: {_told(last)}"
        return
    code = f" ({outcome['code']})" if outcome.get("code") else ""
    rule = f" by rule {outcome['rule']}" if outcome.get("rule") else ""
    limit = f" by the limit {outcome['limit']}" if outcome.get("limit") else ""
    yield f"  ended: {outcome.get('status')}{code}{rule}{limit}"
    yield from _why(outcome, ended.content)
    yield from _answered(last)
    for sent in _list(last, "network"):
        got = f"status {sent.get('status')}, {sent.get('bytes')} bytes" if sent.get("status") else "no answer"
        yield f"  network: {sent.get('method')} {sent.get('host')}{sent.get('path')}: {got}"
    if screen:
        found = _list(screen, "findings")
        labels = ", ".join(map(str, _list(last, "labels_added"))) or "none"
        size = _part(last, "usage").get("bytes_out")
        yield f"  screened: {screen.get('action')}, {len(found)} findings, labels {labels}, {size} bytes"


def _why(outcome: Mapping[str, Any], content: Json) -> Iterator[str]:
    """What the caller was told, where that is on record, or else what the code means; and when to come again."""
    told = content.get("detail") if isinstance(content, Mapping) else None
    row = TABLE.get(str(outcome.get("code")))
    if told or row:
        yield f"    {told or (row and row.title)}"
    if outcome.get("retry_after_ms") is not None:
        yield f"    it was told to call again after {outcome['retry_after_ms'] / 1000:g} s"


def _answered(last: query.Record) -> Iterator[str]:
    """Who gave the result, where that was not the backend at once."""
    attempts = last.get("attempt")
    if last.get("answered_by") == "cache":
        yield "  answered by a kept result: nothing was sent"
    elif last.get("answered_by") == "fallback":
        yield f"  answered by its {last.get('origin')}: nothing could be sent to its own backend"
    elif isinstance(attempts, int) and attempts > 1:
        yield f"  attempts: {attempts}; this is what came of the last"


def _part(value: Json, key: str) -> Mapping[str, Any]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _list(value: Json, key: str) -> list[Any]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, list) else []
