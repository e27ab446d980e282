"""That a budget is nearly used up, said once, in the answer to the call that brought it there, and on record; and what
clients report that they used themselves. It refuses no call."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.admission import Amounts, Bounds, Dimension, Taken, Warned
from gateway.model import Caller
from gateway.ports import Clock, Counters, Ledger, Line, Sessions
from gateway.problems import refuse
from gateway.reliability.budgets import accounts, in_words, nearly, warns
from gateway.reliability.watch import Told
from gateway.stages.opened import Opened
from gateway.tool import Json


def warn(opened: Opened, told: Told, taken: Taken, spent: Amounts) -> None:
    """Notes which accounts are nearly used up, now that it is known what the call really took of what it was granted.

    One that passed the mark only for as long as the call ran is not told of: a later call will pass it again.
    """
    for each in taken.warned:
        used = each.used - taken.granted.get(each.dimension, 0) + spent.get(each.dimension, 0)
        settled = Warned(each.account, each.dimension, used)
        if opened.caller is not None and warns(each.account, each.dimension, -1, used) and told.first(settled):
            opened.notes.append(nearly(settled))
            opened.beside.append(line_of_warning(settled, opened.caller, {"call_id": opened.request.call_id}))


def shortened(wants: Amounts, granted: Amounts, *, in_time: bool) -> list[str]:
    """What the caller is told of a result that was cut, or of work that was ended, where a budget gave less than the
    call might have used."""
    names: tuple[Dimension, ...] = ("wall", "sandbox") if in_time else ("bytes",)
    less = [name for name in names if granted.get(name, 0) < wants.get(name, 0)]
    left = in_words({name: granted.get(name, 0) for name in less})
    if not left:
        return []
    if in_time:
        return [f"A budget had {min(left.values()):g} s left for this call."]
    return [f"The result was cut at the {left['bytes']:g} bytes that were left of a budget."]


async def report_tokens(
    caller: Caller,
    tokens: int,
    sessions: Sessions,
    counters: Counters,
    ledger: Ledger,
    bounds: Bounds,
    clock: Clock,
    told: Told,
) -> None:
    """Adds tokens that only the client knows of to the budgets of its session: on record before they count.

    Raises `Refusal`: `session_closed`, `overloaded` when they could not be added, and those of `Ledger.check`.
    """
    session, principal = caller.session, caller.principal
    if not sessions.is_open(session):
        raise refuse("session_closed", "This session is closed, or has expired.")
    await ledger.append(Line("session.usage", {**_whose(caller), "tokens": tokens}))
    drawn = accounts(sessions.line(session.uid) or (session,), principal, bounds, clock.steady())
    for each in await counters.report(drawn, {"tokens": tokens}):
        if told.first(each):
            await ledger.append(line_of_warning(each, caller, {}))


def _whose(caller: Caller) -> dict[str, Json]:
    principal = caller.principal
    return {
        "tenant": principal.tenant,
        "principal": {"agent": principal.agent, "user": principal.user},
        "session_id": caller.session.id,
    }


def line_of_warning(warned: Warned, caller: Caller, more: Mapping[str, Json]) -> Line:
    """The record of it. Amounts are in the words of a file."""
    dimension = warned.dimension
    return Line(
        "budget.warned",
        {
            **_whose(caller),
            "over": warned.account.name,
            "account": warned.account.key,
            "dimension": dimension,
            "used": in_words({dimension: warned.used})[dimension],
            "most": in_words({dimension: warned.account.most[dimension]})[dimension],
            **more,
        },
    )
