"""Two bundles at once: the live one decides, a candidate is heard. Pure; the candidate never changes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.aggregates import Cell, Entry, Level
from gateway.model import Call, Decision, Effect, Principal, Reason
from gateway.ports import Bundle
from gateway.tool import Tool


@dataclass(frozen=True, slots=True)
class Paired:
    """`ports.Bundle`: all of `live`, and in each decision's `shadow` the whole decision `candidate` would have made.

    A decision has room for one other. With a candidate that is the candidate's, told by its digest, and not the one
    with the live bundle's own shadow rules in force: who sets a candidate asks about that, and it can hold the same
    rules. The candidate's own shadow rules are in shadow there too.

    What is admitted adds to the past that either of them declares, so that the candidate knows what it would by then.
    `silent`: that is all it does yet. So a bundle that is about to take the place of another misses no call.
    """

    live: Bundle
    candidate: Bundle
    silent: bool = False

    @property
    def digest(self) -> str:
        """The live bundle's: what is enforced."""
        return self.live.digest

    def cells(self, call: Call) -> Sequence[Cell]:
        """What of the past either reads."""
        if self.silent:
            return self.live.cells(call)
        return list({cell.key: cell for each in (self.candidate, self.live) for cell in each.cells(call)}.values())

    def entries(self, call: Call) -> Sequence[Entry]:
        """What this call adds to the past of either, once it is admitted."""
        return _joined(self.live.entries(call), self.candidate.entries(call))

    def decide(self, call: Call, levels: Mapping[str, Level]) -> Decision:
        """The live decision, with the candidate's beside it."""
        decided = self.live.decide(call, levels)
        return self._counted(decided) if self.silent else self._beside(decided, self.candidate.decide(call, levels))

    def explain(self, call: Call, levels: Mapping[str, Level]) -> Decision:
        """The same decision, both halves with every clause of every rule that was looked at."""
        decided = self.live.explain(call, levels)
        return self._counted(decided) if self.silent else self._beside(decided, self.candidate.explain(call, levels))

    def visible(self, principal: Principal) -> frozenset[str]:
        """What the live bundle lists."""
        return self.live.visible(principal)

    def near(self, tool: Tool, principal: Principal) -> Sequence[Reason]:
        """The rules of the live bundle about a tool that do not meet the caller, or hide the tool from it."""
        return self.live.near(tool, principal)

    def _beside(self, decided: Decision, heard: Decision) -> Decision:
        return replace(self._counted(decided), shadow=replace(heard, shadow=None))

    def _counted(self, decided: Decision) -> Decision:
        if decided.effect is Effect.FORBID:  # nothing happens, so neither past grows
            return decided
        return replace(decided, reserves=_joined(decided.reserves, self.candidate.entries(decided.call)))


def _joined(ours: Sequence[Entry], theirs: Sequence[Entry]) -> tuple[Entry, ...]:
    """Both, each cell once: one key is one definition, so what a call adds to it is the same."""
    known = {entry.cell.key for entry in ours}
    return (*ours, *(entry for entry in theirs if entry.cell.key not in known))
