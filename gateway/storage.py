"""What limits calls, and where it is kept: counters, claims, approvals, by the setting `store`. It counts nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway import ports
from gateway.settings import Settings
from gateway.stores.approvals import MemoryApprovals
from gateway.stores.counters import MemoryCounters
from gateway.stores.sqlite import State


@dataclass(frozen=True, slots=True)
class Storage:
    """What limits calls. `counters` are also the claims. `secret` is what all gateways of one store have in common;
    a store of one gateway alone needs none."""

    counters: MemoryCounters
    approvals: ports.Approvals
    secret: bytes | None = None


async def open_storage(settings: Settings, state: State, stack: AsyncExitStack) -> Storage:
    """The stores that the settings name; `stack` closes them. Raises `BadSettings` when they cannot be had."""
    return Storage(MemoryCounters(), MemoryApprovals())
