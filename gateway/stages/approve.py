"""Stage 5: the sole maker of `Permit`. It never asks twice and never permits what the decision forbids."""

from __future__ import annotations

from gateway.model import Decision, Effect, Permit, Refusal
from gateway.problems import problem
from gateway.tool import SandboxBackend


async def approve(decision: Decision) -> Permit:
    """The permit of a permitting decision whose obligations this call can meet.

    Raises:
        Refusal: the decision's own problem, or `policy_error` when the tool's backend is not one the rules allow.
    """
    if decision.effect is not Effect.PERMIT:
        raise Refusal(decision.problem or problem("no_permit", "No rule permits this call."))
    backends = decision.obligations.backends
    backend = decision.call.tool.backend
    if backends is not None and (not isinstance(backend, SandboxBackend) or backend.backend not in backends):
        raise Refusal(problem("policy_error", "The rules permit this call only in a sandbox the tool does not use."))
    return Permit(decision)
