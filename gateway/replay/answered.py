"""What people said of the calls of a session, in a replay: as it is on record, asked of nobody anew.

It never makes a yes: a call that none is on record for waits, and nobody is there to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.model import Principal
from gateway.obligations import Approval
from gateway.parked import Answer, Parked
from gateway.ports import Approvals
from gateway.replay.answers import Denied
from gateway.replay.script import Turn
from gateway.replay.session import Recorded


@dataclass(frozen=True, slots=True)
class RecordedApprovals:
    """The port `Approvals` for one call: it has its yes if one is on record for it then, and its no."""

    inner: Approvals
    turn: Turn
    caller: Principal

    async def bound(self, binding: str, now: float) -> Parked | None:
        then = self.turn.recorded
        if then is None or then.approval is None:
            return None
        if then.admitted:
            return self._said(then, then.approval, binding, now, "granted")
        if isinstance(then.answer, Denied) and then.answer.code == "approval_denied":
            needs = (Approval(then.answer.rule or "", (), float("inf")),)
            return self._said(then, then.approval, binding, now, "denied", needs)
        return None

    def _said(
        self,
        then: Recorded,
        approval: str,
        binding: str,
        now: float,
        state: Literal["granted", "denied"],
        needs: tuple[Approval, ...] = (),
    ) -> Parked:
        who = self.caller
        return Parked(
            id=approval,
            binding=binding,
            call_id=then.id,
            tool=then.tool,
            tool_digest="",
            tenant=who.tenant,
            owner=who.key,
            agent=who.agent,
            user=who.user,
            token_id=who.token_id,
            session="",
            needs=needs,
            asked_at=now,
            expires_at=float("inf"),
            state=state,
        )

    async def use(self, tenant: str, approval_id: str, call_id: str, now: float) -> bool:
        return True

    async def restore(self, tenant: str, approval_id: str, call_id: str) -> None:
        """It is on record, and stays so."""

    async def ask(self, parked: Parked, most: int) -> Parked:
        return await self.inner.ask(parked, most)

    async def get(self, tenant: str, approval_id: str) -> Parked | None:
        return await self.inner.get(tenant, approval_id)

    async def answer(self, tenant: str, approval_id: str, answer: Answer) -> Parked | None:
        return await self.inner.answer(tenant, approval_id, answer)

    async def all(self, tenant: str | None) -> Sequence[Parked]:
        return await self.inner.all(tenant)
