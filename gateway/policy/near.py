"""The rules about a tool that do not meet a caller: why it is hidden from one, and whom its permits are for.

For explaining only: it never decides, and `bundle.py` lists without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.model import Clause, Effect, Principal, Reason
from gateway.policy.rules import Globs, Match, Part, Rule
from gateway.tool import Json

MATCH = "match."  # how the text of a clause begins that is a key of `match`
_CLOSED = Clause("no permit of this part is for the caller", "true")


def near(rules: Iterable[Rule], parts: Iterable[Part], principal: Principal) -> tuple[Reason, ...]:
    """Each with the keys of its `match` as clauses: what hides the tool, then permits that are for other callers.

    rules: those about the tool. parts: all of them; what is in shadow hides nothing and permits nothing. A boundary
    without a permit for this caller stands as a forbid under the part's name.
    """
    rules = tuple(rule for rule in rules if not (rule.shadow or rule.part.shadow))
    met = [rule for rule in rules if rule.part.covers(principal) and rule.match.takes_principal(principal)]
    hiding = [
        Reason(rule.id, rule.source, Effect.FORBID, "true", (), rule.message)
        for rule in met
        if rule.effect is Effect.FORBID and not rule.conditions
    ]
    permitting = [rule for rule in met if rule.effect is Effect.PERMIT]
    closed = [
        Reason(part.id, part.source, Effect.FORBID, "true", (_CLOSED,))
        for part in parts
        if part.boundary
        and not part.shadow
        and part.covers(principal)
        and permitting
        and not any(r.part is part for r in permitting)
    ]
    others = [
        Reason(rule.id, rule.source, Effect.PERMIT, "false", tuple(_keys(rule, principal)))
        for rule in rules
        if rule.effect is Effect.PERMIT and rule not in met
    ]
    return (*hiding, *closed, *others)


def own(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Those of `near` that are about the caller's tenant: what others have is not for its operators."""
    foreign = (f"{MATCH}tenant ", f"{MATCH}tenants ")
    return tuple(
        reason
        for reason in reasons
        if not any(clause.result == "false" and clause.text.startswith(foreign) for clause in reason.clauses)
    )


def _keys(rule: Rule, principal: Principal) -> Iterator[Clause]:
    """The keys of `match` that are about callers, the part's tenant among them."""
    match, part = rule.match, rule.part
    if part.tenant is not None:
        yield _clause("tenants", (part.tenant,), part.covers(principal), "tenant", principal.tenant)
    for key, globs, name, shown in (
        ("tenants", match.tenants, "tenant", principal.tenant),
        ("agents", match.agents, "agent", principal.agent),
        ("users", match.users, "user", principal.user),
        ("groups", match.groups, "groups", sorted(principal.groups)),
    ):
        if globs is not None:
            alone = Match(**{key: globs})
            yield _clause(key, globs, alone.takes_principal(principal), name, shown)


def _clause(key: str, globs: Globs, met: bool, name: str, shown: Json) -> Clause:
    words = f"{key} {', '.join(globs)}" if len(globs) > 1 else f"{key.removesuffix('s')} {globs[0]}"
    return Clause(f"{MATCH}{words}", "true" if met else "false", {f"principal.{name}": shown})
