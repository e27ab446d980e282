"""The ten stages of a call in their order: read this first. It never does a stage's work itself.

Each stage returns the type the next one requires, so the type checker refuses a line with a stage skipped, swapped or
not awaited. A call goes in, an `Outcome` comes out, and nothing happens that is not on record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from gateway import ports
from gateway.admission import Bounds
from gateway.lifetimes import Opening
from gateway.model import Call, Caller, Outcome, Parent, Principal, Problem, Refusal, Request, SafeOutput, Session
from gateway.parked import Parked
from gateway.problems import problem, refuse
from gateway.reliability.resilience import Resilience
from gateway.reliability.watch import Watch
from gateway.screening import Screener
from gateway.stages.admit import ROUNDS, Held, StateChanged, admit
from gateway.stages.answering import Via, answer, answerable, approval_of, approvals_of
from gateway.stages.approve import approve, using
from gateway.stages.authenticate import authenticate, suppose
from gateway.stages.claim import claim_of, recall
from gateway.stages.decide import decide
from gateway.stages.execute import execute
from gateway.stages.explain import explain
from gateway.stages.inputs import find_inputs
from gateway.stages.kept import Recalled
from gateway.stages.opened import Opened
from gateway.stages.record import close_record, open_record, record_intent
from gateway.stages.resolve import resolve
from gateway.stages.screen import screen
from gateway.stages.sessions import add_request, end_session, open_asked, record_changes
from gateway.stages.validate import validate
from gateway.stages.warned import report_tokens
from gateway.tool import Backend, Json, Tool

log = logging.getLogger("toolgate")


@dataclass(frozen=True, slots=True)
class Gate:
    """The pipeline with everything it needs from outside. Doors hold one of these and nothing else."""

    authority: ports.Authority
    sessions: ports.Sessions
    catalogue: ports.Catalogue
    bundles: ports.Bundles
    counters: ports.Counters
    claims: ports.Claims
    approvals: ports.Approvals
    runners: Mapping[type[Backend], ports.Runner]
    screener: Screener
    ledger: ports.Ledger
    outcomes: ports.Outcomes
    artifacts: ports.Artifacts
    clock: ports.Clock
    ids: ports.Ids
    bounds: Bounds = field(default_factory=Bounds)
    notices: ports.Notices | None = None
    accounts: ports.Accounts | None = None
    watch: Watch = field(default_factory=Watch)
    resilience: Resilience | None = None

    async def handle(self, request: Request) -> Outcome:
        """Takes one call through the ten stages. Never raises for a call; a cancelled one is recorded as such."""
        opened = open_record(request, self.clock)
        result: SafeOutput | Problem | Recalled
        try:
            self.ledger.check()
            result = await self._run(request, opened)
        except Refusal as refusal:
            result = opened.refused(refusal)
        except asyncio.CancelledError:
            result = problem("cancelled", "The caller went away before the call ended.")
        except Exception:  # the pipeline's edge: whatever it was, it is an outcome on record and a line in the log
            log.exception("call %s failed inside the gateway", request.call_id)
            result = problem("internal", "Something failed inside the gateway; the operator's log has it.")
        return await _whole(close_record(opened, result, self.ledger, self.sessions, self.outcomes, self.claims))

    async def _run(self, request: Request, opened: Opened) -> SafeOutput | Recalled:
        bundle = self.bundles.current()
        caller = opened.saw(await self.authenticate(request.credential, request.session, request.parent))
        tool = opened.saw(resolve(request, caller, self.catalogue, bundle))
        arguments = validate(request, tool)
        inputs = await find_inputs(tool, arguments, caller, self.artifacts)
        seed, parent = self.ids.seed(), request.parent
        call = opened.saw(Call(request.call_id, caller, tool, arguments, opened.now, seed, inputs, parent))
        limits = (self.counters, self.sessions, self.bounds, self.clock, self.watch, opened)
        outside = (self.runners, self.artifacts, self.clock, self.resilience)
        claim = claim_of(call, request)
        for _ in range(ROUNDS):
            if claim is not None and (recalled := await recall(claim, call, request, self)) is not None:
                return recalled
            cells = bundle.cells(call)
            decision = opened.saw(decide(call, bundle, await self.counters.look(cells, call.now) if cells else {}))
            permit = opened.saw(await approve(decision, request, self))
            try:
                async with using(permit, self.approvals), (admitted := admit(permit, claim, *limits)) as lease:
                    intent = admitted.begins(opened.saw(await record_intent(opened, opened.saw(lease), self.ledger)))
                    raw = admitted.gave(await execute(intent, request, self, *outside))
                    opened.mark("execute")
                    safe = opened.saw(await screen(raw, intent, self.screener, self.artifacts))
                    if self.resilience is not None:
                        self.resilience.cache.keep(intent, raw, safe)
                    return admitted.ended(safe)
            except Held:
                continue  # another call took the key meanwhile: look what came of it
            except StateChanged as changed:  # another call came between: decide again, on what is true by now
                if changed.session:
                    caller = opened.saw(await self._again(caller, request))
                    call = opened.saw(Call(call.id, caller, tool, arguments, opened.now, seed, inputs, parent))
        raise refuse("precondition_pending", "Other calls keep changing what this one depends on.", retry_after_ms=100)

    async def _again(self, caller: Caller, request: Request) -> Caller:
        """The caller again, in the session as all gateways together have it by now."""
        await self.sessions.fresh(caller.session)
        said = (request.credential, request.session, request.parent)
        return await self.authenticate(*said)

    async def authenticate(self, credential: str | None, session: str | None, parent: Parent | None = None) -> Caller:
        """Stage 1 alone, for doors: so that a request without a valid key is refused before its body is read."""
        known = (self.authority, self.sessions, self.clock, self.ids, self.ledger)
        return await authenticate(credential, session, parent, *known)

    async def open_session(self, principal: Principal, asked: Opening) -> Session:
        """A new session of the caller's own. Raises `Refusal`, as `stages/sessions.py` says."""
        return await open_asked(principal, asked, self.sessions, self.ledger, self.clock, self.ids)

    async def add_request(self, principal: Principal, session: Session, words: str) -> Session:
        """One more turn of what the person asked for."""
        return await add_request(session, principal, words, self.sessions, self.ledger, self.clock.now())

    async def report_tokens(self, principal: Principal, session: Session, tokens: int) -> None:
        """Adds what the client says it used of a model to the budgets. Raises as `stages/warned.py` says."""
        known = (self.sessions, self.counters, self.ledger, self.bounds, self.clock, self.watch.told)
        await report_tokens(suppose(principal, session), tokens, *known)

    async def end_session(self, session: Session, who: Mapping[str, Json] | None) -> Session:
        """Closes a session and all below it; `who` is the operator who does so, None for its own caller."""
        return await end_session(session, who, self.sessions, self.ledger, self.clock.now())

    async def record_sessions(self) -> None:
        """Puts on record which sessions have ended meanwhile. Raises the refusals of `Ledger.check`."""
        await record_changes(self.sessions, self.ledger, self.clock.now())

    async def answer(
        self, principal: Principal, approval_id: str, yes: bool, *, why: str = "", via: Via = "rest"
    ) -> Parked:
        """What a person says to a parked call. Raises `Refusal`, as `stages/answering.py` says."""
        return await answer(principal, approval_id, yes, why, via, self)

    async def approvals_of(self, principal: Principal) -> Sequence[Parked]:
        """The parked calls of the tenant, for whoever may answer them. Raises `Refusal(insufficient_scope)`."""
        return await approvals_of(principal, self.approvals)

    def answerable(self, principal: Principal, parked: Parked) -> Sequence[str]:
        """The rules that a parked call still needs a yes for, and that this person may answer with a key of theirs."""
        return [each.rule for each in answerable(principal, parked, "rest")]

    async def approval_of(self, principal: Principal, approval_id: str) -> Parked:
        """One of the caller's own, or of the tenant for whoever may answer. Raises `Refusal(not_found)`."""
        return await approval_of(principal, approval_id, self.approvals)

    def listing(self, principal: Principal) -> Sequence[Tool]:
        """The tools this principal may see, by name."""
        visible = self.bundles.current().visible(principal)
        return [t for t in self.catalogue.all() if t.name in visible and t.tenant in (None, principal.tenant)]

    async def explain(self, principal: Principal, session: Session, tool: str, arguments: Json) -> dict[str, Json]:
        """What would be decided about a call, and why (`policy/explain.py`): for operators of the caller's tenant."""
        caller, bundle, now = suppose(principal, session), self.bundles.current(), self.clock.now()
        return await explain(caller, tool, arguments, self.catalogue, bundle, self.counters.look, now, confined=True)

    def new_call_id(self) -> str:
        """A fresh id for a call: `c_` and 128 random bits."""
        return self.ids.new("c_")


async def _whole(closing: Coroutine[None, None, Outcome]) -> Outcome:
    """Closes a record to its end, also when the caller goes away meanwhile: what ran is never left without outcome."""
    task = asyncio.ensure_future(closing)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue  # ours, which changes nothing any more; the task's own (the loop is ending) ends the waiting
    return task.result()
