"""Allow-list entries for outgoing requests: `METHOD scheme://host[:port]/path-glob`.

An entry is matched against a parsed `Url`, never against text: scheme, port and method are equal, the host is equal or
(for `*.example.org`) has at least one more label, the path fits a glob. `*` stands for characters within one segment,
a segment `**` for any number of segments. The query is free. Pure; it never resolves or dials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from gateway.globs import matches
from gateway.urls import BadUrl, Url, parse_url

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


class BadAllow(ValueError):
    """The text is no allow-list entry; the message says why."""


@dataclass(frozen=True, slots=True)
class Allow:
    """One entry. `suffix` is set (with its leading dot) when the host began with `*.`; `path` None is any path.

    `address` is set when the host is an IP literal: an operator who writes a literal allows exactly that address.
    """

    method: str
    scheme: str
    host: str
    port: int
    path: tuple[str, ...] | None = None
    suffix: str | None = None
    address: IPv4Address | IPv6Address | None = None

    @classmethod
    def parse(cls, text: str) -> Allow:
        """Raises BadAllow."""
        method, space, rest = text.partition(" ")
        if not space or method not in METHODS:
            raise BadAllow(f"an entry reads METHOD scheme://host/path, with a method of {', '.join(sorted(METHODS))}")
        wild = "://*." in rest
        try:
            url = parse_url(rest.replace("://*.", "://", 1))
        except BadUrl as bad:
            raise BadAllow(bad.reason) from None
        if url.query is not None:
            raise BadAllow("an entry has no query")
        if wild and (url.literal_ip or "." not in url.host):
            raise BadAllow("*. stands before a name of at least two labels")
        suffix = f".{url.host}" if wild else None
        return cls(method, url.scheme, url.host, url.port, tuple(url.path.split("/")), suffix, url.address)

    @classmethod
    def fixed(cls, method: str, url: Url) -> Allow:
        """Every path of the scheme, host and port that an operator wrote into a URL."""
        return cls(method, url.scheme, url.host, url.port, address=url.address)

    def permits(self, method: str, url: Url) -> bool:
        """Does this entry allow the request?"""
        return (
            method == self.method
            and url.scheme == self.scheme
            and url.port == self.port
            and (url.host == self.host if self.suffix is None else url.host.endswith(self.suffix))
            and (self.path is None or _path_fits(self.path, url.path))
        )


Networks = tuple[tuple[Allow, ...], ...]


@lru_cache(maxsize=1024)
def networks_of(lists: tuple[tuple[str, ...], ...]) -> Networks:
    """Several lists of entries, parsed. Raises BadAllow."""
    return tuple(tuple(map(Allow.parse, entries)) for entries in lists)


def within(networks: Networks, method: str, url: Url) -> bool:
    """Does an entry of *each* list allow the request? Where there is no list, any request is within them."""
    return all(find(entries, method, url) is not None for entries in networks)


def find(entries: Iterable[Allow], method: str, url: Url) -> Allow | None:
    """The first entry that allows the request."""
    return next((entry for entry in entries if entry.permits(method, url)), None)


def _path_fits(glob: Sequence[str], path: str) -> bool:
    if not _segments_fit(glob, path.split("/")):
        return False
    # Some servers take an encoded slash for a slash: the path has to fit both ways.
    plain = path.replace("%2F", "/").replace("%5C", "/")
    return plain == path or _segments_fit(glob, plain.split("/"))


def _segments_fit(glob: Sequence[str], segments: Sequence[str]) -> bool:
    """Two pointers and one point to come back to: linear in practice, never exponential."""
    at = here = 0
    star, mark = -1, 0
    while here < len(segments):
        if at < len(glob) and glob[at] == "**":
            star, mark, at = at, here, at + 1
        elif at < len(glob) and matches(glob[at], segments[here]):
            at, here = at + 1, here + 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return all(part == "**" for part in glob[at:])
