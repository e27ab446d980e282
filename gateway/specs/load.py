"""From spec files to the tools and servers they declare: all of them, or every finding in every file.

It never opens a file (they come in as bytes), dials, or reads a secret. A set with one finding gives nothing at all.
"""

from __future__ import annotations

import hashlib
import posixpath
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.globs import host_fits
from gateway.policy.findings import nearest
from gateway.policy.language import case_errors
from gateway.policy.shapes import CaseShape
from gateway.specs import yaml
from gateway.specs.checks import Checks
from gateway.specs.language import CodeShape, RunnerShape, ServerShape, ToolShape, read_server, read_tool
from gateway.specs.previews import link_previews
from gateway.specs.repeats import check_repeats, link_repeats, repeats_of
from gateway.specs.resilient import caching_of, check_resilience, confined, link_resilience, retry_of
from gateway.specs.sandboxed import Offer, check_sandbox, image_id
from gateway.specs.yaml import Located, SpecError, SpecErrors
from gateway.strictjson import canonical
from gateway.tool import Backend, HttpBackend, Json, McpBackend, SandboxBackend, Server, Tool
from gateway.urls import BadUrl, parse_url

MAX_CODE_BYTES = 256 * 1024
_DEFAULT_TIMEOUT = 30.0
_DEFAULT_OUTPUT = 256 * 1024
# Letters of tool names that look alike in some typeface (after UTS #39), and the two joiners.
_ALIKE = {"1": "l", "0": "o", "m": "rn", "-": "_", "w": "vv"}


@dataclass(frozen=True, slots=True)
class SpecCase:
    """A case that stands in a tool's spec, with the tool's name put into its `call`; `source` is its `file:line`."""

    tool: str
    source: str
    shape: CaseShape


@dataclass(frozen=True, slots=True)
class Specs:
    """Everything a set of spec files declares, in the order of the file names."""

    tools: tuple[Tool, ...]
    servers: Mapping[str, Server]
    cases: tuple[SpecCase, ...]


def load_specs(files: Mapping[str, bytes], *, sandboxes: Mapping[str, Offer]) -> Specs:
    """Read a set of spec files, name → bytes.

    Names that end in `.yaml` or `.yml` hold one Tool or Server each; any other file is there to be named by
    `code: {file: …}`, relative to the spec. `sandboxes` is what each backend offers here.
    Raises SpecErrors with every finding.
    """
    loading = _Loading(files, sandboxes)
    for file in sorted(files):
        if file.lower().endswith((".yaml", ".yml")):
            loading.read(file)
    loading.link()
    if loading.found:
        raise SpecErrors(loading.found)
    return Specs(tuple(loading.tools), loading.servers, tuple(loading.cases))


def skeleton(name: str) -> str:
    """What a name looks like: two names with one skeleton could be taken for each other."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(_ALIKE.get(letter, letter) for letter in folded)


def tool_digest(value: Json, code: str | None, image: str = "") -> str:
    """`sha256:` and hex over the canonical bytes of a tool file without its cases, its code and its image."""
    meaning = {key: part for key, part in value.items() if key != "cases"} if isinstance(value, dict) else value
    named = [meaning, code, image] if image else [meaning, code]
    return f"sha256:{hashlib.sha256(canonical(named)).hexdigest()}"


@dataclass(slots=True)
class _Loading:
    """One set of files while it is read."""

    files: Mapping[str, bytes]
    sandboxes: Mapping[str, Offer]
    tools: list[Tool] = field(default_factory=list)
    servers: dict[str, Server] = field(default_factory=dict)
    cases: list[SpecCase] = field(default_factory=list)
    found: list[SpecError] = field(default_factory=list)
    names: dict[str, tuple[str, Located]] = field(default_factory=dict)
    shapes: list[tuple[ToolShape, Located]] = field(default_factory=list)

    def read(self, file: str) -> None:
        """One file; its findings are kept, its tool or server only when there are none."""
        try:
            located = yaml.load(self.files[file], file)
            kind = located.value.get("kind") if isinstance(located.value, dict) else None
            if kind == "Tool":
                self._tool(located, read_tool(located))
            elif kind == "Server":
                self._server(located, read_server(located))
            else:
                raise located.error("/kind", "a spec file says `kind: Tool` or `kind: Server`")
        except SpecErrors as errors:
            self.found += errors.findings
        except SpecError as error:
            self.found.append(error)

    def link(self) -> None:
        """What one file says of another: the servers that mirrored tools come from, the tools that code may call, the
        tools that stand in for others."""
        for shape, located in self.shapes:
            if shape.runner.mcp is None:
                continue
            named = shape.runner.mcp.server
            server = self.servers.get(named)
            at = yaml.pointer("runner", "mcp", "server")
            if server is None:
                self.found.append(located.error(at, f"no such server: {nearest(named, self.servers)}"))
            elif server.tenant not in (None, shape.tenant):
                self.found.append(located.error(at, f"this server is for the tenant {server.tenant!r} only"))

        known = {name for name, _ in self.names.values()}
        tenants = {tool.name: tool.tenant for tool in self.tools}
        for shape, located in self.shapes:
            for place, name in enumerate(shape.runner.sandbox.tools if shape.runner.sandbox else []):
                at, tenant = yaml.pointer("runner", "sandbox", "tools", place), tenants.get(name)
                if name not in known:
                    self.found.append(located.error(at, f"no such tool: {nearest(name, known)}"))
                elif shape.tenant is not None and tenant not in (None, shape.tenant):
                    self.found.append(located.error(at, f"{name} is for the tenant {tenant!r} only"))
        self.found += link_resilience(self.shapes, self.servers)
        self.found += link_repeats(self.shapes)
        self.found += link_previews(self.shapes)
        self.tools = [confined(tool, self.servers) for tool in self.tools]

    def _tool(self, located: Located, shape: ToolShape) -> None:
        checks = Checks(located)
        self.shapes.append((shape, located))
        self._name(checks, shape.name)
        check = checks.schema(shape.input_schema, "input_schema", close=True)
        output_check = checks.schema(shape.output_schema, "output_schema", close=False)
        checks.tool(shape)
        check_resilience(checks, shape)
        check_repeats(checks, shape)
        secrets = checks.secrets(shape.secrets)
        backend, code = self._backend(checks, shape)
        checks.found += case_errors(located, [*shape.cases], "cases")
        self.found += checks.found
        if checks.found or check is None:
            return
        tool = Tool(
            name=shape.name,
            version=shape.version,
            digest=tool_digest(located.value, code, backend.image if isinstance(backend, SandboxBackend) else ""),
            description=shape.description,
            input_schema=check.schema,
            backend=backend,
            check=check,
            title=shape.title,
            output_schema=shape.output_schema,
            output_check=output_check,
            effects=frozenset(shape.effects),
            sinks=tuple(shape.sinks),
            labels=frozenset(shape.labels.output),
            facts=shape.facts,
            cost=shape.cost.per_call if shape.cost else 0.0,
            timeout=shape.timeout or _DEFAULT_TIMEOUT,
            output_limit=shape.limits.output or _DEFAULT_OUTPUT,
            concurrency=shape.limits.concurrency,
            rate=shape.limits.calls,
            idempotent=shape.idempotent,
            idempotency=repeats_of(shape),
            tenant=shape.tenant,
            secrets=secrets,
            source=f"{located.file}:{located.place('/name')[0]}",
            retry=retry_of(shape),
            fallback=shape.fallback,
            cache=caching_of(shape, secrets),
            preview=shape.preview,
        )
        self.tools.append(tool)
        for place, case in enumerate(shape.cases):
            line = located.place(yaml.pointer("cases", place))[0]
            whole = case.model_copy(update={"call": {shape.name: case.call}})
            self.cases.append(SpecCase(shape.name, f"{located.file}:{line}", whole))

    def _server(self, located: Located, shape: ServerShape) -> None:
        checks = Checks(located)
        if shape.name in self.servers:
            checks.note(f"the server {shape.name!r} is declared twice: keep one", "name")
        try:
            url = parse_url(shape.url)
        except BadUrl as bad:
            checks.note(f"this URL is not taken: {bad.reason}", "url")
            url = None
        secrets = checks.secrets(shape.secrets)
        for place, use in enumerate(secrets):
            if url is not None and not any(host_fits(host, url.host) for host in use.hosts):
                checks.note(f"this secret may not go to {url.host}, the host of this server", "secrets", place, "hosts")
        self.found += checks.found
        self.servers.setdefault(shape.name, Server(shape.name, str(url), secrets, shape.pins, shape.tenant))

    def _name(self, checks: Checks, name: str) -> None:
        """Names are unique over the whole set, also for somebody who reads them quickly."""
        other = self.names.setdefault(skeleton(name), (name, checks.located))
        if other[1] is not checks.located:
            where = f"{other[1].file}:{other[1].place('/name')[0]}"
            how = "is taken" if other[0] == name else f"looks like {other[0]!r}"
            checks.note(f"the name {name!r} {how} ({where}): choose another", "name")

    def _backend(self, checks: Checks, shape: ToolShape) -> tuple[Backend, str | None]:
        runner = shape.runner
        if runner.http is not None:
            checks.http(runner.http, shape)
        if runner.sandbox is not None:
            check_sandbox(checks, runner.sandbox, shape, self.sandboxes)
            return self._sandbox(checks, runner)
        return _plain_backend(runner), None

    def _sandbox(self, checks: Checks, runner: RunnerShape) -> tuple[Backend, str | None]:
        assert runner.sandbox is not None
        shape = runner.sandbox
        source = CodeShape.model_construct() if isinstance(shape.code, str) else shape.code
        code = shape.code if isinstance(shape.code, str) else None
        if source.file is not None:
            code = self._code(checks, source.file)
        limits = shape.limits.model_dump(exclude_none=True)
        if shape.files.out is not None:
            limits["files_out"] = shape.files.out
        backend = SandboxBackend(
            backend=shape.backend,
            code_argument=source.argument,
            code=code,
            limits=limits,
            require=frozenset(shape.require),
            module=source.module or "",
            image=image_id(shape, self.sandboxes.get(shape.backend)),
            command=tuple(source.command),
            tools=frozenset(shape.tools),
            network=tuple(shape.network.allow) if shape.network else (),
            files_in=shape.files.in_ is not None,
        )
        return backend, code

    def _code(self, checks: Checks, name: str) -> str:
        at = ("runner", "sandbox", "code", "file")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(checks.located.file), name))
        if name.startswith("/") or ".." in name.split("/") or file not in self.files:
            checks.note("no such file beside this spec: write its name, relative to the spec", *at)
            return ""
        if len(self.files[file]) > MAX_CODE_BYTES:
            checks.note(f"code has at most {MAX_CODE_BYTES} bytes", *at)
        try:
            return self.files[file].decode()
        except UnicodeDecodeError:
            checks.note("the code is not valid UTF-8", *at)
            return ""


def _plain_backend(runner: RunnerShape) -> Backend:
    if runner.mcp is not None:
        return McpBackend(runner.mcp.server, runner.mcp.tool)
    assert runner.http is not None
    shape = runner.http
    return HttpBackend(
        method=shape.method,
        url=shape.url if isinstance(shape.url, str) else None,
        url_argument=None if isinstance(shape.url, str) else shape.url.argument,
        allow=tuple(shape.allow),
        redirects=shape.redirects,
        body=shape.json_,
        query=shape.query,
        headers=shape.headers,
    )
