"""Who may answer for a parked call, and the answer itself, on record before it counts. It lets no call through.

Persons are compared, not keys: whoever a call is made for approves nothing of it, by whatever credential.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal, Protocol

from gateway import ports
from gateway.display import line
from gateway.model import Principal
from gateway.obligations import Approval
from gateway.parked import LONGEST_WHY, REQUESTER, Answer, Parked
from gateway.problems import refuse
from gateway.stages.approve import named, present

Via = Literal["rest", "cli", "elicitation"]
OPERATORS = "group:operators"  # whoever has the scope operator
_MAY = frozenset({"operator", "approver"})
_NONE = "There is no approval of that id."
# Letters of other scripts that are drawn like Latin ones, small, as case folding leaves them.
_ALIKE = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458\u0501"  # Cyrillic
    "\u0261\u051b\u051d\u04bb"
    "\u03b1\u03b2\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u03b3\u0251\u0131",  # Greek, IPA, dotless
    "abekmhopctyxsijdgqwhabeikvoptuxyai",
)


class Answering(Protocol):
    """What it takes to answer (`pipeline.Gate`)."""

    @property
    def approvals(self) -> ports.Approvals: ...
    @property
    def ledger(self) -> ports.Ledger: ...
    @property
    def clock(self) -> ports.Clock: ...


async def answer(principal: Principal, approval_id: str, yes: bool, why: str, via: Via, answering: Answering) -> Parked:
    """The parked call with one more answer, to all rules that it still needs and that this person may answer.

    `elicitation` is the requester's own connection: what is said there is a confirmation, and no approval.

    Raises:
        Refusal: `insufficient_scope` for whoever may not answer it, `not_found`, `approval_expired` when it is not
        pending any more; `overloaded` and those of `Ledger.check`, and then nothing was answered.
    """
    if via != "elicitation":
        may_see(principal)
    parked = await answering.approvals.get(principal.tenant, approval_id)
    if parked is None or (via == "elicitation" and parked.owner != principal.key):
        raise refuse("not_found", _NONE)
    if via != "elicitation":
        _must_be_known(principal)
    now = present(answering.clock)
    if parked.standing(now) != "pending":
        raise _over(parked.standing(now))
    rules = tuple(each.rule for each in answerable(principal, parked, via))
    if not rules:
        raise refuse("insufficient_scope", _not_theirs(principal, parked))
    if yes and parked.arguments is None:
        raise _over("erased, and nobody says yes to what cannot be shown")
    said = Answer(yes, rules, principal.user, principal.token_id, now, via, line(why, LONGEST_WHY))
    fields = named(parked) | {
        "yes": yes,
        "rules": list(rules),
        "by": {"person": principal.user, "authn": principal.authn, "token_id": principal.token_id},
        "via": via,
        "at": now,
    }
    content = {"why": said.why} if said.why else None
    session, tenant = (parked.session, parked.tenant) if content else (None, None)
    await answering.ledger.append(ports.Line("approval.decided", fields, content, session, tenant))
    answered = await answering.approvals.answer(parked.tenant, parked.id, said)
    if answered is None:  # somebody else was quicker, or it expired while this was written
        raise _over("over")
    return answered


def answerable(principal: Principal, parked: Parked, via: Via) -> Sequence[Approval]:
    """The rules nobody has said yes for that this person may answer, by this door.

    On the requester's own connection: those that are the requester's alone to confirm.
    """
    if via == "elicitation":
        return parked.to_confirm() if parked.owner == principal.key else ()
    if _is_the_callers_own(principal, parked):
        return []
    names = {f"user:{principal.user}", *(f"group:{name}" for name in principal.groups)}
    if "operator" in principal.scopes:
        names.add(OPERATORS)
    if _asked_for_it(principal, parked):
        names = {REQUESTER} if same_person(principal.user, parked.user) else set()
    return [each for each in parked.open_rules() if names.intersection(each.by)]


async def approvals_of(principal: Principal, approvals: ports.Approvals) -> Sequence[Parked]:
    """Everything of the tenant that is remembered, the oldest first. Raises `Refusal(insufficient_scope)`."""
    may_see(principal)
    return await approvals.all(principal.tenant)


async def approval_of(principal: Principal, approval_id: str, approvals: ports.Approvals) -> Parked:
    """One of the caller's own, or of the tenant for whoever may answer. Raises `Refusal(not_found)` for any other."""
    found = await approvals.get(principal.tenant, approval_id)
    if found is None or not (found.owner == principal.key or principal.scopes & _MAY):
        raise refuse("not_found", _NONE)
    return found


def same_person(one: str | None, other: str | None) -> bool:
    """Whether two names may be of one person: however they are written, so that nobody is two."""
    return one is not None and other is not None and _folded(one) == _folded(other)


def _folded(name: str) -> str:
    """As it looks: compatibility forms, case, letters of other scripts that look the same, and nothing unseen."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(_ALIKE)
    return "".join(each for each in plain if line(each) == each and not each.isspace())


def _asked_for_it(principal: Principal, parked: Parked) -> bool:
    """Whether the person is one of those who made the call: its user, or who acts for that one, by the same name."""
    return any(same_person(principal.user, each) for each in (parked.user, parked.agent, *parked.actors))


def _is_the_callers_own(principal: Principal, parked: Parked) -> bool:
    """Whether who made the call has this credential: the very one, or a token that the same client was given, for
    whomever. A key is of the person who holds it, whatever agent it names."""
    same_client = principal.authn != "api_key" and principal.agent == parked.agent
    return same_client or principal.token_id == parked.token_id


def may_see(principal: Principal) -> None:
    """Raises `Refusal(insufficient_scope)` for whoever may neither see nor answer what waits for a person."""
    if not principal.scopes & _MAY:
        raise refuse("insufficient_scope", "This needs a key with the scope operator or approver.")


def _must_be_known(principal: Principal) -> None:
    """A person answers: known by name, and nobody who only acts for one."""
    if principal.user is None:
        raise refuse("insufficient_scope", "Only a person can answer: use a key that was made with --person NAME.")
    if principal.actors:
        raise refuse("insufficient_scope", "Only the person can answer, and nobody who acts for one.")


def _not_theirs(principal: Principal, parked: Parked) -> str:
    if _is_the_callers_own(principal, parked) or _asked_for_it(principal, parked):
        return "Whoever a call is made for cannot approve it: another person has to."
    return "None of the rules that this call still needs a yes for names you."


def _over(state: str) -> Exception:
    return refuse("approval_expired", f"Nobody can answer it any more: it is {state}.")
