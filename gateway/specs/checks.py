"""What is wrong with a spec beyond its shape: findings with a place, one file at a time.

Schemas are compiled, placeholders name declared arguments, a URL's scheme and host are fixed, secrets go to hosts that
fit. It never opens a file, resolves a name or reads a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.allow import Allow, BadAllow
from gateway.globs import host_fits
from gateway.policy.findings import nearest
from gateway.specs import facts, yaml
from gateway.specs.language import HttpShape, SecretShape, ToolShape
from gateway.specs.schema import BadSchema, Validator, compile_schema
from gateway.tool import Json, SecretUse
from gateway.urls import BadUrl, parse_host, parse_url

_PLACEHOLDER = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_TOKEN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~")  # RFC 9110 5.6.2
OWN_HEADERS = {
    *("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "cookie"),
    *("keep-alive", "accept-encoding", "forwarded", "traceparent", "tracestate", "proxy-authorization"),
}


@dataclass(slots=True)
class Checks:
    """Findings about one file, gathered."""

    located: yaml.Located
    found: list[yaml.SpecError] = field(default_factory=list)

    def note(self, sentence: str, *path: str | int) -> None:
        """One finding at a part of the file."""
        self.found.append(self.located.error(yaml.pointer(*path), sentence))

    def schema(self, schema: dict[str, Json] | None, key: str, *, close: bool) -> Validator | None:
        """The compiled schema; None when there is none or it is wrong."""
        if schema is None:
            return None
        if schema.get("type") != "object":
            self.note(f"{key} starts with `type: object`", key)
        try:
            return compile_schema(schema, close=close)
        except BadSchema as bad:
            self.found += (self.located.error(f"/{key}{at}", sentence) for at, sentence in bad.findings)
            return None

    def tool(self, shape: ToolShape) -> None:
        """Everything about a tool but its schemas and its runner."""
        known = properties(shape)
        for place, name in enumerate(shape.sinks):
            if name not in known:
                self.note(f"{name!r} is no argument of this tool: {nearest(name, known)}", "sinks", place)
        for name, kind in shape.facts.items():
            if name not in known:
                self.note(f"{name!r} is no argument of this tool: {nearest(name, known)}", "facts", name)
            if kind not in facts.KINDS:
                self.note(f"{kind!r} is no kind of fact: {nearest(kind, facts.KINDS)}", "facts", name)

    def host(self, pattern: str, *path: str | int) -> None:
        """A canonical host name, or `*.` and one."""
        try:
            host = parse_host(pattern.removeprefix("*."))
        except BadUrl as bad:
            self.note(bad.reason, *path)
            return
        if host.name != pattern.removeprefix("*.") and host.address is None:
            self.note(f"write the host as {host.name}", *path)
        if pattern.startswith("*.") and (host.address is not None or "." not in host.name):
            self.note("*. stands before a name of at least two labels", *path)

    def secrets(self, shapes: list[SecretShape]) -> tuple[SecretUse, ...]:
        """The credentials of a tool or a server."""
        uses: list[SecretUse] = []
        for place, shape in enumerate(shapes):
            at = ("secrets", place)
            if shape.name in {use.name for use in uses}:
                self.note(f"the secret {shape.name!r} stands here twice: keep one", *at, "name")
            for index, host in enumerate(shape.hosts):
                self.host(host, *at, "hosts", index)
            header, _, template = shape.header.partition(": ")
            if not header or not _TOKEN.issuperset(header) or template.count("{}") != 1 or not _plain(template):
                self.note(
                    'a header is written like "Authorization: Bearer {}", with one {} for the secret', *at, "header"
                )
            elif header.lower() in OWN_HEADERS:
                self.note(f"the header {header} is set by the gateway itself", *at, "header")
            uses.append(SecretUse(shape.name, shape.from_, tuple(shape.hosts), header, template, shape.weak))
        return tuple(uses)

    def http(self, shape: HttpShape, tool: ToolShape) -> None:
        """The http runner: what is fixed is fixed, what is open has a list."""
        at = ("runner", "http")
        if isinstance(shape.url, str):
            self._fixed_url(shape.url, tool)
            if shape.allow and not shape.redirects:
                self.note(
                    "allow goes with `url: {argument: NAME}` or with `redirects`: this URL is fixed", *at, "allow"
                )
        else:
            self.argument(shape.url.argument, "string", tool, *at, "url", "argument")
            if not shape.allow:
                self.note('a URL from an argument needs `allow`, such as ["GET https://example.org/**"]', *at)
        for place, entry in enumerate(shape.allow):
            self.entry(entry, *at, "allow", place)
        if shape.json_ is not None and shape.method in ("GET", "HEAD"):
            self.note(f"{shape.method} sends no body: leave json out or take another method", *at, "json")
        for name, text in shape.headers.items():
            if not name or not _TOKEN.issuperset(name) or not _plain(text):
                self.note("a header has a token for a name and printable ASCII for a value", *at, "headers", name)
            elif name.lower() in OWN_HEADERS | {secret.header.partition(":")[0].lower() for secret in tool.secrets}:
                self.note(f"the header {name} is set by the gateway itself", *at, "headers", name)
        self._placeholders({"query": shape.query, "headers": shape.headers, "json": shape.json_}, tool, *at)

    def argument(self, name: str, kind: str, tool: ToolShape, *path: str | int) -> None:
        """An argument that must be there in each call, as a value of one type."""
        known = properties(tool)
        schema = known.get(name)
        if name not in known:
            self.note(f"{name!r} is no argument of this tool: {nearest(name, known)}", *path)
        elif not isinstance(schema, dict) or schema.get("type") != kind:
            self.note(f"the argument {name!r} must be of `type: {kind}` to be used here", *path)
        elif not _always_given(name, tool):
            self.note(f"the argument {name!r} must be required, or have a default, to be used here", *path)

    def _fixed_url(self, url: str, tool: ToolShape) -> None:
        at = ("runner", "http", "url")
        scheme, _, rest = url.partition("://")
        authority = rest.replace("?", "/").partition("/")[0]
        if "{" in scheme + authority:
            self.note("scheme, host and port are fixed by the spec: a placeholder stands after the host only", *at)
            return
        path = url.partition("?")[0]
        self._placeholders(path, tool, *at, needed=True)
        self._placeholders(url[len(path) :], tool, *at)
        try:
            parsed = parse_url(_filled(url))
        except BadUrl as bad:
            self.note(f"this URL is not taken: {bad.reason}", *at)
            return
        for place, secret in enumerate(tool.secrets):
            if not any(host_fits(pattern, parsed.host) for pattern in secret.hosts):
                self.note(f"this secret may not go to {parsed.host}, the host of this tool", "secrets", place, "hosts")

    def entry(self, entry: str, *path: str | int) -> None:
        """An entry of an allow list: METHOD and a URL with globs in host and path."""
        try:
            Allow.parse(entry)
        except BadAllow as bad:
            self.note(f"this entry is not taken: {bad}", *path)

    def _placeholders(self, template: Json, tool: ToolShape, *path: str | int, needed: bool = False) -> None:
        known = properties(tool)
        for below, name in _named(template, path):
            if name not in known:
                self.note(f"{{{name}}} is no argument of this tool: {nearest(name, known)}", *below)
            elif needed and not _always_given(name, tool):
                self.note(f"the argument {name!r} must be required, or have a default, to be used here", *below)


def split_template(text: str) -> Iterator[tuple[str, str]]:
    """(literal, placeholder) in turn, the last placeholder empty; the grammar of `{argument}` in an http template."""
    literal = ""
    while text:
        before, brace, rest = text.partition("{")
        name, closing, after = rest.partition("}")
        if brace and closing and name and _PLACEHOLDER.issuperset(name):
            yield literal + before, name
            literal, text = "", after
        else:
            literal, text = literal + before + brace, rest
    yield literal, ""


def _named(template: Json, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each placeholder in a template of any depth, and where it stands."""
    if isinstance(template, str):
        yield from ((path, name) for _, name in split_template(template) if name)
    elif isinstance(template, dict):
        for key, value in template.items():
            yield from _named(value, (*path, key))
    elif isinstance(template, list):
        for place, value in enumerate(template):
            yield from _named(value, (*path, place))


def _filled(text: str) -> str:
    return "".join(literal + ("x" if name else "") for literal, name in split_template(text))


def properties(tool: ToolShape) -> dict[str, Json]:
    """The schemas of the tool's arguments, by name."""
    properties = tool.input_schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _always_given(name: str, tool: ToolShape) -> bool:
    schema, required = properties(tool).get(name), tool.input_schema.get("required")
    return (isinstance(required, list) and name in required) or (isinstance(schema, dict) and "default" in schema)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()
