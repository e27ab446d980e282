"""What a permit requires of the later stages: the nouns of obligations. `policy/obligations.py` merges them.

It never carries an obligation out: the stages and runners do, each its own, and what none can honour is a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.tool import Labels, Rate

Injection = Literal["allow", "flag", "redact", "quarantine", "block"]
Recorded = Literal["metadata", "request", "request_response"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate obligation: its own bucket, keyed by the rule and by the session, agent, user or tenant."""

    rule: str
    key: Literal["session", "agent", "user", "tenant"]
    rate: Rate


@dataclass(frozen=True, slots=True)
class Approval:
    """A person has to say yes to this call. `by`: `requester` (a confirmation), `user:NAME`, `group:NAME`; ttl in s."""

    rule: str
    by: tuple[str, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class Obligations:
    """What the permit requires of the later stages, merged strictest-wins. `None` or empty asks nothing.

    `timeout` in seconds, `output` in bytes. `backends` is the set of sandboxes that may run the call. `networks` are
    lists of allow entries (`GET https://host/path/**`): a request must match an entry of *each*. `injection` is the
    least that is done about injection found, `redact` the kinds of values taken out of a result. `cache` is False where
    no cached result will do. `origin` names for each key the rules it came from.
    """

    timeout: float | None = None
    output: int | None = None
    labels: Labels = frozenset()
    limits: tuple[Limit, ...] = ()
    record: Recorded = "request_response"
    backends: frozenset[str] | None = None
    require: frozenset[str] = frozenset()
    networks: tuple[tuple[str, ...], ...] = ()
    injection: Injection | None = None
    redact: frozenset[str] = frozenset()
    cache: bool = True
    approvals: tuple[Approval, ...] = ()
    origin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
