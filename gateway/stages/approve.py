"""Stage 5: the sole maker of `Permit`. It never permits what the decision forbids, nor what needs a yes it has not got.

A call that needs a yes is parked: people are asked, and the caller calls again. It then is decided again in full, and
goes on only if it still is the very call that they said yes to: of this caller, key and session, with this tool, these
credentials and arguments, asking for just these answers. A yes is used by one call.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Protocol

from gateway import ports, strictjson
from gateway.model import Call, Decision, Effect, Outcome, Permit, Problem, Refusal, Request
from gateway.obligations import Approval
from gateway.parked import Parked, Preview
from gateway.problems import TABLE, problem
from gateway.stages.admit import Held, StateChanged
from gateway.tool import Json

PREVIEWED = 16_000  # characters of a preview that are kept
MOST = 64  # calls of one caller that may wait for a person at once
_UNUSED = (Refusal, StateChanged, Held)  # after these nothing was dispatched


class Asking(Protocol):
    """What it takes to ask somebody (`pipeline.Gate`)."""

    @property
    def catalogue(self) -> ports.Catalogue: ...
    @property
    def approvals(self) -> ports.Approvals: ...
    @property
    def ledger(self) -> ports.Ledger: ...
    @property
    def clock(self) -> ports.Clock: ...
    @property
    def ids(self) -> ports.Ids: ...
    @property
    def notices(self) -> ports.Notices | None: ...
    @property
    def accounts(self) -> ports.Accounts | None: ...
    async def handle(self, request: Request) -> Outcome: ...
    def new_call_id(self) -> str: ...


async def approve(decision: Decision, request: Request, asking: Asking) -> Permit:
    """The permit of a permitting decision, with the yes that it used up, if it needs one.

    Raises:
        Refusal: the decision's own problem; `approval_required` when people are asked now or already, with the id of
        what they are asked; `approval_denied`; `rate_limited` when too many calls of this caller wait; the problem of
        the preview that people would be shown; `overloaded` and those of `Ledger.check`.
    """
    if decision.effect is not Effect.PERMIT:
        raise Refusal(decision.problem or problem("no_permit", "No rule permits this call."))
    needs = decision.obligations.approvals
    if not needs:
        return Permit(decision)
    call = decision.call
    binding, now = binding_of(call, needs, asking.accounts), present(asking.clock)
    there = await asking.approvals.bound(binding, now)
    if there is not None and there.state != "granted":
        raise Refusal(_denied(there) if there.state == "denied" else waiting(there))
    preview, now = await _preview(call, request, asking), present(asking.clock)
    used = there is not None and await asking.approvals.use(there.tenant, there.id, call.id, now)
    if there is not None and used and _holds(there, needs, preview, now):
        return Permit(decision, there)
    raise Refusal(waiting(await _ask(call, needs, binding, preview, asking)))


class using:
    """Gives a yes back when the call that used it was not dispatched. Used as `async with using(permit, approvals)`."""

    __slots__ = ("_approvals", "_permit")

    def __init__(self, permit: Permit, approvals: ports.Approvals) -> None:
        self._permit, self._approvals = permit, approvals

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        approval = self._permit.approval
        if approval is not None and isinstance(error, _UNUSED):
            with contextlib.suppress(Refusal):  # the store cannot be asked: the yes is lost, which is the safe side
                await self._approvals.restore(approval.tenant, approval.id, self._permit.decision.call.id)


def binding_of(call: Call, needs: Sequence[Approval], accounts: ports.Accounts | None = None) -> str:
    """A digest of everything that people say yes to. A JSON list, so that nothing can stand for anything else.

    The key is in it, for a yes ends with the key that asked; tokens are renewed all the time, and are not.
    """
    principal, tool = call.caller.principal, call.tool
    subjects = {"never": "", "tenant": principal.tenant, "session": call.caller.session.uid}

    def account(source: str) -> str:
        kind, _, place = source.partition(":")
        return accounts.account(principal, place) if accounts is not None and kind == "oauth" else ""

    said: list[Json] = [
        principal.key,
        principal.token_id if principal.authn == "api_key" else "",
        call.caller.session.uid,
        tool.name,
        tool.digest,
        [[use.name, use.source, use.varies, subjects[use.varies], account(use.source)] for use in tool.secrets],
        dict(call.arguments),
        sorted([each.rule, *each.by] for each in needs),
    ]
    return "sha256:" + hashlib.sha256(strictjson.canonical(said)).hexdigest()


def present(clock: ports.Clock) -> float:
    """Unix seconds by which approvals are over: they do not go back while this process lives, whatever is set."""
    return max(clock.now(), clock.steady())


def waiting(parked: Parked) -> Problem:
    """What the caller of a parked call is told."""
    who = "the person you act for has to confirm it" if parked.confirms else "a person has to approve it"
    rules = " and ".join(dict.fromkeys(each.rule for each in parked.needs))
    detail = f"Nothing ran: {who}. It is pending as {parked.id} for at most {_lasts(parked)}."
    advice = "Call again with the same arguments when approved; do not repeat the call before that."
    return Problem("approval_required", detail, advice=advice, rule=rules, approval=parked.id)


def _lasts(parked: Parked) -> str:
    left = parked.expires_at - parked.asked_at
    return f"{left / 60:.0f} minutes" if left >= 120 else f"{left:.0f} seconds"


def _denied(parked: Parked) -> Problem:
    why = next((each.why for each in reversed(parked.answers) if not each.yes), "")
    rules = " and ".join(dict.fromkeys(each.rule for each in parked.needs))
    detail = f"Nothing ran: a person said no{f': {why}' if why else ''}."
    advice = TABLE["approval_denied"].advice
    return Problem("approval_denied", detail, advice=advice, rule=rules, approval=parked.id)


def _holds(parked: Parked, needs: Sequence[Approval], preview: Preview | None, now: float) -> bool:
    """Whether a yes is still one to this call: not if what the preview shows has changed, or the wait is shorter."""
    shown = None if parked.preview is None else parked.preview.etag
    looks = None if preview is None else preview.etag
    return shown == looks and not parked.open_rules() and now < parked.asked_at + min(each.ttl for each in needs)


async def _ask(call: Call, needs: Sequence[Approval], binding: str, preview: Preview | None, asking: Asking) -> Parked:
    """Asks people: what is asked is kept and on record, and whoever is to be told of it is told."""
    asking.ledger.check()
    principal, now = call.caller.principal, present(asking.clock)
    fresh = Parked(
        id=asking.ids.new("a_"),
        binding=binding,
        call_id=call.id,
        tool=call.tool.name,
        tool_digest=call.tool.digest,
        tenant=principal.tenant,
        owner=principal.key,
        agent=principal.agent,
        user=principal.user,
        token_id=principal.token_id,
        session=call.caller.session.uid,
        needs=tuple(needs),
        asked_at=now,
        expires_at=now + min(each.ttl for each in needs),
        arguments=dict(call.arguments),
        preview=preview,
        actors=principal.actors,
    )
    kept = await asking.approvals.ask(fresh, MOST)
    if kept.id == fresh.id:
        await asking.ledger.append(_requested(kept, call, asking.ledger))
        if asking.notices is not None:
            asking.notices.asked(kept)
    return kept


def _requested(parked: Parked, call: Call, ledger: ports.Ledger) -> ports.Line:
    fields = named(parked) | {
        "session_id": call.caller.session.id,
        "args_digest": ledger.digest(parked.tenant, strictjson.canonical(dict(call.arguments))),
        "needs": [{"rule": each.rule, "by": list(each.by), "ttl": each.ttl} for each in parked.needs],
        "expires_at": parked.expires_at,
    }
    content: dict[str, Json] = {"arguments": parked.arguments}
    if parked.preview is not None:
        content["preview"] = {"text": parked.preview.text, "etag": parked.preview.etag}
    return ports.Line("approval.requested", fields, content, parked.session, parked.tenant)


def named(parked: Parked) -> dict[str, Json]:
    """What identifies a parked call, in the plain of a record."""
    return {
        "approval": {"id": parked.id},
        "call_id": parked.call_id,
        "tenant": parked.tenant,
        "principal": {"agent": parked.agent, "user": parked.user, "token_id": parked.token_id},
        "tool": {"name": parked.tool, "digest": parked.tool_digest},
    }


async def _preview(call: Call, request: Request, asking: Asking) -> Preview | None:
    """What the tool's preview shows now, as a call of its own. One that cannot be had is a refusal: who would say yes
    to what cannot be looked at?"""
    name = call.tool.preview
    if name is None:
        return None
    tool = asking.catalogue.find(name)
    takes = tool.input_schema.get("properties") if tool else None
    names = call.arguments.keys() & takes.keys() if isinstance(takes, dict) else ()
    asked = Request(
        asking.new_call_id(),
        name,
        {key: call.arguments[key] for key in sorted(names)},
        request.credential,
        call.caller.session.id,
        trace=request.trace,
        parent=request.parent,
        cause=call.id,
    )
    shown = await asking.handle(asked)
    if shown.status != "done":
        code = shown.problem.code if shown.problem else shown.status
        detail = f"Nothing ran: the preview that people are shown before they say yes could not be had ({code})."
        raise Refusal(problem("upstream_unreachable", detail))
    seen = hashlib.sha256(strictjson.canonical([shown.text, shown.structured])).hexdigest()
    more = len(shown.text) - PREVIEWED
    cut = f"\n… ({more} more characters)" if more > 0 else ""
    return Preview(shown.text[:PREVIEWED] + cut, shown.etag or f"sha256:{seen}")
