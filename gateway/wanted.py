"""What is asked of the ledger's past: which records, how many, from where. Values and one port; it reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.tool import Json


@dataclass(frozen=True, slots=True)
class Wanted:
    """Records that have every value given here. `type` may end in `*`: then it is how the type begins.

    `parent` is the call whose code made the call. `status`, `code` and `effect` are those of outcome and decision;
    `rule` is any that determined the decision. `since` and `until` are unix seconds, the second not included.
    """

    call: str | None = None
    parent: str | None = None
    session: str | None = None
    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    tool: str | None = None
    type: str | None = None
    effect: str | None = None
    code: str | None = None
    rule: str | None = None
    status: str | None = None
    since: float | None = None
    until: float | None = None


class BadCursor(ValueError):
    """Not a cursor that was ever given out."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records in the order asked for, and where the next page begins; `None` when there is none.

    Each is `{"record": …}` without its sealed content; with content asked for also `content`, and `unreadable`, which
    says why there is none although the record has some.
    """

    records: Sequence[dict[str, Json]]
    next_cursor: str | None


class Past(Protocol):
    """The records of the ledger, for those who may read them."""

    async def page(self, wanted: Wanted, limit: int, cursor: str | None, *, newest_first: bool, content: bool) -> Page:
        """At most `limit` records by hybrid logical clock. Raises `BadCursor`. Never waits on the call path."""
        ...
