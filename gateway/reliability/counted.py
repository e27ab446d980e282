"""What one gateway's own ledger says was counted: for a shared store that was emptied. It reads nothing and counts
nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.admission import Amounts, Claimed
from gateway.reliability.cells import Cells


@dataclass(frozen=True, slots=True)
class KeptClaim:
    """A claim by its key, and until when it is remembered (unix seconds). `session`: whose content its outcome is."""

    key: str
    claimed: Claimed
    ends: float
    session: str = ""


@dataclass(frozen=True, slots=True)
class Used:
    """What calls of one gateway used up of an account, and when it may be forgotten (unix seconds)."""

    key: str
    amounts: Amounts
    ends: float


@dataclass(frozen=True, slots=True)
class Counted:
    """`rates`: theoretical arrival times by the key of the bucket, in unix seconds. `ran`: calls that may have run."""

    claims: Sequence[KeptClaim] = ()
    used: Sequence[Used] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    cells: Cells | None = None
    ran: frozenset[str] = frozenset()
