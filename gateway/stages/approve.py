"""Stage 5: the sole maker of `Permit`. It never permits what the decision forbids, nor what needs a yes it has not got.

Nobody can be asked yet, so a call whose permits require an approval is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model import Decision, Effect, Permit, Problem, Refusal
from gateway.obligations import Approval
from gateway.problems import problem


async def approve(decision: Decision) -> Permit:
    """The permit of a permitting decision.

    Raises:
        Refusal: the decision's own problem; `policy_error` when somebody would have to be asked.
    """
    if decision.effect is not Effect.PERMIT:
        raise Refusal(decision.problem or problem("no_permit", "No rule permits this call."))
    if decision.obligations.approvals:
        raise Refusal(_unanswered(decision.obligations.approvals))
    return Permit(decision)


def _unanswered(approvals: Sequence[Approval]) -> Problem:
    by = ", and one by ".join(" or ".join(each.by) for each in approvals)
    rules = " and ".join(dict.fromkeys(each.rule for each in approvals))
    return problem("policy_error", f"This call needs a yes by {by}, and nobody can be asked yet.", rule=rules)
