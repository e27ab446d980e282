"""A gateway in front of real backends that fail on command, with all it has to stand that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gateway.loading import load_files
from gateway.model import Outcome, Principal
from gateway.reliability.breaker import Breakers, Standing
from gateway.reliability.cache import ResultCache
from gateway.reliability.resilience import Resilience
from gateway.reliability.retry import RetryBudgets
from gateway.runners.http import HttpRunner
from gateway.runners.net import Egress, Net
from gateway.tool import HttpBackend, Json, SecretUse
from tests.gateway.runners.servers import Reply, Upstream, http
from tests.kit import Lab, of_calls

TOOL = """
apiVersion: toolgate/v1
kind: Tool
name: NAME
version: 1.0.0
description: Looks something up.
input_schema: {type: object, properties: {what: {type: string}}, required: [what]}
effects: [read]
timeout: 5s
runner: {http: {method: GET, url: "http://127.0.0.1:PORT/{what}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: all-ok, effect: permit, match: {tools: ["*"], agents: ["*"]}}
"""
JSON = http(b'{"said": "hello"}', kind="application/json")
BROKEN = http(b"oh no", status="500 Oh No")


async def hang(_: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.sleep(3600)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Takes the request, and ends the connection."""
    writer.close()


class CountedVault:
    """Credentials that are counted when they are fetched."""

    def __init__(self) -> None:
        self.asked = 0

    async def reveal(self, use: SecretUse, holder: object) -> str:
        self.asked += 1
        return f"value-of-{use.name}"


class MovedClock:
    """The machine's time, which a test may let run ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    steady = monotonic


@dataclass
class Failing:
    """The gateway, its backends by port, and what it told of them."""

    lab: Lab
    vault: CountedVault
    clock: MovedClock
    breakers: Breakers
    told: list[Standing]

    async def call(self, tool: str, what: str = "x", by: str = "dev", **more: Json) -> Outcome:
        """One call."""
        return await self.lab.call(tool, {"what": what}, by, **more)

    async def codes(self, tool: str, times: int, what: str = "x") -> list[str | None]:
        """The codes of so many calls, one after the other."""
        outcomes = [await self.call(tool, what) for _ in range(times)]
        return [outcome.problem.code if outcome.problem else None for outcome in outcomes]

    def stranger(self, tenant: str, agent: str = "dev", by: str | None = None) -> None:
        """Another caller, whose credential is the tenant's name unless it is named."""
        known = self.lab.trial.authority.principals
        known[by or tenant] = Principal(agent, tenant, scopes=frozenset({"agent"}), token_id=f"k_{by or tenant}")

    def outcomes(self) -> list[Mapping[str, Json]]:
        """The outcomes and refusals on record."""
        lines = of_calls(self.lab.trial.ledger.lines)
        return [line.fields for line in lines if line.type in ("call.outcome", "call.refused")]


def failing(
    tools: Mapping[str, tuple[Upstream | int, str]],
    policy: str = POLICY,
    edit: Callable[[str], str] = str,
) -> Failing:
    """A gateway over tools, by name: the backend or the port, and more lines of the spec. Inside a running loop."""
    specs = {
        f"{name}.yaml": edit(TOOL.replace("NAME", name).replace("PORT", str(at if isinstance(at, int) else at.port)))
        + more
        for name, (at, more) in tools.items()
    }
    loaded = load_files({name: text.encode() for name, text in specs.items()}, {"lab.yaml": policy.encode()})
    lab, vault, clock, told = Lab.over(loaded), CountedVault(), MovedClock(), list[Standing]()
    breakers = Breakers(clock, told.append)
    parts = Resilience(breakers, RetryBudgets(), ResultCache(clock.monotonic), lambda: 0.5)
    net = Net(Egress(), vault, clock.monotonic)
    lab.gate = replace(lab.gate, runners={HttpBackend: HttpRunner(net)}, clock=clock, resilience=parts)
    return Failing(lab, vault, clock, breakers, told)


__all__ = ["BROKEN", "JSON", "Failing", "Reply", "Upstream", "failing", "hang", "hang_up", "http"]
