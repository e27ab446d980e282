"""The runner of `net.fetch`: one HTTP request of code in a sandbox, through the gateway's one outbound client.

Whatever status comes back is a result: the code asked for the answer, not for success. It never follows a redirect,
never lets the code set a header that the gateway or a credential sets, and shows it a few headers of the answer only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from gateway.allow import Allow, BadAllow, networks_of
from gateway.globs import host_fits
from gateway.model import Failure, RawOutput, Refusal
from gateway.problems import problem, refuse
from gateway.runners.http import TEXT_TYPES, Client, body_text
from gateway.runners.message import Ask, Headers
from gateway.specs.checks import OWN_HEADERS
from gateway.specs.fetch import MAX_BODY_BYTES
from gateway.tool import FetchBackend, Fix, SecretUse
from gateway.urls import BadUrl, parse_url
from gateway.work import Work

# Of an answer: what a program needs to read it or to ask again, nothing that says who asked.
SHOWN = frozenset(
    {
        *("allow", "cache-control", "content-language", "content-type", "etag", "last-modified", "link", "location"),
        *("retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    }
)
# Servers and proxies that know these take another method, path or host than the one that was allowed, or believe that
# somebody else asks.
_STEERING = frozenset({"x-http-method", "x-http-method-override", "x-method-override", "x-rewrite-url", "x-host"})
_STEERING_BEGIN = ("x-forwarded-", "x-original-", "x-envoy-")
_BODILESS = ("GET", "HEAD")
# Where a credential of ours goes, the code sends none of its own. Nor does it order pieces of an answer that may repeat
# ours: only as a whole is it found and taken out.
_ANONYMOUS = frozenset({"authorization", "range", "if-range"})


class FetchRunner:
    """Runs tools with a `FetchBackend`; implements the `Runner` port."""

    def __init__(self, net: Client) -> None:
        self._net = net

    async def run(self, work: Work) -> RawOutput:
        """`{status, headers, body}`. Raises Refusal when nothing was sent, Failure when it may have been."""
        ask = _ask(work)
        answer = await self._net.request(ask)
        body = body_text(answer)
        if body is None:
            raise Failure(problem("output_invalid", "The answer is not UTF-8 text."))
        headers = {name: value for name, value in answer.headers.items() if name in SHOWN}
        return RawOutput("", {"status": answer.status, "headers": headers, "body": body}, origin=ask.url.host)


def _ask(work: Work) -> Ask:
    backend, given = work.tool.backend, work.arguments
    if not isinstance(backend, FetchBackend):
        raise TypeError("the fetch runner runs net.fetch")
    try:
        url = parse_url(str(given["url"]))
    except BadUrl as bad:
        raise refuse("egress_denied", f"The URL is not taken: {bad.reason}.") from None
    if given["method"] in _BODILESS and "body" in given:
        raise _unfit("none with GET or HEAD", "/body", "a body")
    secrets = tuple(use for use in work.tool.secrets if any(host_fits(host, url.host) for host in use.hosts))
    return Ask(
        str(given["method"]),
        url,
        _entries(backend.allow),
        work.deadline,
        _headers(given.get("headers"), secrets),
        _body(given.get("body")),
        secrets,
        MAX_BODY_BYTES,
        TEXT_TYPES,
        networks_of(work.networks),
        work.holder,
    )


@lru_cache(maxsize=1024)
def _entries(allow: tuple[str, ...]) -> tuple[Allow, ...]:
    try:
        return tuple(map(Allow.parse, allow))
    except BadAllow as bad:
        raise refuse("egress_denied", f"The tool's spec cannot be used: {bad}.") from None


def _headers(given: object, secrets: tuple[SecretUse, ...]) -> Headers:
    if not isinstance(given, Mapping):
        return ()
    ours = (
        OWN_HEADERS
        | _STEERING
        | {use.header.lower().replace("_", "-") for use in secrets}
        | (_ANONYMOUS if secrets else frozenset())
    )
    for name in given:
        plain = name.lower().replace("_", "-")  # some servers take one for the other
        if plain in ours or plain.startswith(_STEERING_BEGIN):
            raise _unfit("a header that code may set here")
    return tuple((name, str(value)) for name, value in given.items())


def _body(given: object) -> bytes | None:
    if given is None:
        return None
    body = str(given).encode()
    if len(body) > MAX_BODY_BYTES:
        raise _unfit(f"at most {MAX_BODY_BYTES} bytes", "/body", "too much")
    return body


def _unfit(allowed: str, pointer: str = "/headers", received: str = "one that the gateway sets") -> Refusal:
    fix = Fix(pointer, received, allowed)
    return Refusal(problem("invalid_arguments", f"At {pointer}: {received}, allowed: {allowed}.", fix=(fix,)))
