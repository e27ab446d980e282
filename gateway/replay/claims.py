"""Idempotency keys in a replay: what the record says of a call counts, whatever time its calls take now."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission import Claim, Claimed
from gateway.ports import Claims
from gateway.problems import refuse
from gateway.replay.answers import Denied
from gateway.replay.script import Turn

HELD = frozenset({"in_progress", "key_reused", "outcome_unknown"})


@dataclass(frozen=True, slots=True)
class RecordedClaims:
    """The port `Claims` for one call. A call that ran then found its key free; a repeat is one of what was replayed.

    Whoever comes once more than was recorded, under the same key, is told the same once more.
    """

    inner: Claims
    turn: Turn

    async def find(self, key: str) -> Claimed | None:
        """Raises `Refusal` with the problem that the call was refused with because of its key."""
        then = self.turn.recorded
        if then is not None and isinstance(then.answer, Denied) and then.answer.code in HELD:
            raise refuse(then.answer.code, "It was refused so when it was recorded.")
        if then is not None and then.admitted:
            return None
        there = await self.inner.find(key)
        return there if there is not None and there.state == "done" else None

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
        await self.inner.close(claim, call_id, kept, session, tenant)

    async def doubt(self, claim: Claim, call_id: str) -> None:
        await self.inner.doubt(claim, call_id)

    async def release(self, key: str, call_id: str) -> bool:
        return await self.inner.release(key, call_id)
