"""The shape of `kind: Tool` and `kind: Server` files: YAML values in, checked shapes out.

What the language has a word for but the gateway cannot honour yet is refused here by name, never ignored. It never
compiles a schema, never looks at another file, and makes no `Tool` (`checks.py` and `load.py` do).
"""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from gateway.policy.findings import shape_errors
from gateway.policy.quantities import Duration, Percent, RateText, Size, Spread
from gateway.policy.shapes import CaseShape
from gateway.specs import facts, yaml
from gateway.tool import Json

ToolName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")]
Argument = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Line = Annotated[str, Field(min_length=1, max_length=1024)]
Code = Annotated[str, Field(min_length=1, max_length=131_072)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
# A name given when the image was made here, or the digest of one.
ImageName = Annotated[
    str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{0,63}|([a-z0-9][a-z0-9._:/-]*@)?sha256:[0-9a-f]{64})$")
]
FactKind = Annotated[str, WithJsonSchema({"enum": sorted(facts.KINDS)})]
Fields = Annotated[dict[str, Line], Field(max_length=32)]


class Shape(BaseModel):
    """A mapping of a file: closed and exact, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LabelsShape(Shape):
    """What a tool's results are."""

    output: list[Label] = Field(default=["untrusted"], max_length=16)


class ScreenShape(Shape):
    """What screening does with this tool's results, where it has a choice."""

    on_failure: Literal["annotate"] = "annotate"
    cut_span: Literal[False] = False


class CostShape(Shape):
    """The declared cost of a call, in the operator's own currency."""

    per_call: float = Field(ge=0, le=1_000_000)


class LimitsShape(Shape):
    """Ceilings of a tool: bytes of a result, calls at once, calls in a time."""

    output: Size | None = None
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    calls: RateText | None = None


SOURCE = (
    r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/[ -~]+|store:[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    r"|vault:[A-Za-z0-9._-]+/[A-Za-z0-9._/-]+#[A-Za-z0-9._-]+|oauth:[a-z][a-z0-9_-]{0,63})$"
)


class SecretShape(Shape):
    """A credential by reference. `header` reads `Name: template` with one `{}` for the secret."""

    name: Name
    from_: Annotated[str, Field(alias="from", pattern=SOURCE, max_length=512)]
    hosts: Annotated[list[str], Field(min_length=1, max_length=32)]
    header: Line
    weak: bool = False


class RetryShape(Shape):
    """What is tried again, how often in all, after which waits, and for how much of the tool's calls at most."""

    on: list[Literal["sandbox_unavailable", "timeout", "upstream_error", "upstream_unreachable"]] = Field(
        min_length=1, max_length=4
    )
    attempts: int = Field(default=3, ge=2, le=10)
    backoff: Spread = (0.2, 5.0)
    budget: Percent = 10


class IdempotencyShape(Shape):
    """How repeats are known: the backend's header for our key, the tool that says what became of a call, the time in
    which the same call again is that call."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    header: Line | None = None
    reconcile: ToolName | None = None
    derive: Duration | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("idempotency says at least one of `header`, `reconcile` and `derive`")
        return self


class CacheShape(Shape):
    """How long a result answers for equal calls, and of whom."""

    ttl: Duration
    scope: Literal["principal", "tenant"] = "principal"


def _kind(value: Json) -> str:
    return "text" if isinstance(value, str) else "from"


class FromArgument(Shape):
    """The value of an argument."""

    argument: Argument


class HttpShape(Shape):
    """One HTTP request. `url` has `{argument}` placeholders after the host, or is an argument matched by `allow`.

    With `redirects`, so many are followed, within the place of `url` and what `allow` lists.
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    url: Annotated[Annotated[Line, Tag("text")] | Annotated[FromArgument, Tag("from")], Discriminator(_kind)]
    allow: list[Line] = Field(default_factory=list, max_length=256)
    query: Fields = Field(default_factory=dict)
    headers: Fields = Field(default_factory=dict)
    json_: Json = Field(default=None, alias="json")
    redirects: int = Field(default=0, ge=0, le=3)


class McpShape(Shape):
    """A tool of an MCP server that a `kind: Server` file names."""

    server: Name
    tool: Annotated[str, Field(min_length=1, max_length=128)]


_TWO_SOURCES: list[JsonValue] = [{"required": [a, b]} for a, b in combinations(("argument", "file", "module"), 2)]


class CodeShape(Shape):
    """Where the code comes from: an argument, a file beside the spec, a registered module; and the image it runs in."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "not": {"anyOf": _TWO_SOURCES}})

    argument: Argument | None = None
    file: Line | None = None
    module: Digest | None = None
    image: ImageName | None = None
    command: list[Line] = Field(default_factory=list, max_length=32)

    @model_validator(mode="after")
    def _one(self) -> Self:
        sources = [source for source in (self.argument, self.file, self.module) if source is not None]
        if len(sources) > 1 or not (sources or (self.image and self.command)):
            raise ValueError(
                "code is exactly one of `argument`, `file` and `module`, or is the `command` of an `image`"
            )
        return self


class SandboxLimitsShape(Shape):
    """Ceilings of one run."""

    wall: Duration | None = None
    memory: Size | None = None
    output: Size | None = None
    cpu: float | None = None
    pids: int | None = None
    disk: Size | None = None
    host_calls: int | None = None


class NetworkShape(Shape):
    """What the code may fetch: entries as in `allow` of an http runner."""

    allow: list[Line] = Field(min_length=1, max_length=256)


class FilesShape(Shape):
    """Files in and out: artifacts named by the argument `files`, and bytes of files that are kept afterwards."""

    in_: Literal["artifacts"] | None = Field(default=None, alias="in")
    out: Size | None = None


class SandboxShape(Shape):
    """Code in a sandbox: `code` is the source itself, or says where it comes from.

    `require` names guarantees that the backend must give. `tools` are what the code may call back.
    """

    backend: str
    code: Annotated[Annotated[Code, Tag("text")] | Annotated[CodeShape, Tag("from")], Discriminator(_kind)]
    limits: SandboxLimitsShape = Field(default_factory=SandboxLimitsShape)
    require: list[str] = Field(default_factory=list, max_length=32)
    network: NetworkShape | None = None
    tools: list[ToolName] = Field(default_factory=list, max_length=64)
    files: FilesShape = Field(default_factory=FilesShape)


class RunnerShape(Shape):
    """What does the work."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    http: HttpShape | None = None
    mcp: McpShape | None = None
    sandbox: SandboxShape | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or not (self.http or self.mcp or self.sandbox):
            raise ValueError("a runner is exactly one of `http`, `mcp` and `sandbox`")
        return self


class SpecCaseShape(CaseShape):
    """A case of this tool: `call` holds the arguments only."""

    call: dict[str, Json]


class ToolShape(Shape):
    """One tool file."""

    apiVersion: Literal["toolgate/v1"]
    kind: Literal["Tool"]
    name: ToolName
    version: Version
    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    description: Text
    input_schema: dict[str, Json]
    output_schema: dict[str, Json] | None = None
    effects: Annotated[list[Literal["read", "write", "destructive", "egress", "exec"]], Field(min_length=1)]
    idempotent: bool = False
    idempotency: IdempotencyShape | None = None
    sinks: list[Argument] = Field(default_factory=list)
    labels: LabelsShape = Field(default_factory=LabelsShape)
    screen: ScreenShape = Field(default_factory=ScreenShape)
    facts: dict[Argument, FactKind] = Field(default_factory=dict)
    cost: CostShape | None = None
    timeout: Duration | None = None
    limits: LimitsShape = Field(default_factory=LimitsShape)
    retry: RetryShape | None = None
    fallback: ToolName | None = None
    cache: CacheShape | None = None
    preview: ToolName | None = None
    tenant: Name | None = None
    secrets: list[SecretShape] = Field(default_factory=list, max_length=16)
    runner: RunnerShape
    cases: list[SpecCaseShape] = Field(default_factory=list, max_length=1000)


class ServerShape(Shape):
    """One MCP server file. `pins` maps the server's tools to the digest of their definition."""

    apiVersion: Literal["toolgate/v1"]
    kind: Literal["Server"]
    name: Name
    url: Line
    secrets: list[SecretShape] = Field(default_factory=list, max_length=16)
    pins: dict[str, Digest] = Field(default_factory=dict)
    tenant: Name | None = None


S = TypeVar("S", bound=Shape)

# Words of the language that nothing here honours yet.
_LATER = {
    "Tool": (
        ("links",),
        ("runner", "agent"),
        *(("screen", key) for key in ("injection", "redact")),
    ),
    "Server": (("auth",), ("allow",), ("prefix",), ("command",)),
}


def read_tool(located: yaml.Located) -> ToolShape:
    """The shape of a tool file. Raises SpecErrors with all findings."""
    return _read(located, ToolShape, _LATER["Tool"])


def read_server(located: yaml.Located) -> ServerShape:
    """The shape of a server file. Raises SpecErrors with all findings."""
    return _read(located, ServerShape, _LATER["Server"])


def schema_of(kind: Literal["tool", "server"]) -> dict[str, Json]:
    """The JSON Schema (2020-12) of a file kind, for editors."""
    shape: type[BaseModel] = ToolShape if kind == "tool" else ServerShape
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **shape.model_json_schema()}


def _read(located: yaml.Located, shape: type[S], later: tuple[tuple[str, ...], ...]) -> S:
    value = deepcopy(located.value)
    found = [
        located.error(yaml.pointer(*path), f"{path[-1]} is not supported yet: leave it out")
        for path in later
        if _taken_out(value, path)
    ]
    try:
        read = shape.model_validate(value)
    except ValidationError as error:
        raise yaml.SpecErrors([*found, *shape_errors(located, error, shape)]) from None
    if found:
        raise yaml.SpecErrors(found)
    return read


def _taken_out(value: Json, path: tuple[str, ...]) -> bool:
    """Removes a key, so that it is not also reported as unknown; whether it was there."""
    for step in path[:-1]:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, dict) and path[-1] in value:
        del value[path[-1]]
        return True
    return False
