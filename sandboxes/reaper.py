"""The reaper: removes containers and folders that nobody will come back for, once it has seen them twice.

Never removes a container that no broker made, nor one of a living broker within its lease.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from sandboxes.engine import EngineDown, EngineRefused
from sandboxes.folders import Folders
from sandboxes.keeper import INSTANCE, LEASE, LEASE_SECONDS, NAME, OWNER, Keeper

EVERY: Final = 5.0


class Reaper:
    """Looks at all containers on the engine. What was doomed at two looks in a row is removed."""

    def __init__(self, keeper: Keeper, folders: Folders) -> None:
        self._keeper = keeper
        self._folders = folders
        self._suspects: frozenset[str] = frozenset()
        self._strays: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Looks every few seconds; while the engine is away, what was seen before still counts as seen."""
        while True:
            with contextlib.suppress(EngineDown, EngineRefused, OSError):
                await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """One look. Raises `EngineDown` and `EngineRefused`."""
        seen = await self._keeper.seen()
        ages = {NAME + token: time.monotonic() - one.made for token, one in self._keeper.held.items()}
        suspects = frozenset(one.id for one in seen if self._doomed(one.name, one.labels, ages))
        again, self._suspects = suspects & self._suspects, suspects
        held = {one.engine_id: one for one in self._keeper.held.values()}
        for container in sorted(again):
            with contextlib.suppress(EngineRefused):
                if container in held:
                    await self._keeper.remove(held[container])
                else:
                    await self._keeper.remove_by_id(container)
        strays = frozenset(self._folders.strays())
        for instance in strays & self._strays:
            self._folders.sweep(instance)
        self._strays = strays

    def _doomed(self, name: str, labels: Mapping[str, str], ages: Mapping[str, float]) -> bool:
        place = self._folders
        lost = orphan(name, labels, ages, place.owner, place.instance, place.alive)
        return lost or overdue(name, labels, ages, place.owner, time.time())


def overdue(name: str, labels: Mapping[str, str], ages: Mapping[str, float], owner: str, now: float) -> bool:
    """Whether the container's lease is over. One without a broker's three labels has none.

    ages: seconds, by name, of those that this broker holds. now: Unix seconds. The clock, which may jump, judges those
    of other owners only: of this owner each living broker counts for itself.
    """
    if labels.get(OWNER) == owner:
        return ages.get(name, 0.0) > LEASE_SECONDS
    lease = labels.get(LEASE, "")
    return OWNER in labels and INSTANCE in labels and lease.isascii() and lease.isdigit() and int(lease) < now


def orphan(
    name: str,
    labels: Mapping[str, str],
    held: Collection[str],
    owner: str,
    instance: str,
    alive: Callable[[str], bool],
) -> bool:
    """Whether a container of our owner belongs to a dead broker, or to this one, which knows nothing of it."""
    if labels.get(OWNER) != owner or LEASE not in labels or INSTANCE not in labels:
        return False
    if labels[INSTANCE] == instance:
        return name not in held
    return not alive(labels[INSTANCE])
