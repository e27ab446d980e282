"""A whole gateway in memory, for cases: the real pipeline and sandboxes, a canned upstream, a clock that stands still.

It never dials, never writes a file, and never reads a secret.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.loading import Loaded
from gateway.model import Principal
from gateway.pipeline import Gate
from gateway.policy.cases import NOW
from gateway.ports import Runner
from gateway.problems import refuse
from gateway.runners.canned import CannedNet, Upstream
from gateway.runners.fetch import FetchRunner
from gateway.runners.http import HttpRunner
from gateway.runners.sandboxed import SandboxRunner
from gateway.screening import Screener
from gateway.stores.approvals import MemoryApprovals
from gateway.stores.artifacts import MemoryArtifacts
from gateway.stores.counters import MemoryCounters
from gateway.stores.memory import MemoryLedger, MemoryOutcomes
from gateway.stores.sessions import MemorySessions
from gateway.tool import Backend, FetchBackend, HttpBackend, SandboxBackend
from sandboxes.model import Backend as Sandbox


class StillClock:
    """Time that moves only when told to."""

    def __init__(self, now: float = NOW) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def steady(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class CountedIds:
    """Identifiers in a row: the same in every run."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._count):032x}"

    def seed(self) -> int:
        return 7


@dataclass(frozen=True, slots=True)
class GivenAuthority:
    """Knows the principals it was given, by any credential."""

    principals: dict[str | None, Principal] = field(default_factory=dict)

    async def identify(self, credential: str | None) -> Principal:
        principal = self.principals.get(credential)
        if principal is None:
            raise refuse("unauthenticated", "This API key is not valid.")
        return principal


@dataclass(frozen=True, slots=True)
class Trial:
    """A gate in memory and the parts of it a case looks at."""

    gate: Gate
    ledger: MemoryLedger
    sessions: MemorySessions
    authority: GivenAuthority
    clock: StillClock
    net: CannedNet
    counters: MemoryCounters


def make_trial(
    loaded: Loaded, screener: Screener, sandboxes: Mapping[str, Sandbox], upstream: Upstream | None
) -> Trial:
    """A gate over these files. `sandboxes`, by name, run what is code; a tool whose own is not there is refused."""
    clock, authority, counters = StillClock(), GivenAuthority(), MemoryCounters()
    ledger, sessions, net = MemoryLedger(), MemorySessions(), CannedNet(upstream)
    runners: dict[type[Backend], Runner] = {HttpBackend: HttpRunner(net), FetchBackend: FetchRunner(net)}
    runners[SandboxBackend] = SandboxRunner(sandboxes)
    gate = Gate(
        authority=authority,
        sessions=sessions,
        catalogue=loaded.catalogue,
        bundles=loaded,
        counters=counters,
        claims=counters,
        approvals=MemoryApprovals(),
        runners=runners,
        screener=screener,
        ledger=ledger,
        outcomes=MemoryOutcomes(),
        artifacts=MemoryArtifacts(clock.now),
        clock=clock,
        ids=CountedIds(),
    )
    return Trial(gate, ledger, sessions, authority, clock, net, counters)
