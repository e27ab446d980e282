"""Times, sizes and rates as fields of a policy file: `5s`, `64KiB`, `60/1m`.

It never reads them itself: `gateway/units.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, WithJsonSchema

from gateway import units
from gateway.tool import Json, Rate

T = TypeVar("T")


def _text(read: Callable[[str], T]) -> Callable[[Json], T]:
    """A number without a unit goes the same way as text without one: refused with the unit's own sentence."""
    return lambda value: read(value if isinstance(value, str) else str(value))


Duration = Annotated[
    float, BeforeValidator(_text(units.seconds)), WithJsonSchema({"type": "string", "examples": ["200ms", "5s", "1m"]})
]
Size = Annotated[
    int, BeforeValidator(_text(units.size)), WithJsonSchema({"type": "string", "examples": ["64KiB", "1MiB"]})
]
RateText = Annotated[
    Rate, BeforeValidator(_text(units.rate)), WithJsonSchema({"type": "string", "examples": ["60/1m", "1000/24h"]})
]
