"""The call of a case explained, over loaded files and the past that the case tells. Nothing runs or is on record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.aggregates import Cell, Level
from gateway.loading import ToolCatalogue
from gateway.policy.bundle import PolicyBundle
from gateway.policy.cases import NOW, Case, tell
from gateway.policy.explain import Form
from gateway.reliability.cells import Cells
from gateway.stages.authenticate import suppose
from gateway.stages.explain import explain


def explain_case(case: Case, bundle: PolicyBundle) -> Form:
    """The explained decision on the case's call (`policy/explain.py`), with `lines`. Raises `Misfit`: its history."""
    past = Cells()
    tell(case, bundle, bundle.tools, past.reserve, past.settle)
    caller, tools = suppose(case.principal, case.session), ToolCatalogue(list(bundle.tools.values()))

    async def look(cells: Sequence[Cell], now: float) -> Mapping[str, Level]:
        return past.look(cells, now)

    return asyncio.run(explain(caller, case.tool, case.arguments, tools, bundle, look, NOW))
