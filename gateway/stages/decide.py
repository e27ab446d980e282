"""Stage 4: may this call happen? Pure: the same call under the same bundle always gives the same decision."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.aggregates import Level
from gateway.model import Call, Decision
from gateway.ports import Bundle


def decide(call: Call, bundle: Bundle, levels: Mapping[str, Level]) -> Decision:
    """The decision of the bundle that was pinned when the call was opened; `levels` are those of `bundle.cells`."""
    return bundle.decide(call, levels)
