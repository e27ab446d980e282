"""What is asked of an upstream and what it answers, as values: request bytes, media types, redirects.

Pure; it never dials and never reads a secret. A request that cannot be written unambiguously is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.allow import Allow, Networks, find, within
from gateway.model import Failure, Holder
from gateway.problems import problem, refuse
from gateway.tool import SecretUse
from gateway.urls import BadUrl, Url, parse_url

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_REDIRECTS = 3
JSON_TYPES = frozenset({"application/json", "*+json"})

Headers = Sequence[tuple[str, str]]

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OURS = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
_CREDENTIALS = frozenset({"authorization", "cookie"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_KEEP_METHOD = frozenset({307, 308})
_REDIRECTS = frozenset({301, 302, 303}) | _KEEP_METHOD


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to an upstream.

    `allow` holds the entries of which one has to permit it, `networks` lists of which each has to besides; `deadline`
    is in monotonic seconds; `max_bytes` bounds the answer's body after decompression. `content_types` (of a 2xx answer)
    are media types, `text/*` or `*+json`; None takes any. `secrets` are revealed and put into headers only once the
    host is found to be one of theirs, for `holder`.
    """

    method: str
    url: Url
    allow: Sequence[Allow]
    deadline: float
    headers: Headers = field(default=(), repr=False)  # a client's own credential may stand there, or in the body
    body: bytes | None = field(default=None, repr=False)
    secrets: Sequence[SecretUse] = ()
    max_bytes: int = MAX_BODY_BYTES
    content_types: Collection[str] | None = None
    networks: Networks = ()
    holder: Holder | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are lower case, repeated ones joined by `, `; `body` is decompressed.

    `content_type` is the media type in lower case without parameters, empty when there is none.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)  # a token endpoint answers with tokens
    content_type: str


def permitted(ask: Ask) -> Allow:
    """The entry of the tool's allow list that permits the request. Refuses what none permits, or policy does not."""
    entry = find(ask.allow, ask.method, ask.url)
    if entry is None:
        raise refuse("egress_denied", "The method, host, port and path are not on this tool's allow list.")
    if not within(ask.networks, ask.method, ask.url):
        raise refuse("egress_denied", "The policy does not let this call send such a request there.")
    return entry


def request_bytes(ask: Ask, credentials: Headers) -> bytes:
    """The request as it goes over the wire. Refuses headers that would be read in two ways."""
    lines = [f"{ask.method} {ask.url.target} HTTP/1.1\r\nhost: {ask.url.authority}\r\naccept-encoding: gzip\r\n"]
    names = set()
    for name, value in (*ask.headers, *credentials):
        lower = name.lower()
        if not name or not _TOKEN.issuperset(name) or lower in _OURS or lower in names:
            raise refuse("egress_denied", "A header of the request has a name that may not be sent.")
        if not (value.isascii() and value.isprintable()):
            raise refuse("egress_denied", "A header of the request has characters that may not be sent.")
        names.add(lower)
        lines.append(f"{lower}: {value}\r\n")
    if "accept" not in names:
        lines.append("accept: */*\r\n")
    if "user-agent" not in names:
        lines.append("user-agent: toolgate\r\n")
    if ask.body is not None or ask.method in _WITH_BODY:
        lines.append(f"content-length: {len(ask.body or b'')}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("ascii") + (ask.body or b"")


def media_type(headers: Mapping[str, str]) -> tuple[str, str | None]:
    """Media type and charset of an answer, lower case (RFC 9110, 8.3). The type is empty when there is none."""
    kind, _, parameters = headers.get("content-type", "").partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return kind.strip().lower(), value.strip().strip('"').lower()
    return kind.strip().lower(), None


def type_fits(kind: str, accepted: Collection[str]) -> bool:
    """Is a media type one of `accepted`, which may hold `text/*` and `*+json`?"""
    return kind in accepted or f"{kind.partition('/')[0]}/*" in accepted or f"*+{kind.rpartition('+')[2]}" in accepted


def check_type(ask: Ask, status: int, headers: Mapping[str, str], empty: bool) -> None:
    """Raise Failure when a 2xx answer's media type was not asked for; an empty answer needs none."""
    if ask.content_types is None or not 200 <= status < 300:
        return
    kind = media_type(headers)[0]
    if not type_fits(kind, ask.content_types) and not (empty and not kind):
        raise Failure(problem("output_invalid", "The answer has a content type that this tool does not take."))


def redirected(ask: Ask, answer: Answer) -> Ask | None:
    """The next request of a redirect; None when the answer is none.

    Credentials stay behind when scheme, host or port change. Raises Failure for a target that may not be followed
    (something was sent already, so it is no Refusal).
    """
    location = answer.headers.get("location")
    if answer.status not in _REDIRECTS or location is None:
        return None
    target = location.partition("#")[0]
    # Whole URLs and absolute paths only: parsers differ on what else a location may mean.
    if target.startswith("/") and not target.startswith("//"):
        target = f"{ask.url.scheme}://{ask.url.authority}{target}"
    try:
        url = parse_url(target)
    except BadUrl as bad:
        raise Failure(problem("egress_denied", f"The redirect was not followed: {bad.reason}.")) from None
    if ask.url.scheme == "https" and url.scheme != "https":
        raise Failure(problem("egress_denied", "The redirect was not followed: it leaves https."))
    keep = answer.status in _KEEP_METHOD or ask.method in ("GET", "HEAD")
    following = replace(ask, url=url) if keep else replace(ask, url=url, method="GET", body=None)
    if (url.scheme, url.host, url.port) != (ask.url.scheme, ask.url.host, ask.url.port):
        headers = tuple(header for header in ask.headers if header[0].lower() not in _CREDENTIALS)
        following = replace(following, headers=headers, secrets=())
    return following
