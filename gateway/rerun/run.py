"""Runs calls on record again and says of each: the same, different, or not to be run again and why.

It executes no tool but the code itself, in a sandbox that is given its clock and seed; it dials nothing and writes
nothing. Whether the ledger verifies is for whoever calls it to ask first (`audit.query.unverified`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from gateway.artifacts import MAX_TOTAL
from gateway.audit.glance import glance
from gateway.loading import Loaded
from gateway.model import Arguments, Artifact, RawOutput, Refusal
from gateway.problems import TABLE
from gateway.replay.answers import Lost, Result
from gateway.rerun.answers import Answers, allowed
from gateway.rerun.compare import Difference, differences
from gateway.rerun.past import Story, Taken, Unfit
from gateway.runners.sandboxed import SandboxRunner
from gateway.simulate.recorded import METADATA, UNLIKE
from gateway.specs.fetch import FETCH, fetch_tool
from gateway.stores.artifacts import read_file
from gateway.tool import FetchBackend, Json, SandboxBackend, Tool
from gateway.work import Work
from sandboxes.model import Backend as Sandbox

_PATIENCE = 30.0  # seconds a call waits for its sandbox; what it then has is what its tool gives
_MANY = 5  # names in one sentence
NOT_THERE = "it is not on record"
_REFUSED = "it was refused: nothing ran"
_CONTAINER = "it ran in a container, which has the machine's clock and random numbers"
_GOES_OUT = "it asked a tool that is no code, and nothing goes out from here"
_FETCHED = "it fetched, and nothing goes out from here"
_CHANGED = "its tool is not here as it was"
_NO_END = "nobody knows how it ended"
_NO_RESULT = "it has no result on record"
_NO_SANDBOX = "in what it ran is not on record"
_SLOW = "it did not end here within the time that its tool gives"
_NO_FILE = "a file that it was given is not kept any more"
# How a call ended that would not end so again, or did not run.
_UNLIKELY = {
    "timeout": "it ended at its deadline, and where that falls is not the same twice",
    "cancelled": "it was cancelled, and where that fell is not the same twice",
    "upstream_error": "its sandbox broke down",
    "sandbox_unavailable": "no sandbox could run it: nothing ran",
    "breaker_open": "no sandbox was asked to run it: nothing ran",
}


@dataclass(frozen=True, slots=True)
class Rerun:
    """What came of running one call again. `answered`: calls of its code that were answered from the record.

    `differences` only where it is different, and `reason` only where it was not run again or nothing can be compared.
    """

    call_id: str
    tool: str | None
    verdict: Literal["same", "different", "not-rerunnable"]
    answered: int = 0
    differences: tuple[Difference, ...] = ()
    reason: str | None = None


async def rerun(home: Path, loaded: Loaded, sandboxes: Mapping[str, Sandbox], wanted: Iterable[str]) -> list[Rerun]:
    """The calls `wanted` (their ids), one after the other. `sandboxes` by name are those that are up.

    Raises `OSError`, `ValueError` or `sqlite3.Error` when log or keys cannot be read.
    """
    with glance(home) as contents:
        again = _Again(home, Story(home, contents), loaded, SandboxRunner(sandboxes))
        return [await again.one(call_id) for call_id in wanted]


def calls_of(home: Path, session: str) -> list[str]:
    """The ids of the calls of a session, those that code made among them. Raises as `rerun`."""
    with glance(home) as contents:
        return [call.id for call in Story(home, contents).in_session(session)]


def code_of(home: Path, loaded: Loaded, wanted: Iterable[str]) -> Sequence[Tool]:
    """The tools whose code `rerun` would run for these calls: for starting what it needs. Raises as `rerun`."""
    with glance(home) as contents:
        again = _Again(home, Story(home, contents), loaded, SandboxRunner({}))
        return tuple({tool.digest: tool for call_id in wanted for tool in again.code(call_id)}.values())


class _Again:
    """One look at the past, with what it takes to run what is found there."""

    def __init__(self, home: Path, story: Story, loaded: Loaded, runner: SandboxRunner) -> None:
        self._home, self._story, self._runner = home, story, runner
        self._named = {tool.name: tool for tool in loaded.catalogue.all()}
        self._tools = {tool.digest: tool for tool in self._named.values()}
        for tool in self._named.values():
            if isinstance(tool.backend, SandboxBackend) and tool.backend.network:
                fetch = fetch_tool(tool)
                self._tools[fetch.digest] = fetch

    async def one(self, call_id: str) -> Rerun:
        call = self._story.find(call_id)
        if call is None:
            return Rerun(call_id, None, "not-rerunnable", reason=NOT_THERE)
        try:
            return await self._run(call, *self._asked(call))
        except Unfit as why:
            return Rerun(call_id, call.tool, "not-rerunnable", reason=str(why))

    def code(self, call_id: str) -> Iterator[Tool]:
        """The tool of that call, if its code can be run again."""
        call = self._story.find(call_id)
        if call is not None:
            try:
                yield self._tool(call)
            except Unfit:
                return

    def _asked(self, call: Taken) -> tuple[Work, Result, Mapping[str, Any]]:
        """The work, what came of it, and what it ran in. Raises Unfit."""
        try:
            tool, ran_in = self._tool(call), _ran_in(call)
            work, was = self._work(call, tool), self._story.answer(call)
        except (KeyError, TypeError, AttributeError):
            raise Unfit(UNLIKE) from None
        if isinstance(was, Lost):
            raise Unfit(was.reason)
        if not isinstance(was, Result):
            raise Unfit(_NO_RESULT)
        return work, was, ran_in

    async def _run(self, call: Taken, work: Work, was: Result, ran_in: Mapping[str, Any]) -> Rerun:
        try:
            now = await self._runner.run(work)
        except Refusal as refusal:
            raise Unfit(f"{TABLE[refusal.problem.code].title.lower()}: {refusal.problem.detail}") from None
        _require_alike(ran_in, now)
        answers = cast("Answers | None", work.calls)
        found = (*_calls(answers), *differences(was, cast("str | None", ran_in["code"]), now))
        if answers is not None and answers.missed is not None:
            found = found[:1]  # what came after it says nothing
        return Rerun(
            call.id, call.tool, "different" if found else "same", answers.given if answers else 0, tuple(found)
        )

    def _tool(self, call: Taken) -> Tool:
        """The call's tool, which is code in a WASM sandbox. Raises Unfit."""
        if call.began["type"] != "call.intent":
            raise Unfit(_REFUSED)
        tool = self._tools.get(call.tool_digest or "")
        if tool is None:
            raise Unfit(_CHANGED)
        if isinstance(tool.backend, FetchBackend):
            raise Unfit(_FETCHED)
        if not isinstance(tool.backend, SandboxBackend):
            raise Unfit(_GOES_OUT)
        if tool.backend.backend == "docker":
            raise Unfit(_CONTAINER)
        return tool

    def _work(self, call: Taken, tool: Tool) -> Work:
        """The work as it was, with answers from the record. Raises Unfit."""
        content = self._story.content(call)
        if not isinstance(content, dict) or "arguments" not in content or "seed" not in content:
            raise Unfit(METADATA)
        arguments = cast(Arguments, content["arguments"])
        return Work(
            call_id=call.id,
            tool=tool,
            arguments=arguments,
            tenant=call.owner.tenant,
            deadline=time.monotonic() + tool.timeout + _PATIENCE,
            now=float(cast(float, call.began["opened_at"])),
            seed=int(cast(int, content["seed"])),
            files=self._files(call, tool, arguments),
            calls=self._answers(call, tool),
        )

    def _answers(self, call: Taken, tool: Tool) -> Answers | None:
        backend = cast(SandboxBackend, tool.backend)
        if not (backend.tools or backend.network):
            return None
        tools = self._named | ({FETCH: fetch_tool(tool)} if backend.network else {})
        return Answers(call, self._story, tools, allowed(call, self._story, self._tools))

    def _files(self, call: Taken, tool: Tool, arguments: Arguments) -> dict[str, bytes]:
        named = arguments.get("files") if cast(SandboxBackend, tool.backend).files_in else None
        handles = cast("Mapping[str, str]", named or {})
        return {name: self._file(call, name, handle) for name, handle in handles.items()}

    def _file(self, call: Taken, name: str, handle: str) -> bytes:
        place = Artifact(handle, call.owner.key, name, MAX_TOTAL, "", frozenset(), "", call.id, 0.0)
        try:
            return read_file(self._home / "artifacts", place)
        except Refusal:
            raise Unfit(_NO_FILE) from None


def _ran_in(call: Taken) -> Mapping[str, Any]:
    """What the code ran in and how it ended there. Raises Unfit where that cannot come out the same."""
    ended = call.ended
    if ended is None or ended["type"] != "call.outcome":
        raise Unfit(_NO_END)
    ran_in, code = ended.get("sandbox"), cast(Any, ended["outcome"])["code"]
    for each in (code, ran_in["code"] if isinstance(ran_in, dict) else None):
        if each in _UNLIKELY:
            raise Unfit(_UNLIKELY[str(each)])
    if not isinstance(ran_in, dict):
        raise Unfit(_NO_SANDBOX)
    return cast(Mapping[str, Any], ran_in)


def _require_alike(then: Mapping[str, Any], now: RawOutput) -> None:
    """Raises Unfit unless the code ran in the same guest under the same engine, to its own end."""
    for what, name in (("guest", "image_digest"), ("engine", "engine")):
        here = (now.sandbox or {}).get(name)
        if then[name] != here:
            raise Unfit(f"it ran in another {what}: {then[name]}, here is {here}")
    if now.problem is not None and now.problem.code == "timeout":
        raise Unfit(_SLOW)
    if now.problem is not None and now.problem.code in _UNLIKELY:
        raise Unfit(_UNLIKELY[now.problem.code])


def _calls(answers: Answers | None) -> Iterator[Difference]:
    """Calls that the code made now and not then, or then and not now."""
    if answers is None:
        return
    if answers.missed is not None:
        name, given = answers.missed
        yield Difference("calls", f"call {answers.given + 1}", "no such call", f"{name} {_short(given)}")
    elif rest := answers.unasked:
        named = ", ".join(rest[:_MANY]) + (", …" if len(rest) > _MANY else "")
        yield Difference("calls", "", f"{len(rest)} more: {named}", "not made")


def _short(given: Json) -> str:
    text = repr(given)
    return text if len(text) <= 100 else text[:100] + "…"
