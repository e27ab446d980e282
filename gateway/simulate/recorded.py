"""Calls as the ledger has them: who called what with which arguments in which session, and what was decided.

What is not on record, or cannot be read any more, is told as a reason, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.aggregates import Ended, Entry
from gateway.audit.content import Contents, Unreadable
from gateway.audit.query import Record, written_at
from gateway.model import Arguments, Call, Principal, Session
from gateway.reliability.written import read_entries
from gateway.simulate.verdict import Verdict, Yes, on_record, yes_of
from gateway.specs.fetch import fetch_tool
from gateway.stages.ask import SETTINGS
from gateway.stages.authenticate import suppose
from gateway.tool import Json, Labels, SandboxBackend, Tool

UNKNOWN_TOOL = "unknown_tool"
NO_POLICY = frozenset({"budget", "loop", "state"})  # limits that refuse a call, but are none of a policy's rates
NO_SESSION = "the session is not on record"
METADATA = "its arguments are not on record (metadata level)"
TOO_LARGE = "its arguments were too large to be kept"
UNLIKE = "its record is not as this version writes it"
# What became of a call in doubt, by what an operator said; until then nobody knows.
_RESOLVED: Mapping[Json, Ended | None] = {None: None, "done": "done", "not-done": "refused"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that came before policy, or whose tool was hidden from its caller: then it has no `bundle`.

    `at` in unix seconds. `admitted`: it has an intent. `call` is what was decided about, or `reason` says why nobody
    can tell; `reserves` is what it added to the past, as far as its record says; `reads` what its decision read of it,
    as it is written; `yes` what people had said to it.
    """

    id: str
    at: float
    agent: str
    tool: str
    session: str
    admitted: bool
    verdict: Verdict
    bundle: str | None
    call: Call | None = None
    reason: str | None = None
    reserves: tuple[Entry, ...] = ()
    reads: Json = None
    yes: Yes = frozenset()


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a call that was admitted, with what it left in its session: labels, its cost, and one call if so.

    `at` in unix seconds. `ended` is None while nobody knows: then another end follows once an operator has said so.
    """

    id: str
    at: float
    ended: Ended | None
    labels: Labels = frozenset()
    cost: float = 0.0
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Unasked:
    """A call that was refused before policy was asked: no policy makes a difference to it. `at` in unix seconds."""

    at: float


class Reader:
    """Makes calls of records. `tools` are those there are now: a call of one that was another then has a reason."""

    def __init__(self, contents: Contents, tools: Iterable[Tool]) -> None:
        self._contents = contents
        self._named = {tool.name: tool for tool in tools}
        self._tools = {tool.digest: tool for tool in self._named.values()}
        for tool in self._named.values():
            if isinstance(tool.backend, SandboxBackend) and tool.backend.network:
                fetch = fetch_tool(tool)
                self._tools[fetch.digest] = fetch

    def read(self, record: Record) -> Asked | Closed | Unasked | None:
        """What a record says of a call; None for records of other things. Raises `ValueError` for what is none."""
        try:
            if record["type"] in ("call.intent", "call.refused", "call.parked"):
                return self._asked(record)
            if record["type"] == "call.outcome":
                return _closed(record)
            if record["type"] in ("call.in_doubt", "call.resolved"):
                said = record.get("as") if record["type"] == "call.resolved" else None
                return Closed(str(record["call_id"]), written_at(record), _RESOLVED[said])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(UNLIKE) from error
        return None

    def _asked(self, record: Record) -> Asked | Unasked:
        decision, refused = cast(Any, record["decision"]), record["type"] != "call.intent"
        code = _code(cast(Any, record["outcome"])) if refused else None
        if decision is None:
            if code != UNKNOWN_TOOL:
                return Unasked(float(cast(float, record["opened_at"])))
            verdict, bundle, yes = Verdict(False, UNKNOWN_TOOL), None, Yes()
        else:
            yes = yes_of(decision, cast(Any, record.get("approval") or {}))
            verdict, bundle = on_record(decision, code, yes), str(decision["bundle_digest"])
        said = _Said(record, verdict)
        content, reason = self._content(record)
        call = None
        if reason is None:
            call, reason = self._call(said, content)
        reserves = tuple(read_entries(content.get("reserves")))
        who = said.id, said.at, said.agent, said.tool, said.uid
        return Asked(*who, not refused, verdict, bundle, call, reason, reserves, content.get("reads"), yes)

    def _content(self, record: Record) -> tuple[Mapping[str, Json], str | None]:
        try:
            content = self._contents.open(record)
        except Unreadable as why:
            return {}, f"its content cannot be read: {why}"
        if not isinstance(content, dict) or "arguments" not in content:
            large = isinstance(content, dict) and "arguments_bytes" in content
            return content if isinstance(content, dict) else {}, TOO_LARGE if large else METADATA
        return content, None

    def _call(self, said: _Said, content: Mapping[str, Json]) -> tuple[Call | None, str | None]:
        facts = said.record.get("session")
        if not isinstance(facts, dict) or "groups" not in said.principal:
            return None, NO_SESSION
        arguments = content["arguments"]
        tool = self._tool(said)
        if tool is None:
            if said.verdict.code == UNKNOWN_TOOL:
                return None, None  # there is none of that name now either
            return None, f"the tool {said.tool} is not here as it was"
        principal = _principal(said)
        session = _session(said, principal, facts)
        seed = content.get("seed")
        arguments = Arguments(cast(Mapping[str, Json], arguments))
        seeded = seed if isinstance(seed, int) else 0
        return Call(said.id, suppose(principal, session), tool, arguments, said.at, seeded), None

    def _tool(self, said: _Said) -> Tool | None:
        digest = cast(Mapping[str, str], said.record["tool"]).get("digest")
        return self._named.get(said.tool) if digest is None else self._tools.get(digest)


class _Said:
    """The plain fields that every record of a call has."""

    def __init__(self, record: Record, verdict: Verdict) -> None:
        self.record, self.verdict = record, verdict
        self.principal = cast(Mapping[str, Any], record["principal"])
        self.id, self.at = str(record["call_id"]), float(cast(float, record["opened_at"]))
        self.agent, self.tool = str(self.principal["agent"]), str(cast(Any, record["tool"])["name"])
        content = record.get("content")
        # The name of a session's key is its uid; without content there is none, and its name and owner have to do.
        self.uid = str(content["key"]) if isinstance(content, dict) else f"{record['session_id']}\x1f{self.agent}"


def _principal(said: _Said) -> Principal:
    each = said.principal
    return Principal(said.agent, str(said.record["tenant"]), each["user"], frozenset(each["groups"]))


def _session(said: _Said, principal: Principal, facts: Mapping[str, Any]) -> Session:
    return Session(
        id=str(said.record["session_id"]),
        uid=said.uid,
        owner=principal.key,
        opened_at=float(facts["opened_at"]),
        expires_at=said.at,
        labels=frozenset(facts["labels"]),
        calls=int(facts["calls"]),
        cost=float(facts["cost"]),
    )


def _code(outcome: Mapping[str, Any]) -> str | None:
    """Why a call was refused; None where it was for what settings limit or a loop, which no policy has a part in."""
    limit = str(outcome.get("limit", ""))
    return None if limit.startswith(SETTINGS) or limit in NO_POLICY else cast("str | None", outcome["code"])


def _closed(record: Record) -> Closed:
    status = cast(Mapping[str, Json], record["outcome"])["status"]
    ended: Ended = "refused" if status == "refused" else "done" if status == "done" else "failed"
    call_id, at = str(record["call_id"]), written_at(record)
    labels = record.get("labels_added")
    if not isinstance(labels, list):
        return Closed(call_id, at, ended)
    cost = float(cast(Any, record["usage"])["cost"])
    return Closed(call_id, at, ended, frozenset(map(str, labels)), cost, True)
