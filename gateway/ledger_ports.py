"""What is done about the ledger besides writing calls into it, as Protocols: heads go elsewhere, calls in doubt are
settled, content is erased, keys replaced, old segments archived. It does nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.model import Position
from gateway.tool import Json


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The newest signed head of a shard: over `size` records; `note` is the checkpoint as it was signed."""

    shard: str
    size: int
    note: bytes


class NotTaken(Exception):
    """A head was not kept where it was to be; the text says why."""


class HeadSink(Protocol):
    """A place off the gateway's own files that keeps signed heads. `name` is how its operator wrote it down."""

    @property
    def name(self) -> str: ...
    async def take(self, head: SignedHead) -> None:
        """Returns once the head is kept; the same head again changes nothing. Raises `NotTaken`."""
        ...


@dataclass(frozen=True, slots=True)
class Whose:
    """Which sessions' content is meant: those to which everything that is given applies.

    `session` is a session's id, as callers and records name it, or its `uid`, which is `content.key` of a record.
    """

    session: str | None = None
    tenant: str | None = None
    agent: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased: so many sessions were meant, so many content keys and blobs were still there."""

    sessions: int
    keys: int
    blobs: int
    position: Position


@dataclass(frozen=True, slots=True)
class Rotated:
    """A signing key that was replaced: the verifier keys of both."""

    old: str
    new: str
    position: Position


@dataclass(frozen=True, slots=True)
class Moved:
    """Segments that were copied to an archive and may be removed: the records `first` to `last` of a shard.

    `digests` is the SHA-256 of each segment's file, in hex, by its name; `to` is where they are now.
    """

    shard: str
    first: int
    last: int
    digests: Mapping[str, str]
    to: str


class Upkeep(Protocol):
    """What an operator does about the ledger's past, and its signing key. `who` and `why` stand on record, in plain."""

    async def resolve(
        self,
        call_id: str,
        ended: Literal["done", "not-done"],
        why: str,
        who: Mapping[str, Json],
        tenant: str | None = None,
    ) -> Position:
        """Says how a call in doubt ended; durable when this returns.

        Raises `Refusal(not_found)` when no call of that id, of the `tenant` where one is given, is in doubt, and those
        of `Ledger.check`.
        """
        ...

    async def erase(self, whose: Whose, why: str, who: Mapping[str, Json]) -> Erased:
        """Deletes content keys and blobs for good; of a whole tenant, when nothing narrows it, its own key too.

        Raises `Refusal(not_found)` when there is no such session, `Refusal(malformed)` when a session's id is that of
        several callers and nothing says whose is meant, and those of `Ledger.check`.
        """
        ...

    async def expire(self, who: Mapping[str, Json]) -> Erased | None:
        """Erases the content of sessions that have ended and whose last record is older than content is to be kept.

        `None` when there is none, or content is kept for good. Raises those of `Ledger.check`.
        """
        ...

    async def archived(self, moved: Moved, who: Mapping[str, Json]) -> Position:
        """Puts on record that segments were archived, before they are removed; durable when this returns.

        Raises `Refusal(malformed)` when they are not here as they were copied, and those of `Ledger.check`.
        """
        ...

    async def rotate_key(self, why: str, who: Mapping[str, Json]) -> Rotated:
        """Puts another signing key in place of the one in use, and destroys that; done when this returns.

        Raises `Refusal(audit_unavailable)` when it is not, or not whole: then it is finished by asking again, or by the
        next start. And those of `Ledger.check`.
        """
        ...
