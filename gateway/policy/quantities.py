"""Times, sizes, rates and shares as fields of a file: `5s`, `64KiB`, `60/1m`, `200ms..5s`, `10%`.

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


def _spelled(pattern: str, *examples: str) -> WithJsonSchema:
    """What an editor is told: a pattern of the published schema only, the reader above has the last word."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "examples": list(examples)})


_COUNT, _SPAN = "0*[1-9][0-9]*", "0*[1-9][0-9]*(ms|s|m|h|d)"
Duration = Annotated[float, BeforeValidator(_text(units.seconds)), _spelled(_SPAN, "200ms", "5s", "1m")]
Size = Annotated[int, BeforeValidator(_text(units.size)), _spelled(f"{_COUNT}(B|KiB|MiB|GiB)", "64KiB", "1MiB")]
RateText = Annotated[Rate, BeforeValidator(_text(units.rate)), _spelled(f"{_COUNT}/{_SPAN}", "60/1m", "1000/24h")]
Spread = Annotated[
    tuple[float, float], BeforeValidator(_text(units.spread)), _spelled(rf"{_SPAN}\.\.{_SPAN}", "200ms..5s")
]
Percent = Annotated[int, BeforeValidator(_text(units.percent)), _spelled("0*[1-9][0-9]*%", "10%")]
