"""What sessions may use up: calls and declared cost, taken when a call is admitted. It keeps nothing on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gateway.lifetimes import Used
from gateway.model import Session

DIMENSIONS = ("calls", "cost")
_ROUNDING = 1e-9  # three times 0.1 are no more than 0.3


_NOTHING = Used()


class Budgets:
    """What is used up, by the `uid` of a session. All or nothing, and never more than a budget has."""

    def __init__(self) -> None:
        self._used: dict[str, Used] = {}

    def used(self, uid: str) -> Used:
        return self._used.get(uid, _NOTHING)

    def put(self, uid: str, used: Used) -> None:
        """Sets what is used up, as it was kept."""
        self._used[uid] = used

    def forget(self, uid: str) -> None:
        """Drops what is known of a session that is gone."""
        self._used.pop(uid, None)

    def take(self, line: Sequence[Session], cost: float) -> str | None:
        """Takes one call out of the budgets of `line`, a session and those above it, nearest first.

        Where one has not enough left nothing is taken, and the sentence for the caller says what is used up.
        """
        for number, each in enumerate(line):
            said = _lacks(each.budget, self.used(each.uid), cost)
            if said is not None:
                whose = "a session above this one" if number else "this session"
                return f"The budget of {whose} is used up: {said}."
        for each in line:
            self._add(each.uid, 1, cost)
        return None

    def give_back(self, line: Sequence[Session], cost: float) -> None:
        """A call that was taken out did not happen."""
        for each in line:
            self._add(each.uid, -1, -cost)

    def _add(self, uid: str, calls: int, cost: float) -> None:
        before = self.used(uid)
        self._used[uid] = Used(before.calls + calls, before.cost + cost)


def unfit(budget: Mapping[str, float]) -> str | None:
    """What is wrong with a budget that somebody asks for; None when nothing is."""
    for name, most in budget.items():
        if name not in DIMENSIONS:
            return f"{name[:64]!r} is not supported yet, only {' and '.join(DIMENSIONS)} are"
        if not 0 <= most < math.inf or (name == "calls" and most != int(most)):
            return f"{name} is a number, 0 or more" if name == "cost" else f"{name} is a whole number, 0 or more"
    return None


def beyond(budget: Mapping[str, float], line: Sequence[Session]) -> str | None:
    """What of a budget is more than a session of `line` has, in which it is to be opened; None when nothing is."""
    for name, most in budget.items():
        above = min((each.budget[name] for each in line if name in each.budget), default=most)
        if most > above:
            return f"{name} is {most:g}, and the session above has {above:g}"
    return None


def _lacks(budget: Mapping[str, float], used: Used, cost: float) -> str | None:
    if "calls" in budget and used.calls + 1 > budget["calls"]:
        return f"it is for {budget['calls']:g} calls, and {used.calls} were made or are under way"
    if "cost" in budget and used.cost + cost > budget["cost"] + _ROUNDING:
        return f"it is for a cost of {budget['cost']:g}, {used.cost:g} are spent or under way, and this costs {cost:g}"
    return None
