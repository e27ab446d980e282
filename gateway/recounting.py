"""What this home's ledger says was counted, for a Redis that was emptied: keys, budgets, rates, declared state.

It goes by what stands in plain with each intent and its outcome. A call that may have run counts with all that it had
reserved until its outcome says less. It counts nothing itself and takes no lock.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from gateway.admission import Amounts, Bounds, Claimed, Dimension
from gateway.audit import query
from gateway.audit.glance import glance
from gateway.audit.query import Record
from gateway.ports import Clock
from gateway.reliability.cells import Cells
from gateway.reliability.counted import Counted, KeptClaim, Used
from gateway.reseeding import ENDS, never_ran, told_of
from gateway.stages.claim import LASTS

_FOR_GOOD = 400 * 24 * 3600.0  # seconds
_MEASURED: Mapping[str, str] = {"wall": "wall_ms", "sandbox": "sandbox_ms", "bytes": "bytes_out"}


class Recount:
    """The past of one home, read when Redis was found empty. `cells` reads that of declared state, once it is known
    which policies are in force."""

    def __init__(self, home: Path, bounds: Bounds, clock: Clock) -> None:
        self._home, self._clock, self._reach = home, clock, reach(bounds)
        self.cells: Callable[[], Awaitable[Cells]] | None = None

    async def __call__(self, flying: frozenset[str]) -> Counted:
        """Raises `OSError`, `ValueError` or `sqlite3.Error` when ledger or keys cannot be read."""
        cells = None if self.cells is None else await self.cells()
        return await asyncio.to_thread(recount, self._home, self._clock.now(), self._reach, flying, cells)


def reach(bounds: Bounds) -> float:
    """Seconds of the past that say something of keys and budgets."""
    windows = [_FOR_GOOD if each.within is None else each.within for each in bounds.budgets]
    return max([LASTS, *windows])


def recount(home: Path, now: float, back: float, flying: frozenset[str], cells: Cells | None = None) -> Counted:
    """What `back` seconds of the ledger say at `now`, but for calls that are `flying`: whoever counts them does."""
    if not (home / "audit").is_dir():
        return Counted(cells=cells)
    intents: dict[str, Record] = {}
    ends: dict[str, Record] = {}
    rates: dict[str, float] = {}
    for record in query.since(home, max(0.0, now - back)):
        call_id = str(record.get("call_id"))
        if record["type"] == "call.intent":
            intents[call_id] = record
            _spend(rates, record)
        elif record["type"] in ENDS and call_id in intents:
            ends[call_id] = record
    ran = {
        call_id: (first, ends.get(call_id))
        for call_id, first in intents.items()
        if call_id not in flying and not (call_id in ends and never_ran(ends[call_id]))
    }
    return Counted(
        claims=_claims(home, ran, now),
        used=_used(ran, now),
        rates={key: arrival for key, arrival in rates.items() if arrival > now},
        cells=cells,
        ran=frozenset(ran),
    )


def _spend(rates: dict[str, float], intent: Record) -> None:
    """What a rate had after the call counts other gateways' calls too, so the latest of all is as it was."""
    at = query.written_at(intent)
    for key, _, per, *whole in cast(list[Any], intent.get("rates") or ()):
        seconds = per if not whole or whole[0] is None else whole[0]
        rates[key] = max(rates.get(key, 0.0), at + float(seconds))


def _claims(home: Path, ran: Mapping[str, tuple[Record, Record | None]], now: float) -> list[KeptClaim]:
    found = []
    with glance(home) as contents:
        for call_id, (first, last) in ran.items():
            if "idempotency_key" not in first:
                continue
            told = told_of(first, last, contents)
            if told.claim is None or told.at + told.claim.ttl <= now:
                continue
            kept = told.kept if told.ended == "done" else None
            state = Claimed(call_id, told.claim.fingerprint, "done" if kept is not None else "unknown", told.at, kept)
            found.append(KeptClaim(told.claim.key, state, told.at + told.claim.ttl, told.session))
    return found


def _used(ran: Mapping[str, tuple[Record, Record | None]], now: float) -> list[Used]:
    totals: dict[str, Counter[Dimension]] = {}
    for first, last in ran.values():
        budgets = first.get("budgets")
        if not isinstance(budgets, dict):
            continue
        spent = _spent(cast(Amounts, budgets["reserved"]), last)
        for key in cast(list[str], budgets["accounts"]):
            totals.setdefault(key, Counter()).update(spent)
    return [Used(key, dict(total), ends) for key, total in totals.items() if (ends := _ends(key, now)) > now]


def _spent(reserved: Amounts, last: Record | None) -> Amounts:
    """What a call used up: what was measured, where anything was."""
    usage = cast(Mapping[str, Any], (last or {}).get("usage") or {})
    measured = {name: usage.get(said) for name, said in _MEASURED.items()}
    return {
        name: amount if measured.get(name) is None else math.ceil(cast(float, measured[name]))
        for name, amount in reserved.items()
    }


def _ends(account: str, now: float) -> float:
    """When an account ends, whose window stands in its key (`reliability/budgets.py`)."""
    within, window = account.split("\x1f")[-2:]
    if within in ("None", "budget"):
        return now + _FOR_GOOD
    return (float(window) + 1) * float(within)
