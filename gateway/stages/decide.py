"""Stage 4: may this call happen? Pure: the same call under the same bundle always gives the same decision."""

from __future__ import annotations

from gateway.model import Call, Decision
from gateway.ports import Bundle


def decide(call: Call, bundle: Bundle) -> Decision:
    """The decision of the bundle that was pinned when the call was opened."""
    return bundle.decide(call)
