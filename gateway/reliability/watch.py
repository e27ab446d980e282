"""What one gateway remembers of calls beside what stores count: runs that may be loops, and who was warned already.

It is never shared: another gateway, and this one once it was started anew, begins with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission import Warned
from gateway.reliability.loops import Loops

_MOST = 10_000


class Told:
    """Of which accounts it was said already that they are nearly used up, by dimension. Those longest ago go first."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], None] = {}

    def first(self, warned: Warned) -> bool:
        """Whether it was not said before; from now on it was. A new window is an account of its own."""
        key = warned.account.key, warned.dimension
        if key in self._said:
            return False
        self._said[key] = None
        if len(self._said) > _MOST:
            del self._said[next(iter(self._said))]
        return True


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of all sessions."""

    loops: Loops = field(default_factory=Loops)
    told: Told = field(default_factory=Told)
