"""What a rule says of one argument (`Bound`), and values beyond it, to show that they are refused (`Beyond`)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.tool import Json


@dataclass(frozen=True, slots=True)
class Beyond:
    """A value that was not seen: in place of what stands at `path` below the argument. `what` names it for a test."""

    what: str
    path: tuple[str, ...]
    value: Json


@dataclass(frozen=True, slots=True)
class Bound:
    """Clauses that all seen values keep. `silent` names what nothing is said of."""

    clauses: tuple[str, ...] = ()
    beyond: tuple[Beyond, ...] = ()
    silent: tuple[str, ...] = ()
