"""The pipeline of a replay: the same ten stages, each call with a world in which its own record is all that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from gateway import strictjson
from gateway.model import Outcome, Problem, RawOutput, Refusal, Request
from gateway.pipeline import Gate
from gateway.ports import Runner
from gateway.problems import problem
from gateway.replay.answered import RecordedApprovals
from gateway.replay.answers import Denied, Instead, Result
from gateway.replay.claims import RecordedClaims
from gateway.replay.outside import AsRecorded, Marked, ReplayClock, Unread
from gateway.replay.report import UNREPEATABLE, Report
from gateway.replay.script import Script, Turn, refused_then
from gateway.replay.session import RecordedSession
from gateway.runners.replay import ReplayRunner
from gateway.screening import Screener
from gateway.stages.keys import client_key
from gateway.tool import Backend, FetchBackend, HttpBackend, Json, McpBackend, SandboxBackend

KINDS: tuple[type[Backend], ...] = (HttpBackend, FetchBackend, McpBackend, SandboxBackend)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay goes by and what it comes to."""

    session: RecordedSession
    script: Script
    clock: ReplayClock
    report: Report

    @classmethod
    def of(cls, session: RecordedSession) -> Replay:
        """A replay of a session, from its beginning."""
        script = Script(session.calls)
        return cls(session, script, ReplayClock(session.calls[0].at), Report(script, session.lost))


@dataclass(frozen=True, slots=True)
class ReplayGate(Gate):
    """A `Gate` that answers the calls of one recorded session. Its `runners` are empty: each call brings its own."""

    replay: Replay = field(kw_only=True)

    async def handle(self, request: Request) -> Outcome:
        """As `Gate.handle`. A call is a recorded one, or a miss, as soon as its caller is known."""
        try:
            await self.authority.identify(request.credential)
        except Refusal:
            return await self._with().handle(request)
        turn = self._turn(request)
        if turn.recorded is not None:
            self.replay.clock.forward(turn.recorded.at)
        outcome = await self._for(turn).handle(request)
        self.replay.report.add(turn, outcome)
        return outcome

    def _turn(self, request: Request) -> Turn:
        """The recorded call that this one is, by its arguments with defaults, where they are valid, or as they came."""
        given, tool = request.arguments, self.catalogue.find(request.tool)
        filled: Json = given
        if tool is not None and isinstance(given, dict) and not tool.check.check(given):
            filled = tool.check.fill(dict(given))
        digests = [self.replay.session.digest(strictjson.canonical(each)) for each in (filled, given)]
        return self.replay.script.take(request.tool, filled, digests, self._claim(request))

    def _claim(self, request: Request) -> str | None:
        given = request.idempotency_key
        return None if given is None else client_key(self.replay.session.principal.key, given)

    def _for(self, turn: Turn) -> Gate:
        """The stages with the world of one call."""
        answer, screener = self._answer(turn), self.screener
        then = turn.recorded.answer if turn.recorded else None
        if isinstance(then, Result):
            shown = then.again(lambda now: self.replay.report.screen(turn, then, now))
            screener = Screener(screener.rules, screener.secrets, shown)
        runners: Mapping[type[Backend], Runner] = dict.fromkeys(KINDS, ReplayRunner(answer))
        return self._with(
            counters=AsRecorded(self.counters, self.claims, self.replay.clock, turn),
            claims=RecordedClaims(self.claims, turn),
            approvals=RecordedApprovals(self.approvals, turn, self.replay.session.principal),
            runners=runners,
            screener=screener,
            ledger=Marked(self.ledger, turn),
            artifacts=Unread(self.artifacts),
        )

    def _answer(self, turn: Turn) -> RawOutput | Problem:
        """What the runner gives, if the call gets so far."""
        then = turn.recorded.answer if turn.recorded else None
        if isinstance(then, Result):
            return then.raw
        if isinstance(then, Instead):
            return then.problem
        if isinstance(then, Denied):
            if then.code in UNREPEATABLE:
                return problem(then.code, "It was refused so when it was recorded.")
            return refused_then(turn, then.code)
        return self.replay.script.missed(turn)

    def _with(self, **ports: object) -> Gate:
        """The plain line of stages, over these ports and else its own."""
        own = {each.name: getattr(self, each.name) for each in fields(Gate)}
        return Gate(**cast(Any, own | ports))
