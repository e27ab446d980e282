"""Derived facts: what an argument's text *means*, so that policy never has to guess with patterns.

Each kind reads one value and gives a plain JSON value, or raises `NotDerivable`; then the fact is absent and every
clause that names it is in error. Kinds: `url`, `host`, `path`, `email`, `email_list`, `repo_path`, `shell_words`.

It never resolves a name, never touches a file and never corrects a value.
"""

import posixpath
import shlex
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gateway.tool import Json
from gateway.urls import BadUrl, misleads, parse_host, parse_url

MAX_CHARS = 8192
MAX_ADDRESSES = 200

# As RFC 5321 has them, but for `!` and `%`: some mail systems take those for a route to another domain.
_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.#$&'*+/=?^_`{|}~-")
_REPO = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
# Outside quotes these mean more than a word to a shell, so the words would not be the whole truth.
_SHELL_ACTIVE = frozenset("|&;<>()$`*?[]{}~!#\n\r")


class NotDerivable(ValueError):
    """The value has no such fact."""


def derive(kinds: Mapping[str, str], arguments: Mapping[str, Json]) -> dict[str, Json]:
    """The facts of a call: argument name → fact, for the arguments a spec gives a kind. Absent where not derivable."""
    found: dict[str, Json] = {}
    for name, kind in kinds.items():
        if name in arguments:
            try:
                found[name] = KINDS[kind](arguments[name])
            except (NotDerivable, BadUrl):
                continue
    return found


def why_not(kind: str, value: Json) -> str | None:
    """Why a value has no fact of a kind, in fixed words that never quote it; None when it has one."""
    try:
        KINDS[kind](value)
    except (NotDerivable, BadUrl) as error:
        return str(error)
    return None


def _url(value: Json) -> Json:
    """`{scheme, host, port, path, has_userinfo}` of a URL; user-info makes the fact absent, so it is always false."""
    url = parse_url(_text(value))
    return {"scheme": url.scheme, "host": url.host, "port": url.port, "path": url.path, "has_userinfo": False}


def _host(value: Json) -> Json:
    """The canonical host name or address."""
    return parse_host(_text(value)).name


def _path(value: Json) -> Json:
    """`{canonical}`: an absolute path with no `.`, `..`, doubled or trailing slash; absent when it hides any.

    Symbolic links are not followed.
    """
    text = _text(value)
    if not text.startswith("/") or "\\" in text:
        raise NotDerivable("not an absolute path")
    canonical = "/" + posixpath.normpath(text).lstrip("/")
    if misleads(canonical):
        raise NotDerivable("dot segments in disguise")
    return {"canonical": canonical}


def _email(value: Json) -> Json:
    """`{local, domain}` of one plain address (RFC 5321 dot-string, no quotes, comments, display name or route)."""
    local, at, domain = _text(value).rpartition("@")
    if not at or not 0 < len(local) <= 64 or not _LOCAL.issuperset(local):
        raise NotDerivable("not a plain e-mail address")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise NotDerivable("dots in the wrong place")
    host = parse_host(domain)
    if host.address is not None or domain.endswith("."):
        raise NotDerivable("the domain is no name")
    return {"local": local, "domain": host.name}


def _email_list(value: Json) -> Json:
    """A list of `{local, domain}`; one bad address makes the whole fact absent."""
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise NotDerivable("not a list of addresses")
    return [_email(each) for each in value]


def _repo_path(value: Json) -> Json:
    """`{owner, name}` of `owner/name`."""
    owner, slash, name = _text(value).partition("/")
    for part in (owner, name):
        if not slash or not 0 < len(part) <= 100 or not _REPO.issuperset(part) or not part.strip("."):
            raise NotDerivable("not owner/name")
    return {"owner": owner, "name": name}


def _shell_words(value: Json) -> Json:
    """The words of a command line that is nothing but words: any other meaning to a shell makes the fact absent."""
    text = _text(value)
    if _SHELL_ACTIVE.intersection(text):
        raise NotDerivable("more than words to a shell")
    try:
        return list(shlex.split(text, posix=True))
    except ValueError:
        raise NotDerivable("a quote is not closed") from None


def _text(value: Json) -> str:
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        raise NotDerivable("not a short text")
    if not value.isprintable() and any(unicodedata.category(each) == "Cc" for each in value):
        raise NotDerivable("not a text without control characters")
    return value


KINDS: Mapping[str, Callable[[Json], Json]] = MappingProxyType(
    {
        "url": _url,
        "host": _host,
        "path": _path,
        "email": _email,
        "email_list": _email_list,
        "repo_path": _repo_path,
        "shell_words": _shell_words,
    }
)
