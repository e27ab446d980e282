"""The http runner: one call of a tool is one request to the endpoint its spec names, and the answer is the output.

It never retries, follows a redirect only where the spec lets it and to where the spec lets it, and never lets an
argument choose method, scheme or host, unless the spec takes the URL from an argument; then the URL has to be on the
spec's allow list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import orjson

from gateway import strictjson
from gateway.allow import Allow, BadAllow, networks_of
from gateway.model import Arguments, Failure, Problem, RawOutput
from gateway.problems import problem, refuse
from gateway.runners.message import JSON_TYPES, MAX_BODY_BYTES, Answer, Ask, Headers, media_type, type_fits
from gateway.runners.template import Missing, Text, fill_json, parse_json, unfit
from gateway.tool import HttpBackend, Json
from gateway.urls import BadUrl, Url, parse_url
from gateway.work import Work

MAX_JSON_DEPTH = 64
TEXT_TYPES = JSON_TYPES | {
    *("text/*", "*+xml", "*+yaml", "application/xml", "application/yaml", "application/javascript"),
    *("application/x-ndjson", "application/x-www-form-urlencoded", "application/toml", "application/graphql"),
}
_CHARSETS = (None, "utf-8", "utf8", "us-ascii")


class BadTemplate(ValueError):
    """An http backend that can never be run; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An `HttpBackend` with its templates parsed.

    `url` is set when nothing in the URL depends on the arguments. `path` is the template of what stands before the
    query, None where an argument is the URL; `query` holds texts to be joined by `&`.
    """

    backend: HttpBackend
    allow: tuple[Allow, ...]
    url: Url | None
    path: Text | None
    query: tuple[tuple[str, Text], ...]
    headers: tuple[tuple[str, Text], ...]
    body: Json

    @classmethod
    def of(cls, backend: HttpBackend) -> Plan:
        """Raises BadTemplate."""
        path, mark, tail = (backend.url or "").partition("?")
        query = [(f"{quote(name, safe='')}=", Text.parse_query_value(text)) for name, text in backend.query.items()]
        if mark:
            query.insert(0, ("", Text.parse(tail)))
        try:
            allow = _allow(backend)
            moving = backend.url is None or backend.query or Text.parse(backend.url).names
            url = None if moving else parse_url(backend.url or "")
        except (BadUrl, BadAllow) as bad:
            raise BadTemplate(str(bad)) from None
        headers = tuple((name, Text.parse(text)) for name, text in backend.headers.items())
        template = None if backend.url is None else Text.parse(path)
        return cls(backend, allow, url, template, tuple(query), headers, parse_json(backend.body))

    def target(self, arguments: Arguments) -> Url:
        """The URL of one call. Raises Refusal."""
        if self.url is not None:
            return self.url
        text = self._address(arguments)
        pairs = [name + value.query(arguments) for name, value in self.query if _given(value, arguments)]
        if pairs:
            text = f"{text}{'&' if '?' in text else '?'}{'&'.join(pairs)}"
        try:
            return parse_url(text)
        except BadUrl as bad:
            raise refuse("egress_denied", f"The URL is not taken: {bad.reason}.") from None

    def _address(self, arguments: Arguments) -> str:
        if self.path is not None:
            return self.path.path(arguments)
        value = arguments.get(self.backend.url_argument or "")
        if not isinstance(value, str):
            raise unfit(self.backend.url_argument or "", "a URL")
        return value

    def fields(self, arguments: Arguments) -> Headers:
        """The headers of one call. Raises Refusal."""
        fields = [(name, value.header(arguments)) for name, value in self.headers if _given(value, arguments)]
        if self.backend.body is not None and not any(name.lower() == "content-type" for name, _ in fields):
            fields.append(("content-type", "application/json"))
        return fields

    def content(self, arguments: Arguments) -> bytes | None:
        """The JSON body of one call. Raises Refusal."""
        if self.backend.body is None:
            return None
        try:
            return orjson.dumps(fill_json(self.body, arguments))
        except orjson.JSONEncodeError:  # an integer beyond 64 bits
            return strictjson.canonical(fill_json(self.body, arguments))


class Client(Protocol):
    """The outbound client, as much of `net.Net` as this runner needs."""

    async def request(self, ask: Ask, follow: int = 0) -> Answer: ...


class HttpRunner:
    """Runs tools with an `HttpBackend`; implements the `Runner` port."""

    def __init__(self, net: Client) -> None:
        self._net = net
        self._plans: dict[tuple[str, str | None], Plan] = {}

    async def run(self, work: Work) -> RawOutput:
        """One request. Raises Refusal when nothing was sent, Failure when it may have been."""
        plan = self._plan(work)
        ask = self._ask(plan, work)
        answer = await self._net.request(ask, plan.backend.redirects)
        return _output(answer, ask.url.host)

    def _ask(self, plan: Plan, work: Work) -> Ask:
        try:
            return Ask(
                plan.backend.method,
                plan.target(work.arguments),
                plan.allow,
                work.deadline,
                _bound(_with_key(plan.fields(work.arguments), work), work.etag),
                plan.content(work.arguments),
                work.tool.secrets,
                MAX_BODY_BYTES,
                TEXT_TYPES,
                networks_of(work.networks),
                work.holder,
            )
        except Missing as missing:
            raise unfit(missing.name, "given: this tool cannot be called without it") from None

    def _plan(self, work: Work) -> Plan:
        key, backend = (work.tool.name, work.tool.tenant), work.tool.backend
        plan = self._plans.get(key)
        if plan is None or plan.backend is not backend:
            if not isinstance(backend, HttpBackend):
                raise TypeError("the http runner runs http tools")
            try:
                plan = Plan.of(backend)
            except BadTemplate as bad:
                raise refuse("egress_denied", f"The tool's spec cannot be used: {bad}.") from None
            self._plans[key] = plan
        return plan


def _allow(backend: HttpBackend) -> tuple[Allow, ...]:
    """Where the tool may go: scheme, host and port of its fixed URL, which hold no placeholder, and its allow list."""
    if backend.url is None:
        if backend.url_argument is None or not backend.allow:
            raise BadTemplate("a url is needed, or a url argument with an allow list")
        return tuple(map(Allow.parse, backend.allow))
    scheme, separator, rest = backend.url.partition("://")
    authority = rest.partition("/")[0].partition("?")[0]
    place = parse_url(f"{scheme}{separator}{authority}/")
    # A redirect turns other methods into GET, which then has to be allowed where it goes.
    methods = {backend.method, "GET"} if backend.redirects else {backend.method}
    return *(Allow.fixed(method, place) for method in sorted(methods)), *map(Allow.parse, backend.allow)


def _with_key(fields: Headers, work: Work) -> Headers:
    """The headers, with the one by which the backend knows a repeat, where its tool names one."""
    name = work.tool.idempotency.header
    return fields if name is None or work.key is None else [*fields, (name, work.key)]


def _bound(fields: Headers, etag: str | None) -> Headers:
    """The headers, with the one that lets only what a person was shown be changed (RFC 9110, 13.1.1).

    A weak tag never matches there, and a digest of ours is nothing that the backend knows.
    """
    strong = etag is not None and etag.startswith('"') and etag.isascii() and etag.isprintable()
    if etag is None or not strong or any(name.lower() == "if-match" for name, _ in fields):
        return fields
    return [*fields, ("if-match", etag)]


def _given(value: Text, arguments: Mapping[str, Json]) -> bool:
    return value.whole is None or value.whole in arguments


def _output(answer: Answer, host: str) -> RawOutput:
    kind = answer.content_type or "text/plain"
    text = body_text(answer)
    failed = _problem(answer.status)
    if text is None:
        if failed is None:
            raise Failure(problem("output_invalid", "The answer is not UTF-8 text."))
        text = ""
    structured = None
    if failed is None and type_fits(kind, JSON_TYPES):
        structured = _object(answer.body)
    return RawOutput(text, structured, kind, failed, origin=host, etag=answer.headers.get("etag"))


def _problem(status: int) -> Problem | None:
    if 200 <= status < 300:
        return None
    if status < 500:
        return problem("tool_error", f"The tool's endpoint answered with status {status}.")
    return problem("upstream_error", f"The tool's endpoint answered with status {status}.")


def body_text(answer: Answer) -> str | None:
    """The body as text; None when it is none."""
    kind, charset = media_type(answer.headers)
    if charset not in _CHARSETS or (kind and not type_fits(kind, TEXT_TYPES)):
        return None
    try:
        return answer.body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _object(body: bytes) -> Json:
    """The JSON object in the body; None for anything else, which then is only text."""
    try:
        value = strictjson.loads(body, max_bytes=MAX_BODY_BYTES, max_depth=MAX_JSON_DEPTH)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
