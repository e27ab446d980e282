"""Calls that wait for a person, in memory: one at a time for each binding, each used once. It writes no record."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from gateway.model import Refusal
from gateway.parked import Answer, Parked
from gateway.problems import refuse

KEPT = 24 * 3600.0  # seconds one is remembered after it has expired, to be looked at


class MemoryApprovals:
    """The port `Approvals`."""

    def __init__(self) -> None:
        self._parked: dict[str, Parked] = {}

    async def bound(self, binding: str, now: float) -> Parked | None:
        fitting = (each for each in reversed(self._parked.values()) if each.binding == binding)
        return next((each for each in fitting if each.state != "used" and now < each.expires_at), None)

    async def get(self, tenant: str, approval_id: str) -> Parked | None:
        found = self._parked.get(approval_id)
        return found if found is not None and found.tenant == tenant else None

    async def ask(self, parked: Parked, most: int) -> Parked:
        same = (each for each in reversed(self._parked.values()) if each.binding == parked.binding)
        there = next((each for each in same if waits(each, parked.asked_at)), None)
        if there is not None:
            return there
        self._forget(parked.asked_at)
        own = (each for each in self._parked.values() if each.owner == parked.owner)
        waiting = [each.expires_at for each in own if waits(each, parked.asked_at)]
        if len(waiting) >= most:
            raise too_many(waiting, parked.asked_at)
        return self._put(parked)

    async def answer(self, tenant: str, approval_id: str, answer: Answer) -> Parked | None:
        there = await self.get(tenant, approval_id)
        if there is None or not waits(there, answer.at):
            return None
        return self._put(answered(there, answer))

    async def use(self, tenant: str, approval_id: str, call_id: str, now: float) -> bool:
        there = await self.get(tenant, approval_id)
        if there is None or there.state != "granted" or now >= there.expires_at:
            return False
        self._put(replace(there, state="used", used_by=call_id))
        return True

    async def restore(self, tenant: str, approval_id: str, call_id: str) -> None:
        there = await self.get(tenant, approval_id)
        if there is not None and there.state == "used" and there.used_by == call_id:
            self._put(replace(there, state="granted", used_by=None))

    async def all(self, tenant: str | None) -> Sequence[Parked]:
        return [each for each in self._parked.values() if tenant in (None, each.tenant)]

    def erased(self, uids: Collection[str]) -> None:
        """Drops the arguments and previews that were content of these sessions: it was erased."""
        for each in [each for each in self._parked.values() if each.session in uids]:
            self._put(replace(each, arguments=None, preview=None))

    def _put(self, parked: Parked) -> Parked:
        self._parked[parked.id] = parked
        return parked

    def _forget(self, now: float) -> None:
        self._parked = {key: each for key, each in self._parked.items() if now < each.expires_at + KEPT}


def answered(parked: Parked, answer: Answer) -> Parked:
    """One that is pending, with one more answer."""
    more = replace(parked, answers=(*parked.answers, answer))
    if not answer.yes:
        return replace(more, state="denied")
    return more if more.open_rules() else replace(more, state="granted")


def waits(parked: Parked, now: float) -> bool:
    """Whether somebody can still answer it."""
    return parked.state == "pending" and now < parked.expires_at


def too_many(ends: Iterable[float], now: float) -> Refusal:
    """The refusal of one more; `ends` says when those of the same caller that wait expire (unix seconds)."""
    wait_ms = 1 + math.floor(1000 * (min(ends, default=now) - now))
    return refuse("rate_limited", "Too many calls of this caller wait for a person.", retry_after_ms=wait_ms)
