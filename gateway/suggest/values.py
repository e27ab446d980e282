"""What is told of many seen values at once: bounds, prefixes, sets. And which values are never to be written down.

Pure. It never widens beyond its rounding, and never narrows below what was seen.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Decimal

from gateway.screening.values import SECRET, occur
from gateway.screening.views import views
from gateway.tool import Json

FEW, OFTEN, SHORT = 8, 3, 64  # so many different strings, each seen so often, of so many characters
MANY = 200  # entries of a list of hosts or domains; with more, the list says nothing any more
LARGEST = (1 << 63) - 1
_MANY_PLACES = 12
_SAYS_SECRET = ("password", "passwd", "passphrase", "secret", "token", "credential", "api_key", "apikey", "private_key")


def above(number: int | float) -> Decimal:
    """Rounded up to two significant digits."""
    exact = Decimal(number)
    if not exact:
        return Decimal(0)
    return exact.quantize(Decimal((0, (1,), exact.adjusted() - 1)), rounding=ROUND_CEILING)


def at_most(number: int) -> int:
    """A whole number rounded up to two significant digits, and never beyond 64 bits."""
    return number if abs(number) < 10 else min(int(above(number)), LARGEST)


def few(strings: Sequence[str], listed: bool) -> list[str] | None:
    """The different strings where they look like words of a fixed set. `listed`: the schema says that they are."""
    counts = Counter(strings)
    if not counts or len(counts) > (MANY if listed else FEW) or any(len(each) > SHORT for each in counts):
        return None
    return sorted(counts) if listed or min(counts.values()) >= OFTEN else None


def folder(paths: Iterable[str]) -> str:
    """The longest common prefix of URL paths that ends with a slash."""
    known = sorted(set(paths))
    first, last = known[0], known[-1]
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, same) + 1] or "/"


def directories(paths: Iterable[str]) -> list[str]:
    """The directories that hold all of these canonical paths: the longest for each first part; `/` for too many."""
    below: dict[str, list[str]] = {}
    for path in set(paths):
        below.setdefault(path.split("/", 2)[1], []).append(path)
    return sorted(map(posixpath.commonpath, below.values())) if len(below) <= _MANY_PLACES else ["/"]


def is_secret(value: Json, name: str = "") -> bool:
    """Whether a value, or anything in it, looks like a credential: by its form, or because its name says so."""
    if isinstance(value, dict):
        return any(is_secret(each, key) or is_secret(key) for key, each in value.items())
    if isinstance(value, list):
        return any(is_secret(each, name) for each in value)
    if not isinstance(value, str):
        return False
    said = name.lower().replace("-", "_")
    if value and any(each in said for each in _SAYS_SECRET):
        return True
    return occur(value, (SECRET,), views(value)) or occur(f'{name}="{value}"', (SECRET,), views(""))
