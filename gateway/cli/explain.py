"""`toolgate explain`: a past call, stage by stage, from its records alone. It decides nothing again."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence

from gateway.audit import query
from gateway.audit.query import Shown
from gateway.audit.text import printable
from gateway.cli.common import Arguments, Verbs, home_of, say
from gateway.tool import Json

_STAGES = ("authenticate", "resolve", "validate", "decide", "approve", "admit", "record", "execute", "screen")
_UNITS = {"timeout": " s", "limits.output": " bytes"}


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("explain", parents=[common], help="why a past call came out as it did")
    verb.add_argument("call_id")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints who called what, what decided with which values, what the code called, and what each stage took."""
    home = home_of(arguments).path
    shown = query.show(home, arguments.call_id)
    if not shown:
        say(arguments, None, f"no record of {arguments.call_id}")
        return 1
    whole = [{"record": each.record, "content": each.content, "unreadable": each.unreadable} for each in shown]
    say(arguments, whole, "\n".join(map(printable, explain(shown, query.nested(home, arguments.call_id)))))
    return 0


def explain(shown: Sequence[Shown], nested: Sequence[query.Record] = ()) -> Iterator[str]:
    """The lines for one call, from its records in order: the first says what was asked, the last how it ended.

    nested: the last record of each call that its code made.
    """
    asked = shown[0]
    who, tool = _part(asked.record, "principal"), _part(asked.record, "tool")
    user = f" for {who['user']}" if who.get("user") else ""
    yield f"{asked.record.get('call_id')}: {tool.get('name')} called by agent {who.get('agent')}{user}"
    yield f"  session {asked.record.get('session_id')}, tenant {asked.record.get('tenant')}, {asked.record.get('ts')}"
    if asked.record.get("parent_call_id"):
        yield f"  called by the code of {asked.record['parent_call_id']}"
    yield from _decision(asked)
    yield from (f"  its code called {_nested(record)}" for record in nested)
    yield from _outcome(shown[-1])
    took = _part(shown[-1].record, "stages")
    if took:
        yield "  took " + ", ".join(f"{stage} {took[stage]} µs" for stage in _STAGES if stage in took)


def _nested(record: query.Record) -> str:
    outcome = _part(record, "outcome")
    code = f" ({outcome['code']})" if outcome.get("code") else ""
    ended = f"{outcome['status']}{code}" if outcome else f"not known ({record.get('type')})"
    return f"{_part(record, 'tool').get('name')}: {ended}, {record.get('call_id')}"


def _decision(asked: Shown) -> Iterator[str]:
    decision = _part(asked.record, "decision")
    if not decision:
        yield "  decided: nothing; the call was refused before policy was asked"
        return
    code = f" ({decision['code']})" if decision.get("code") else ""
    yield f"  decided: {decision.get('effect')}{code} under bundle {decision.get('bundle_digest')}"
    if asked.unreadable:
        yield f"  the clauses cannot be shown: {asked.unreadable}"
    reasons = _list(asked.content, "reasons")
    for reason in reasons:
        yield f"    {reason.get('effect')} {reason.get('rule')} ({reason.get('source')}): {reason.get('result')}"
        for clause in _list(reason, "clauses"):
            values = ", ".join(f"{name} = {value!r}" for name, value in _part(clause, "values").items())
            yield f"      {clause.get('result'):5} {clause.get('text')}" + (f"  [{values}]" if values else "")
    yield from _obligations(_part(decision, "obligations"))


def _obligations(duties: Mapping[str, Json]) -> Iterator[str]:
    origin = _part(duties, "origin")
    for key, rules in origin.items():
        value = duties.get({"limit": "limits", "label": "labels"}.get(key, key.rpartition(".")[2]))
        yield f"    obligation {key}: {_duty(key, value)}, from {' and '.join(map(str, _strings(rules)))}"


def _duty(key: str, value: Json) -> str:
    """What a permitted call has to obey, with its unit."""
    if key == "limit":
        rates = [(_part(limit, "rate"), limit.get("key")) for limit in _list({"of": value}, "of")]
        return " and ".join(f"{rate.get('calls')} calls in {_number(rate.get('per'))} s by {by}" for rate, by in rates)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{_number(value)}{_UNITS.get(key, '')}"


def _number(value: Json) -> str:
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _outcome(ended: Shown) -> Iterator[str]:
    last = ended.record
    outcome, screen = _part(last, "outcome"), _part(last, "screen")
    if not outcome:
        yield f"  ended: not known ({last.get('type')})"
        return
    code = f" ({outcome['code']})" if outcome.get("code") else ""
    rule = f" by rule {outcome['rule']}" if outcome.get("rule") else ""
    yield f"  ended: {outcome.get('status')}{code}{rule}"
    if isinstance(ended.content, Mapping) and ended.content.get("detail"):
        yield f"    {ended.content['detail']}"
    for sent in _list(last, "network"):
        got = f"status {sent.get('status')}, {sent.get('bytes')} bytes" if sent.get("status") else "no answer"
        yield f"  network: {sent.get('method')} {sent.get('host')}{sent.get('path')}: {got}"
    if screen:
        found = _list(screen, "findings")
        labels = ", ".join(map(str, _strings(last.get("labels_added")))) or "none"
        size = _part(last, "usage").get("bytes_out")
        yield f"  screened: {screen.get('action')}, {len(found)} findings, labels {labels}, {size} bytes"


def _part(value: Json, key: str) -> Mapping[str, Json]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _list(value: Json, key: str) -> list[Mapping[str, Json]]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, list) else []


def _strings(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
