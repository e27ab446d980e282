"""The obligation lattice: what several permits require together. Strictest wins; order-free and idempotent.

It never carries an obligation out: later stages do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, TypeVar

from gateway.obligations import Limit, Obligations
from gateway.policy.shapes import WithShape

N = TypeVar("N", int, float)
E = TypeVar("E")
Origin = dict[str, tuple[str, ...]]
BACKENDS, REQUIRE = "sandbox.backends", "sandbox.require"
_RECORD: dict[Literal["metadata", "request", "request_response"], int] = {
    "metadata": 0,
    "request": 1,
    "request_response": 2,
}


def obligations_of(rule: str, shape: WithShape | None) -> Obligations:
    """What one permit requires, each key remembering the rule. A rule that is silent on `record` wants all of it."""
    if shape is None:
        return Obligations()
    sandbox = shape.sandbox
    given = {
        "timeout": shape.timeout is not None,
        "limits.output": shape.limits is not None,
        "limit": shape.limit is not None,
        "label": bool(shape.label),
        "record": shape.record is not None,
        BACKENDS: sandbox is not None and sandbox.backends is not None,
        REQUIRE: sandbox is not None and bool(sandbox.require),
    }
    return Obligations(
        timeout=shape.timeout,
        output=shape.limits.output if shape.limits else None,
        labels=frozenset(shape.label),
        limits=(Limit(rule, shape.limit.key, shape.limit.calls),) if shape.limit else (),
        record=shape.record or "request_response",
        backends=frozenset(sandbox.backends) if sandbox and sandbox.backends else None,
        require=frozenset(sandbox.require) if sandbox else frozenset(),
        origin={key: (rule,) for key, is_given in given.items() if is_given},
    )


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
        record=_most(a, b, origin),
        backends=_common(a, b, origin),
        require=_union(REQUIRE, a.require, b.require, a, b, origin),
        origin=origin,
    )


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


def _most(a: Obligations, b: Obligations, origin: Origin) -> Literal["metadata", "request", "request_response"]:
    if a.record == b.record:
        _from("record", origin, a, b)
        return a.record
    more = a if _RECORD[a.record] > _RECORD[b.record] else b
    _from("record", origin, more)
    return more.record


def _common(a: Obligations, b: Obligations, origin: Origin) -> frozenset[str] | None:
    _from(BACKENDS, origin, a, b)
    if a.backends is None or b.backends is None:
        return b.backends if a.backends is None else a.backends
    return a.backends & b.backends
