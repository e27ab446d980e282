"""One session as the ledger has it: whose it was, how it stood at its first call, and each call it made, in order.

It takes no lock and writes nothing. Calls that sandboxed code made are part of the call of that code, and are left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson

from gateway.audit import query
from gateway.audit.content import Contents, Unreadable
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.query import Record
from gateway.audit.verify import segments, whole_lines
from gateway.model import SESSION_TTL, Principal, Session
from gateway.replay.answers import Answer, Lost, answer_of
from gateway.tool import Json

_ASKS = ("call.intent", "call.refused", "call.parked", "call.repeated")
_ENDS = ("call.outcome", "call.in_doubt", "call.resolved")
_SCOPES = frozenset({"agent"})


class Unreplayable(Exception):
    """There is no such session to replay, or more than one; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One call on record. `at`: when it was opened (unix seconds); `digest`: of its arguments, under its tenant's key.

    `arguments` says nothing where `unreadable` says why. `admitted`: it has an intent. `claim`: of its idempotency key,
    as far as one is on record. `repeats`: the call that it was a repeat of. `approval`: what people were asked for it.
    """

    id: str
    tool: str
    digest: str
    at: float
    admitted: bool
    answer: Answer
    arguments: Json = None
    unreadable: str | None = None
    claim: str | None = None
    repeats: str | None = None
    approval: str | None = None

    @property
    def lost(self) -> str | None:
        """Why the call cannot be answered again, if it cannot."""
        return self.answer.reason if isinstance(self.answer, Lost) else None


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """A session on record. `session` is as it was before its first call, which stands at `clock` (of the records).

    `digest` is the keyed digest of canonical arguments, as records have it; "" where the key was erased.
    """

    principal: Principal
    session: Session
    calls: Sequence[Recorded]
    clock: str
    digest: Callable[[bytes], str]

    @property
    def lost(self) -> Sequence[str]:
        """What of it is damaged, erased or not on record: a line for each call."""
        return [f"{call.id} {call.tool}: {call.lost}" for call in self.calls if call.lost]


@dataclass(slots=True)
class _Found:
    """The records of one session: of each call the first, and what ended it."""

    uid: str
    opened_at: float
    principal: Mapping[str, Any]
    tenant: str
    asked: dict[str, Record] = field(default_factory=dict)

    def __str__(self) -> str:
        user = f" for {self.principal['user']}" if self.principal["user"] else ""
        who = f"agent {self.principal['agent']}{user}, tenant {self.tenant}"
        return f"{self.uid} ({who}, {len(self.asked)} calls)"


def read_session(home: Path, name: str, agent: str | None = None) -> RecordedSession:
    """The session of that id, or `uid`; of that agent, where several had one of the same id.

    The whole ledger is verified first. Raises `Unreplayable`.
    """
    if why := query.unverified(home):
        raise Unreplayable(why)
    try:
        records = _about(home, name)
        found, ends = _one(records, name, agent), _ends(records)
        with closing(KeyStore(home / "state.db", master_key(home))) as keys:
            return _recorded(found, ends, keys, Contents(keys, home / "audit", OsDisk()))
    except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
        raise Unreplayable(f"{home}: session {name} cannot be read: {error}") from error


def _about(home: Path, name: str) -> list[Record]:
    """Every record of the sessions of that id or uid, in order."""
    found = _naming(home, name)
    ids = {str(record["session_id"]) for record in found if _uid(record) == name and record["session_id"] != name}
    for session_id in ids:
        found = _naming(home, session_id)
    return found


def _naming(home: Path, name: str) -> list[Record]:
    named = orjson.dumps(name)
    found = [
        record
        for folder in query.shards(home)
        for path in segments(folder)
        for record in query.parsed(line for line in whole_lines(path) if named in line)
    ]
    found = [record for record in found if name in (record.get("session_id"), _uid(record))]
    return sorted(found, key=lambda record: (str(record["hlc"]), str(record["shard"]), cast(int, record["seq"])))


def _one(records: Sequence[Record], name: str, agent: str | None) -> _Found:
    """The one session that is meant."""
    found: dict[tuple[str, ...], _Found] = {}
    for record in records:
        facts = record.get("session")
        if record["type"] in _ASKS and isinstance(facts, dict) and "parent_call_id" not in record:
            who = cast(Mapping[str, Any], record["principal"])
            opened_at = float(cast(float, facts["opened_at"]))
            place = (str(record["tenant"]), who["agent"], who["user"] or "", str(opened_at))
            there = found.setdefault(place, _Found("", opened_at, who, place[0]))
            there.uid = there.uid or _uid(record)
            there.asked.setdefault(str(record["call_id"]), record)
    meant = [each for each in found.values() if agent in (None, each.principal["agent"])]
    meant = [each for each in meant if each.uid == name] or meant
    if not meant:
        raise Unreplayable(f"no session {name}{f' of agent {agent}' if agent else ''} made a call that is on record")
    if len(meant) > 1:
        several = "; ".join(map(str, meant))
        raise Unreplayable(f"there are {len(meant)} sessions {name}: say which, by --agent or by its own id: {several}")
    return meant[0]


def _ends(records: Sequence[Record]) -> dict[str, Record]:
    """What ended each call; an operator's word on it is the last."""
    return {str(record["call_id"]): record for record in records if record["type"] in _ENDS}


def _recorded(found: _Found, ends: Mapping[str, Record], keys: KeyStore, contents: Contents) -> RecordedSession:
    who = found.principal
    groups, tenant = frozenset(map(str, who["groups"])), found.tenant
    principal = Principal(who["agent"], tenant, who["user"], groups, _SCOPES, who["authn"], who["token_id"])
    calls = _calls(found, ends, contents, principal.key)
    first = next(iter(found.asked.values()))
    facts = cast(Mapping[str, Any], first["session"])
    session = Session(
        id=str(first["session_id"]),
        uid=found.uid or f"{first['session_id']}@{found.opened_at}",
        owner=principal.key,
        opened_at=found.opened_at,
        expires_at=max(call.at for call in calls) + SESSION_TTL,
        labels=frozenset(map(str, facts["labels"])),
        calls=int(facts["calls"]),
        cost=float(facts["cost"]),
    )
    digest: Callable[[bytes], str] = _no_digest
    if keys.find_tenant(tenant) is not None:
        contents.digest(tenant, b"")  # after this its key is in memory
        digest = partial(contents.digest, tenant)
    return RecordedSession(principal, session, calls, str(first["hlc"]), digest)


def _calls(found: _Found, ends: Mapping[str, Record], contents: Contents, owner: str) -> list[Recorded]:
    """Each call; a repeat with arguments and answer of the call that it was a repeat of."""
    calls: dict[str, Recorded] = {}
    for call_id, asked in found.asked.items():
        call = _call(asked, ends.get(call_id), contents, owner)
        first = calls.get(call.repeats) if call.repeats is not None else None
        if first is not None:
            call = replace(call, answer=first.answer, arguments=first.arguments, unreadable=first.unreadable)
        calls[call_id] = call
    return list(calls.values())


def _call(asked: Record, end: Record | None, contents: Contents, owner: str) -> Recorded:
    arguments, unreadable = _arguments(asked, contents)
    return Recorded(
        str(asked["call_id"]),
        str(cast(Any, asked["tool"])["name"]),
        str(asked["args_digest"]),
        float(cast(float, asked["opened_at"])),
        asked["type"] == "call.intent",
        answer_of(asked, end, contents, owner),
        arguments,
        unreadable,
        str(cast(Any, asked["idempotency_key"])["claim"]) if "idempotency_key" in asked else None,
        str(asked["repeat_of"]) if "repeat_of" in asked else None,
        str(cast(Any, asked["approval"])["id"]) if "approval" in asked else None,
    )


def _arguments(asked: Record, contents: Contents) -> tuple[Json, str | None]:
    try:
        content = contents.open(asked)
    except Unreadable as why:
        return None, str(why)
    if not isinstance(content, dict) or "arguments" not in content:
        return None, "its arguments are not on record"
    return content["arguments"], None


def _no_digest(_: bytes) -> str:
    return ""


def _uid(record: Record) -> str:
    content = record.get("content")
    return str(content["key"]) if isinstance(content, dict) else ""
