"""How long content is kept, as the settings say it, and the loop that erases what is older. It decides nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping

from gateway.ledger_ports import Upkeep
from gateway.model import Refusal
from gateway.settings import Retain
from gateway.tool import Json
from gateway.upkeep import Keeping

log = logging.getLogger("toolgate")
_OFTEN, _LOOKS = 24 * 3600.0, 24  # looks once a day, more often for content that is kept for some days only
GATEWAY: Mapping[str, Json] = {"authn": "gateway"}


def keeping(retain: Retain, in_use: Callable[[float], Collection[str]]) -> Keeping | None:
    """What upkeep goes by; `None` when content is kept until somebody erases it.

    `in_use` gives the `uid` of each session that is open at a time (unix seconds).
    """
    age = retain.content_age
    return None if age is None else Keeping(age, lambda: set(in_use(time.time())))


async def expire_always(upkeep: Upkeep, retain: Retain) -> None:
    """Erases what has expired, at once and then again and again; ends when there is nothing to erase, ever."""
    age = retain.content_age
    while age is not None:
        try:
            await upkeep.expire(GATEWAY)
        except Refusal as refusal:
            log.warning("content that has expired was not erased: %s", refusal.problem.detail)
        except Exception:  # a background loop must outlive one bad look; the next one is hours away at most
            log.exception("content that has expired was not erased")
        await asyncio.sleep(min(_OFTEN, age / _LOOKS))
