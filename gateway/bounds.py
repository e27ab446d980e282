"""What holds for every call, as settings say it: rates, budgets, how many at once, how often the same again.

It never counts: `stages/admit.py` asks a store, with what is made of it here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.admission import UNITS, Bounds, Budget
from gateway.policy.quantities import Duration, RateText, Size
from gateway.reliability.budgets import in_units, unfit


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetShape(_Part):
    """What may be used up, over whom, in windows of `within` (for good without it)."""

    over: Literal["session", "principal", "tenant"]
    within: Duration | None = None
    calls: Annotated[int, Field(ge=0)] | None = None
    cost: Annotated[float, Field(ge=0)] | None = None
    wall: Duration | None = None
    sandbox: Duration | None = None
    bytes: Size | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _countable(self) -> BudgetShape:
        if not self._given():
            raise ValueError(f"a budget says how much of what: {', '.join(UNITS)}")
        if said := unfit(self._given()):
            raise ValueError(said)
        return self

    def _given(self) -> dict[str, float]:
        return self.model_dump(exclude={"over", "within"}, exclude_none=True)

    @property
    def budget(self) -> Budget:
        """The same, as it is counted."""
        return Budget(self.over, in_units(self._given()), self.within)


def merged(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """One budget for each owner and window, with the least that several say: what is used is counted once."""
    found: dict[tuple[str, float | None], Budget] = {}
    for each in budgets:
        there = found.get((each.over, each.within), each)
        names = there.most.keys() | each.most.keys()
        most = {
            name: min(said.most[name] for said in (there, each) if name in said.most) for name in UNITS if name in names
        }
        found[each.over, each.within] = Budget(each.over, most, each.within)
    return tuple(found.values())


class Limits(_Part):
    """How much callers may ask of the gateway."""

    rates: Annotated[
        dict[Literal["session", "principal", "tenant", "tool", "all"], RateText],
        Field(description="Calls in a time, as `60/1m`, by `session`, `principal`, `tenant`, `tool` and `all`."),
    ] = {}
    budgets: Annotated[
        list[BudgetShape],
        Field(max_length=16, description="What may be used up: `over` session, principal or tenant, `within` a time."),
    ] = []
    concurrency: Annotated[
        int, Field(ge=1, le=100_000, description="Calls of one principal to one tool at once, unless its spec says.")
    ] = 256
    bulkhead: Annotated[int, Field(ge=1, le=100_000, description="Calls of one tool at once, of all callers.")] = 512
    repeats: Annotated[
        int,
        Field(ge=0, le=100_000, description="Calls in a row that bring nothing new, in one session; 0 for no bound."),
    ] = 100
    inflight: Annotated[
        int, Field(ge=1, le=100_000, description="Requests under way at once; more are refused at the door.")
    ] = 1024

    @property
    def bounds(self) -> Bounds:
        """The same, for the stages."""
        return Bounds(
            rates={str(over): rate for over, rate in self.rates.items()},
            budgets=merged([each.budget for each in self.budgets]),
            concurrency=self.concurrency,
            bulkhead=self.bulkhead,
            repeats=self.repeats,
        )
