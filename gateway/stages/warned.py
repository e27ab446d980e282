"""That a budget is nearly used up, said once: in the answer to the call that brought it there, and on record."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.admission import Amounts, Taken, Warned
from gateway.model import Caller
from gateway.ports import Line
from gateway.reliability.budgets import in_words, nearly, warns
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


def line_of_warning(warned: Warned, caller: Caller, more: Mapping[str, Json]) -> Line:
    """The record of it. Amounts are in the words of a file."""
    principal, session, dimension = caller.principal, caller.session, warned.dimension
    return Line(
        "budget.warned",
        {
            "tenant": principal.tenant,
            "principal": {"agent": principal.agent, "user": principal.user},
            "session_id": session.id,
            "over": warned.account.name,
            "account": warned.account.key,
            "dimension": dimension,
            "used": in_words({dimension: warned.used})[dimension],
            "most": in_words({dimension: warned.account.most[dimension]})[dimension],
            **more,
        },
    )
