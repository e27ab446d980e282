"""Stage 5: the sole maker of `Permit`. It never asks twice and never permits what the decision forbids."""

from __future__ import annotations

from gateway.model import Decision, Effect, Permit, Refusal
from gateway.problems import problem


async def approve(decision: Decision) -> Permit:
    """The permit of a permitting decision. (What would ask a person is refused when policies are loaded.)

    Raises:
        Refusal: the decision's own problem.
    """
    if decision.effect is not Effect.PERMIT:
        raise Refusal(decision.problem or problem("no_permit", "No rule permits this call."))
    return Permit(decision)
