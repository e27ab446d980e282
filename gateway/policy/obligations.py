"""The obligation lattice: what several permits require together. Strictest wins; order-free and idempotent.

It never carries an obligation out: later stages do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TypeVar

from gateway.obligations import Approval, Injection, Limit, Obligations, Recorded
from gateway.policy.shapes import ScreenShape, WithShape

N = TypeVar("N", int, float)
E = TypeVar("E")
W = TypeVar("W")
Origin = dict[str, tuple[str, ...]]
BACKENDS, REQUIRE, APPROVAL = "sandbox.backends", "sandbox.require", "approval"
# From the mildest to the strictest.
_RECORD: tuple[Recorded, ...] = ("metadata", "request", "request_response")
_INJECTION: tuple[Injection | None, ...] = (None, "allow", "flag", "redact", "quarantine", "block")
_CACHE = (True, False)


def obligations_of(rule: str, shape: WithShape | None) -> Obligations:
    """What one permit requires, each key remembering the rule. A rule that is silent on `record` wants all of it.

    An approval is in it whether it has a `when` or not: where the `when` is false, `unasked` takes it out.
    """
    if shape is None:
        return Obligations()
    sandbox, screen = shape.sandbox, shape.screen or ScreenShape()
    given = {
        "timeout": shape.timeout is not None,
        "limits.output": shape.limits is not None,
        "limit": shape.limit is not None,
        "label": bool(shape.label),
        "record": shape.record is not None,
        BACKENDS: sandbox is not None and sandbox.backends is not None,
        REQUIRE: sandbox is not None and bool(sandbox.require),
        "network": shape.network is not None,
        "screen.injection": screen.injection is not None,
        "screen.redact": bool(screen.redact),
        "cache": shape.cache is not None,
        APPROVAL: shape.approval is not None,
    }
    return Obligations(
        timeout=shape.timeout,
        output=shape.limits.output if shape.limits else None,
        labels=frozenset(shape.label),
        limits=(Limit(rule, shape.limit.key, shape.limit.calls),) if shape.limit else (),
        record=shape.record or "request_response",
        backends=frozenset(sandbox.backends) if sandbox and sandbox.backends else None,
        require=frozenset(sandbox.require) if sandbox else frozenset(),
        networks=(tuple(sorted(set(shape.network.allow))),) if shape.network else (),
        injection=screen.injection,
        redact=frozenset(screen.redact),
        cache=shape.cache != "off",
        approvals=_approvals(rule, shape),
        origin={key: (rule,) for key, is_given in given.items() if is_given},
    )


def unasked(obligations: Obligations) -> Obligations:
    """The obligations of one rule whose approval need not be asked for this call. To be merged after, never before."""
    if not obligations.approvals:
        return obligations
    origin = {key: rules for key, rules in obligations.origin.items() if key != APPROVAL}
    return replace(obligations, approvals=(), origin=origin)


def merge(several: Sequence[Obligations]) -> Obligations:
    """What all of them require together. `backends` comes out empty when no sandbox suits every rule."""
    return reduce(_join, several) if several else Obligations()


def _join(a: Obligations, b: Obligations) -> Obligations:
    origin: Origin = {}
    return Obligations(
        timeout=_least("timeout", a.timeout, b.timeout, a, b, origin),
        output=_least("limits.output", a.output, b.output, a, b, origin),
        labels=_union("label", a.labels, b.labels, a, b, origin),
        limits=tuple(sorted(_union("limit", frozenset(a.limits), frozenset(b.limits), a, b, origin), key=_place)),
        record=_most("record", a.record, b.record, _RECORD, a, b, origin),
        backends=_common(a, b, origin),
        require=_union(REQUIRE, a.require, b.require, a, b, origin),
        networks=tuple(sorted(_union("network", frozenset(a.networks), frozenset(b.networks), a, b, origin))),
        injection=_most("screen.injection", a.injection, b.injection, _INJECTION, a, b, origin),
        redact=_union("screen.redact", a.redact, b.redact, a, b, origin),
        cache=_most("cache", a.cache, b.cache, _CACHE, a, b, origin),
        approvals=_asked(_union(APPROVAL, frozenset(a.approvals), frozenset(b.approvals), a, b, origin)),
        origin=origin,
    )


def _approvals(rule: str, shape: WithShape) -> tuple[Approval, ...]:
    asked = shape.approval
    return (Approval(rule, tuple(sorted(set(asked.by))), asked.ttl),) if asked else ()


def _asked(approvals: frozenset[Approval]) -> tuple[Approval, ...]:
    """Every rule's own, all for as long as the shortest holds."""
    ttl = min((each.ttl for each in approvals), default=0.0)
    return tuple(sorted({replace(each, ttl=ttl) for each in approvals}, key=lambda each: (each.rule, each.by)))


def _place(limit: Limit) -> tuple[str, str, int, float]:
    return limit.rule, limit.key, limit.rate.calls, limit.rate.per


def _from(key: str, origin: Origin, *sides: Obligations) -> None:
    rules = sorted({rule for side in sides for rule in side.origin.get(key, ())})
    if rules:
        origin[key] = tuple(rules)


def _least(key: str, x: N | None, y: N | None, a: Obligations, b: Obligations, origin: Origin) -> N | None:
    if x is None or y is None or x == y:
        _from(key, origin, a, b)
        return y if x is None else x
    _from(key, origin, a if x < y else b)
    return min(x, y)


def _union(key: str, x: frozenset[E], y: frozenset[E], a: Obligations, b: Obligations, origin: Origin) -> frozenset[E]:
    _from(key, origin, a, b)
    return x | y


def _most(key: str, x: W, y: W, order: Sequence[W], a: Obligations, b: Obligations, origin: Origin) -> W:
    """The stricter of two words: the one that stands later in `order`."""
    if x == y:
        _from(key, origin, a, b)
        return x
    first = order.index(x) > order.index(y)
    _from(key, origin, a if first else b)
    return x if first else y


def _common(a: Obligations, b: Obligations, origin: Origin) -> frozenset[str] | None:
    _from(BACKENDS, origin, a, b)
    if a.backends is None or b.backends is None:
        return b.backends if a.backends is None else a.backends
    return a.backends & b.backends
