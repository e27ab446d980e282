"""Stage 4: may this call happen? Pure: the same call under the same bundle always gives the same decision."""

from __future__ import annotations

from gateway.model import Call, Decision
from gateway.ports import Bundle, Counters


def decide(call: Call, bundle: Bundle, counters: Counters) -> Decision:
    """The decision of the bundle that was pinned when the call was opened, on what it reads of the past."""
    cells = bundle.cells(call)
    return bundle.decide(call, counters.look(cells, call.now) if cells else {})
