"""What happens to sessions: how they are asked for, that they begin and end. It does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.model import SESSION_TTL, Session
from gateway.tool import Json, Labels

SPEAKER = "session:request"  # the scope of those who may say what a person asked for


@dataclass(frozen=True, slots=True)
class Change:
    """That a session was opened, or ended, and nobody has put it on record yet.

    `why` it ended: by its caller (`closed`), by an operator (`revoked`, and `who`), with its `parent`, or `expired`.
    """

    kind: Literal["opened", "closed"]
    session: Session
    why: str = ""
    who: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """What is asked of a new session: seconds it lives, the first words of its person, the id of the one above it."""

    labels: Labels = frozenset()
    budget: Mapping[str, float] = field(default_factory=dict)
    ttl: float = SESSION_TTL
    request: str | None = None
    parent: str | None = None
