"""What an operator declares: a `Tool`, its backend, the secrets it uses, the `Server` it may come from.

It never does anything: values only, made by `specs/load.py`, read by every stage. It imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Json = object  # a value as JSON has it: None, bool, int, float, str, list, dict
Labels = frozenset[str]


@dataclass(frozen=True, slots=True)
class Fix:
    """One thing to repair in the arguments: where (RFC 6901 JSON Pointer), what came, what is allowed, a near miss."""

    pointer: str
    received: str
    allowed: str
    nearest: str | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in so many seconds."""

    calls: int
    per: float


class SchemaCheck(Protocol):
    """A JSON Schema compiled once (`specs/schema.py`)."""

    def check(self, value: Json) -> Sequence[Fix]:
        """What is wrong with `value`, at most five things; empty when it is valid."""
        ...

    def fill(self, arguments: dict[str, Json]) -> dict[str, Json]:
        """The arguments with the schema's defaults filled in and every `number` a float."""
        ...


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A credential a tool's backend needs: where it comes from, and where it may go.

    `source` is `env:NAME`, `file:PATH`, `store:NAME` (the gateway's own encrypted store), `vault:PATH#FIELD` (HashiCorp
    Vault or OpenBao, KV version 2), or `oauth:PROVIDER`, an access token that is fetched for the session.
    """

    name: str
    source: str
    hosts: tuple[str, ...]
    header: str
    template: str
    weak: bool = False

    @property
    def varies(self) -> Literal["never", "tenant", "session"]:
        """With what of its holder the value changes."""
        kind = self.source.partition(":")[0]
        return "session" if kind == "oauth" else "tenant" if kind == "store" else "never"


@dataclass(frozen=True, slots=True)
class HttpBackend:
    """A tool behind an HTTP endpoint. Either `url` (with `{argument}` placeholders) or `url_argument` plus `allow`.

    `allow` entries read `METHOD scheme://host[:port]/path-glob`. `body` is the JSON template, `None` for no body.
    At most `redirects` are followed, to where `url` or `allow` lets it go.
    """

    method: str
    url: str | None = None
    url_argument: str | None = None
    allow: tuple[str, ...] = ()
    body: Json = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    redirects: int = 0


@dataclass(frozen=True, slots=True)
class McpBackend:
    """A tool of an MCP server, by the names of the server file and of the tool there."""

    server: str
    tool: str


@dataclass(frozen=True, slots=True)
class SandboxBackend:
    """A tool that is code: the snippet comes from an argument, stands in the spec (`code`), or is a module or an image.

    `limits` uses the names of `sandboxes.Limits`: seconds, bytes, processors. `tools` are what the code may call back,
    `network` the entries (as in `HttpBackend.allow`) it may fetch from. `files_in`: the call's argument `files` names
    artifacts the code gets as files.
    """

    backend: str
    code_argument: str | None
    code: str | None
    limits: Mapping[str, float | int] = field(default_factory=dict)
    require: frozenset[str] = frozenset()
    module: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    tools: frozenset[str] = frozenset()
    network: tuple[str, ...] = ()
    files_in: bool = False


@dataclass(frozen=True, slots=True)
class FetchBackend:
    """The built-in tool `net.fetch`: one HTTP request of code in a sandbox, to what its tool's spec allows."""

    allow: tuple[str, ...] = ()


Backend = HttpBackend | McpBackend | SandboxBackend | FetchBackend


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream MCP server. `pins` maps its tools to the digest they must have; else pin on first sight."""

    name: str
    url: str
    secrets: tuple[SecretUse, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How repeats of a call are known: `header` is what the backend gets our key in, `reconcile` the tool that says
    what became of a call, `derive` the seconds in which the same call again is that call, also without a key."""

    header: str | None = None
    reconcile: str | None = None
    derive: float | None = None


NO_IDEMPOTENCY = Idempotency()


@dataclass(frozen=True, slots=True)
class Retry:
    """What is tried again: problem codes, how often in all, the waits (seconds), the most of its calls in percent."""

    on: frozenset[str]
    attempts: int
    first: float
    longest: float
    percent: int


@dataclass(frozen=True, slots=True)
class Caching:
    """How long a result is kept, in seconds, and who else it is for: nobody outside the session, the principal, the
    tenant."""

    ttl: float
    scope: Literal["session", "principal", "tenant"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A loaded tool: its spec file, checked, with schemas compiled. Times in seconds, sizes in bytes.

    `preview` is the read-only tool that shows what a call would change, for people who are asked about it.
    """

    name: str
    version: str
    digest: str
    description: str
    input_schema: Mapping[str, Json]
    backend: Backend
    check: SchemaCheck
    title: str | None = None
    output_schema: Mapping[str, Json] | None = None
    output_check: SchemaCheck | None = None
    effects: frozenset[str] = frozenset()
    sinks: tuple[str, ...] = ()
    labels: Labels = frozenset({"untrusted"})
    facts: Mapping[str, str] = field(default_factory=dict)
    cost: float = 0.0
    timeout: float = 30.0
    output_limit: int = 256 * 1024
    concurrency: int | None = None
    rate: Rate | None = None
    idempotent: bool = False
    idempotency: Idempotency = NO_IDEMPOTENCY
    tenant: str | None = None
    secrets: tuple[SecretUse, ...] = ()
    source: str = ""
    preview: str | None = None
    retry: Retry | None = None
    fallback: str | None = None
    cache: Caching | None = None
