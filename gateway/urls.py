"""The one URL parser: text in, one canonical value out, or a refusal. Keep the value, never parse the text again.

Follows the WHATWG URL Standard for http and https and refuses what parsers are known to disagree about: other schemes,
missing slashes, user-info, backslashes, control and white space, fragments, `%` in the host, dot segments, hosts that
are not valid IDNA. An IP literal in any form libc takes (octal, hex, short, one number, full-width digits, trailing
dot, IPv4 mapped into IPv6) comes out as an address, so that the caller can judge it.

It never resolves a name, never judges whether an address may be dialled, and never quotes the text in a reason.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote

import idna

MAX_URL_CHARS = 8192
MAX_HOST_CHARS = 253

DEFAULT_PORTS = {"http": 80, "https": 443}
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}
_DIGITS = frozenset("0123456789")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_UNQUOTED = 4  # times that a path is decoded to see what it hides; one that still changes then hides something
_PLAIN = _UNRESERVED | frozenset("/=&")  # what most paths and queries are made of
_PATH_SAFE = "/:@!$&'()*+,;=~"
_QUERY_SAFE = _PATH_SAFE + "?"


class BadUrl(ValueError):
    """The text is no URL (or host) that everybody would read alike; `reason` is a fixed phrase."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Host:
    """A canonical host: lower-case A-labels without a trailing dot, or an IP literal, shortest form, no brackets.

    `address` is set exactly when the text was an IP literal.
    """

    name: str
    address: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Url:
    """A canonical http or https URL.

    `host` has no brackets; `port` is always set; `path` starts with `/`; `query` is without `?`, None when there is no
    `?`. Path and query are ASCII: percent-encoded where needed, decoded where the character is unreserved (RFC 3986).
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str | None = None
    address: IPv4Address | IPv6Address | None = None

    @property
    def literal_ip(self) -> bool:
        """The host is an IP literal, not a name."""
        return self.address is not None

    @property
    def authority(self) -> str:
        """`host` or `host:port` as a Host header has it: brackets for IPv6, no default port."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query as the request line has them."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Parse an absolute http(s) URL. Raises BadUrl."""
    if len(text) > MAX_URL_CHARS:
        raise BadUrl(f"longer than {MAX_URL_CHARS} characters")
    _check_characters(text)
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS:
        raise BadUrl("a URL starts with http:// or https://")
    if "#" in rest:
        raise BadUrl("a fragment is not taken")
    before, mark, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    host, port = _split_authority(authority)
    parsed = parse_host(host)
    return Url(
        scheme=scheme,
        host=parsed.name,
        port=DEFAULT_PORTS[scheme] if port is None else port,
        path=_canonical_path(slash + path),
        query=_canonical_escapes(query, _QUERY_SAFE) if mark else None,
        address=parsed.address,
    )


@lru_cache(maxsize=4096)  # the same few hosts come again and again; what is refused is not kept
def parse_host(text: str) -> Host:
    """Canonical form of a host name, an IPv4 literal in any form, or an IPv6 literal in brackets. Raises BadUrl."""
    _check_characters(text)
    if not text:
        raise BadUrl("the host is empty")
    if "%" in text:
        raise BadUrl("a % in the host is not taken")
    if text.startswith("["):
        return _ipv6(text)
    name = (text.lower() if text.isascii() else _mapped(text)).removesuffix(".")
    if not name or len(name) > MAX_HOST_CHARS:
        raise BadUrl(f"a host has 1 to {MAX_HOST_CHARS} characters")
    last = name.rpartition(".")[2]
    if last and (last[0] in _DIGITS and (_DIGITS.issuperset(last) or last.startswith("0x"))):
        address = _ipv4(name)
        return Host(str(address), address)
    for label in name.split("."):
        _check_label(label)
    return Host(name)


def misleads(path: str) -> bool:
    """Whether a path with slashes may lead elsewhere than it says, to whoever reads it less plainly.

    That is a `.` or `..` segment, also for those who decode it (again), take a backslash for a slash, drop what follows
    a `;`, trailing spaces or invisible characters, or fold compatibility forms like the full-width full stop; and a
    control character or a byte that stands in no text, to who decodes it carelessly.
    """
    plain = path
    if "%" in path or not path.isascii():
        for _ in range(_UNQUOTED):
            plain = unquote(plain)
        if unquote(plain) != plain or "%C0" in path.upper() or "%C1" in path.upper():
            return True
        kept = (letter for letter in unicodedata.normalize("NFKC", plain) if unicodedata.category(letter) != "Cf")
        plain = "".join(kept)
        if any(unicodedata.category(letter) == "Cc" for letter in plain):
            return True
    segments = plain.replace("\\", "/").split("/")
    return any(segment.partition(";")[0].rstrip() in (".", "..") for segment in segments)


def _check_characters(text: str) -> None:
    if "\\" in text:
        raise BadUrl("a backslash is not taken")
    if text.isascii():
        if not text.isprintable() or " " in text:
            raise BadUrl("white space or a control character")
    elif any(unicodedata.category(letter) in _INVISIBLE for letter in text):
        raise BadUrl("white space, a control or an invisible character")


def _split_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise BadUrl("user-info before the host is not taken")
    closing = authority.rfind("]") + 1
    host, colon, port = authority[closing:].partition(":")
    host = authority[:closing] + host
    if not colon:
        return host, None
    if not port or len(port) > 5 or not _DIGITS.issuperset(port) or not 0 < int(port) < 65536:
        raise BadUrl("a port is a number from 1 to 65535")
    return host, int(port)


def _mapped(text: str) -> str:
    """UTS #46 mapping to A-labels: full-width digits, ideographic full stops and the like become plain ones."""
    try:
        letters = [idna.uts46_remap(letter, std3_rules=True, transitional=False) for letter in text]
        if "" in letters:  # dropped by the newest tables, part of the name to older ones
            raise BadUrl("an invisible character in the host")
        mapped: str = idna.uts46_remap(text, std3_rules=True, transitional=False)
        return mapped if mapped.isascii() else idna.encode(mapped, strict=True).decode()
    except (idna.IDNAError, UnicodeError):
        raise BadUrl("the host is not a valid international name") from None


def _check_label(label: str) -> None:
    if not 0 < len(label) < 64 or not _LABEL.issuperset(label) or label[0] == "-" or label[-1] == "-":
        raise BadUrl("a host is labels of letters, digits and inner hyphens, 63 characters each, joined by dots")
    if label.startswith("xn--"):
        try:
            plain = idna.ulabel(label)
            again = idna.alabel(plain).decode()
        except (idna.IDNAError, UnicodeError):
            again = ""
        if again != label:
            raise BadUrl("the host is not a valid international name")


def _ipv6(text: str) -> Host:
    if not text.endswith("]"):
        raise BadUrl("an IPv6 host stands in brackets")
    try:
        address = IPv6Address(text[1:-1])
    except ValueError:
        raise BadUrl("not an IPv6 address") from None
    mapped = address.ipv4_mapped  # what the kernel dials
    return Host(str(mapped or address), mapped or address)


def _ipv4(name: str) -> IPv4Address:
    """The WHATWG IPv4 parser, which takes what `inet_aton` takes: up to four parts, the last fills what is left."""
    parts = [_ipv4_part(part) for part in name.split(".")]
    *heads, last = parts
    if len(parts) > 4 or any(head > 255 for head in heads) or last >= 256 ** (5 - len(parts)):
        raise BadUrl("the host looks like an IPv4 address and is none")
    return IPv4Address(sum(head << (24 - 8 * place) for place, head in enumerate(heads)) + last)


def _ipv4_part(part: str) -> int:
    digits, base = (part[2:], 16) if part.startswith("0x") else (part, 8 if part.startswith("0") else 10)
    # The length bound keeps a number of thousands of digits from being built.
    if digits and len(digits) < 64 and _HEX_DIGITS.issuperset(digits):
        try:
            return int(digits, base)
        except ValueError:
            pass
    raise BadUrl("the host looks like an IPv4 address and is none")


def _canonical_path(path: str) -> str:
    canonical = _canonical_escapes(path, _PATH_SAFE) or "/"
    if ("." in canonical or "%" in canonical) and misleads(canonical):
        raise BadUrl("a path with . or .. segments is not taken, nor one that hides them or control characters")
    return canonical


def _canonical_escapes(part: str, safe: str) -> str:
    """Percent-encode what needs it; decode escaped unreserved characters; write the other escapes in upper case."""
    if _PLAIN.issuperset(part):
        return part
    first, *rest = part.split("%")
    pieces = [quote(first, safe)]
    for piece in rest:
        digits = piece[:2]
        if len(digits) != 2 or not _HEX_DIGITS.issuperset(digits):
            raise BadUrl("a % is followed by two hex digits")
        letter = chr(int(digits, 16))
        pieces.append(letter if letter in _UNRESERVED else f"%{digits.upper()}")
        pieces.append(quote(piece[2:], safe))
    return "".join(pieces)
