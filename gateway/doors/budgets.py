"""The route `GET /v1/budgets`: what is used of those that settings give a tenant and its principals, for operators."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.admission import Account
from gateway.model import Principal
from gateway.pipeline import Gate
from gateway.ports import Counters
from gateway.problems import refuse
from gateway.reliability.budgets import in_words, of_settings, window_of
from gateway.tool import Json

Name = Annotated[str, Field(min_length=1, max_length=256)]


class Whose(BaseModel):
    """Of which principal besides the tenant; of the tenant alone when nothing is said."""

    model_config = ConfigDict(extra="forbid")

    agent: Name | None = None
    user: Name | None = None


def add_budgets(app: FastAPI, gate: Gate, known: Callable[[Request], Any]) -> None:
    """Adds the route. `known` gives who asks."""

    @app.get("/v1/budgets")
    async def budgets(
        principal: Annotated[Principal, Depends(known)], whose: Annotated[Whose, Query()]
    ) -> JSONResponse:
        """The budgets of the operator's tenant, and of one principal in it."""
        if "operator" not in principal.scopes:
            raise refuse("insufficient_scope", "What a tenant has used up is shown to operators.")
        of = Principal(whose.agent or "", principal.tenant, whose.user)
        drawn = of_settings(of, gate.bounds, gate.clock.steady())
        found = [each for each in drawn if each.name == "tenant" or whose.agent is not None]
        return JSONResponse({"budgets": await standing_of(found, gate.counters)})


async def standing_of(accounts: Sequence[Account], counters: Counters) -> list[Json]:
    """Accounts as they stand, in the words of settings; `within` in seconds, null for good.

    What is under way counts with all that it may use.
    """
    used = await counters.used([each.key for each in accounts])
    return [
        {
            "over": each.name,
            "within": window_of(each),
            "most": in_words(each.most),
            "used": {**dict.fromkeys(in_words(each.most), 0.0), **in_words(used[each.key])},
        }
        for each in accounts
    ]
