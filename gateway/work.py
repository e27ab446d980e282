"""What a runner gets: the work, and the way back in for code that calls tools. It never does anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.model import Arguments, Holder
from gateway.tool import Labels, Tool


class Calls(Protocol):
    """Nested calls of one piece of work: each goes through the ten stages. `labels` are those of all their results."""

    @property
    def labels(self) -> Labels: ...

    async def call(self, name: str, arguments: bytes) -> bytes:
        """The result as JSON. `arguments` is untrusted JSON text. Raises `NestedRefusal` with a text for the code."""
        ...


class NestedRefusal(Exception):
    """A nested call was refused or failed; the text is for the code that made it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a runner gets: enough to do the work; of who asks, only the tenant is for it to read.

    `deadline` is in monotonic seconds. `require` names the guarantees a sandbox must give for this call, by spec and by
    policy together. `files` are the bytes of the call's inputs. `networks` are lists of allow entries, those of the
    calls around it too: a request must match an entry of each, besides what the spec allows. `calls` is there for tools
    whose code may call others; `depth` counts the calls around this one. `holder` is for the vault alone. `key` is what
    a backend is told to know a repeat by, `etag` what it must still have (RFC 9110 If-Match), where there is any.
    """

    call_id: str
    tool: Tool
    arguments: Arguments
    tenant: str
    deadline: float
    now: float
    seed: int
    require: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict)
    networks: tuple[tuple[str, ...], ...] = ()
    calls: Calls | None = None
    depth: int = 0
    holder: Holder | None = None
    key: str | None = None
    etag: str | None = None
