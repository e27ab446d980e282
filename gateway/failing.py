"""How a gateway stands failing backends: what it is made of, and where an operator hears of it. It judges nothing."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping

from gateway.ports import Clock
from gateway.reliability.breaker import OPEN_SECONDS, Standing
from gateway.reliability.resilience import Resilience
from gateway.tool import Json

log = logging.getLogger("toolgate")


def resilience_of(clock: Clock) -> Resilience:
    """That of one gateway. Waits are drawn from the system's random source."""
    return Resilience.of(clock, random.SystemRandom().random, _tell)


def state_of(resilience: Resilience | None) -> Mapping[str, Json]:
    """For `/readyz`, which anybody may read: how many backends are left alone, if any. No reason not to be ready."""
    standings = resilience.breakers.standings() if resilience is not None else ()
    out = len({standing.place.name for standing in standings if standing.state == "open"})
    return {"backends": f"{out} open"} if out else {}


def _tell(standing: Standing) -> None:
    name, tenant = standing.place.name, standing.place.tenant
    if standing.state == "open":
        said = "backend.opened: %s failed %d times in a row for the tenant %s; one call may try it in %g s"
        log.warning(said, name, standing.failures, tenant, OPEN_SECONDS)
    elif standing.state == "closed":
        log.warning("backend.closed: %s answers the tenant %s again", name, tenant)
