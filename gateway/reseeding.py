"""What a life before left open of budgets and idempotency keys, settled by the ledger before any call is taken.

A call without an intent on record never ran: what was taken for it is given back. One with an intent stays spent, and
its key is in doubt unless its outcome is on record and can be told again. Keys that the ledger knows of and the store
does not, as after a loss of power, are put back. It writes no record, and frees no key of a call that may have run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from gateway.admission import Claim
from gateway.audit import query
from gateway.audit.content import Contents
from gateway.audit.glance import glance
from gateway.audit.query import Record
from gateway.model import Problem
from gateway.problems import TABLE
from gateway.replay.answers import Instead, Result, answer_of
from gateway.settling import claim_on, told_done
from gateway.stages.claim import LASTS, UNSURE
from gateway.stages.kept import write_done
from gateway.stores.sqlite_counters import LeftOpen, SqliteCounters

_MARGIN = 60.0  # seconds by which the clock of the ledger may be behind that of the limits
SAID = frozenset({"call.resolved", "call.reconciled"})  # by an operator, by the backend
ENDS = SAID | {"call.outcome", "call.refused", "call.in_doubt"}


@dataclass(frozen=True, slots=True)
class Told:
    """How the ledger says that a call ended: never ran, nobody knows, or how it is told to a repeat.

    `session` and `tenant` are whose content that is, `claim` the key that the call had."""

    ended: Literal["refused", "unknown", "done"]
    at: float
    claim: Claim | None = None
    kept: bytes = field(default=b"", repr=False)
    session: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """Calls by id; `whole`: whether all that was written in that time is here to be read."""

    calls: dict[str, Told]
    whole: bool


async def reseed(home: Path, counters: SqliteCounters, now: float) -> str | None:
    """Settles all of it at `now` (unix seconds); says in a sentence what was found, None when that is nothing.

    Raises `OSError`, `ValueError` or `sqlite3.Error` when ledger or keys cannot be read, `Refusal` when what was found
    cannot be kept.
    """
    left = {each.call_id: each for each in counters.left()}
    synced = await asyncio.to_thread(counters.synced)
    since = now - LASTS if synced is None else synced
    begin = min([since, *(each.at for each in left.values())]) - _MARGIN
    found = await asyncio.to_thread(_read, home, begin, since - _MARGIN, left.keys())
    back = sum([await _settle(counters, each, found) for each in left.values()])
    known = sum([await _put_back(counters, call_id, told, now) for call_id, told in found.calls.items()])
    counters.whole()
    if not (left or known):
        return None
    return f"{len(left)} calls were under way at the end, {back} of them never ran; {known} keys are known again"


async def _settle(counters: SqliteCounters, left: LeftOpen, found: _Read) -> bool:
    """Whether it is given back."""
    told = found.calls.get(left.call_id)
    if told.ended == "refused" if told else found.whole:
        counters.give_back(left)
        return True
    counters.keep_spent(left)
    if told is not None:
        await _close(counters, left.call_id, told)
    return False


async def _put_back(counters: SqliteCounters, call_id: str, told: Told, now: float) -> bool:
    """Whether its key was missing."""
    if told.claim is None or told.ended == "refused" or told.at + told.claim.ttl <= now:
        return False
    if not counters.know(told.claim, call_id, told.at):
        return False
    await _close(counters, call_id, told)
    return True


async def _close(counters: SqliteCounters, call_id: str, told: Told) -> None:
    if told.claim is not None and told.ended == "done":
        await counters.close(told.claim, call_id, told.kept, told.session, told.tenant)


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(home: Path, begin: float, since: float, left: Set[str]) -> _Read:
    """What the ledger says from `begin` on of the calls that were `left`, and from `since` on of all with a key."""
    intents: dict[str, Record] = {}
    ends: dict[str, Record] = {}
    for record in query.since(home, begin):
        call_id = str(record.get("call_id"))
        if record["type"] == "call.intent":
            if call_id in left or ("idempotency_key" in record and query.written_at(record) >= since):
                intents[call_id] = record
        elif record["type"] in ENDS and (call_id in intents or call_id in left):
            ends[call_id] = record
    with glance(home) as contents:
        told = {call_id: told_of(first, ends.get(call_id), contents) for call_id, first in intents.items()}
    return _Read(told, whole=not query.elsewhere(home, begin))


def told_of(first: Record, last: Record | None, contents: Contents) -> Told:
    at, claim = query.written_at(first), claim_on(first)
    if last is not None and never_ran(last):
        return Told("refused", at, claim)
    try:
        kept = None if claim is None else _kept(first, last, contents)
        if kept is not None:
            return Told("done", at, claim, kept, _part(first, "content")["key"], str(first["tenant"]))
    except (KeyError, TypeError):  # not as this version writes it
        pass
    return Told("unknown", at, claim)


def _kept(first: Record, last: Record | None, contents: Contents) -> bytes | None:
    """What a repeat is told; None when that cannot be said."""
    if last is not None and last["type"] in SAID:
        return told_done(first)
    tool, who = str(_part(first, "tool")["name"]), _part(first, "principal")
    answer = answer_of(first, last, contents, f"{first['tenant']}\x1f{who['agent']}\x1f{who['user'] or ''}")
    if isinstance(answer, Result) and _sure(answer.problem):
        said = (answer.structured, answer.verdict, answer.problem, answer.truncated, answer.artifacts)
        return write_done(tool, answer.text, *said)
    if isinstance(answer, Instead) and _sure(answer.problem):
        return write_done(tool, "", failed=answer.problem)
    return None


def _part(record: Record, name: str) -> dict[str, Any]:
    return cast(dict[str, Any], record[name])


def never_ran(last: Record) -> bool:
    if last["type"] in SAID:
        return last["as"] != "done"
    outcome = last.get("outcome")
    return last["type"] == "call.refused" or (isinstance(outcome, dict) and outcome.get("status") == "refused")


def _sure(failed: Problem | None) -> bool:
    """Whether that is how it ended, so that a repeat is told it, and neither asks the backend nor tries again."""
    return failed is None or (failed.code not in UNSURE and not TABLE[failed.code].retryable)
