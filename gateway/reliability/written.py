"""What a decision read of the past and what its call reserved, as it stands on record, and back. It counts nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

from gateway.aggregates import Cell, Entry, Level
from gateway.reliability.windows import MADE
from gateway.tool import Json


def written_levels(reads: Iterable[tuple[Cell, Level]]) -> dict[str, Json]:
    """Levels by name: `{"state.mails": {"key", "value", "version"}}`. Infinite is null; `pending` is there if so."""
    said: dict[str, Json] = {}
    for cell, level in reads:
        one: dict[str, Json] = {"key": cell.key, "value": level.value, "version": level.version}
        if level.value == math.inf:
            one["value"] = None
        if level.pending:
            one["pending"] = True
        said[_free(said, cell.name)] = one
    return said


def read_levels(said: Json) -> dict[str, Level]:
    """The levels again, by the keys of their cells. What is none, as another version may have written it, is left out.

    Versions are those of the gateway that wrote them, and mean nothing elsewhere.
    """
    levels = {}
    for one in said.values() if isinstance(said, Mapping) else ():
        try:
            value = math.inf if one["value"] is None else one["value"]
            levels[str(one["key"])] = Level(value, one["version"], one.get("pending") is True)
        except (KeyError, TypeError, AttributeError):
            continue
    return levels


def written_entries(entries: Iterable[Entry]) -> dict[str, Json]:
    """Entries by name: `{"state.spent": {"key", "kind", "within", "amount"}}`. A decimal amount is text."""
    said: dict[str, Json] = {}
    for entry in entries:
        cell, amount = entry.cell, entry.amount
        said[_free(said, cell.name)] = {
            "key": cell.key,
            "kind": cell.kind,
            "within": cell.within,
            "amount": None if amount is None else str(amount),
        }
    return said


def read_entries(said: Json) -> list[Entry]:
    """The entries again. What is none, as another version may have written it, is left out."""
    entries = []
    for name, one in said.items() if isinstance(said, Mapping) else ():
        try:
            kind, amount = one["kind"], one["amount"]
            cell = Cell(name, str(one["key"]), kind, float(one["within"]))
            if kind in MADE:
                entries.append(Entry(cell, Decimal(amount) if kind == "sum" else amount))
        except (KeyError, TypeError, ValueError, InvalidOperation):
            continue
    return entries


def _free(said: Mapping[str, Json], name: str) -> str:
    """The name; with a number where parts of a bundle give it to several."""
    number, free = 1, name
    while free in said:
        number += 1
        free = f"{name}#{number}"
    return free
