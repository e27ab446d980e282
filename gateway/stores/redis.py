"""Where the Redis of the setting `store` is. It connects to nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.stores.resp import Address

DEADLINE = 0.1  # seconds for each answer
_DEADLINES = (0.01, 10.0)


def address_of(url: str) -> Address:
    """What a URL says: `redis://[USER:PASSWORD@]HOST:PORT/DB`, `rediss://…` (TLS), `unix://PATH?db=DB`.

    `?deadline=0.1` are the seconds within which Redis has to answer, `?ca=FILE` the certificates that alone are trusted
    with TLS. Raises `ValueError`, in a sentence.
    """
    parts = urlsplit(url)
    asked = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if asked.keys() - {"db", "deadline", "ca"}:
        raise ValueError("of a Redis URL only ?db=, ?deadline= and ?ca= are known")
    ca = asked.get("ca", "")
    if ca and (parts.scheme != "rediss" or not Path(ca).is_file()):
        raise ValueError("?ca= of a Redis URL is a file of certificates, with rediss://")
    deadline, db = _seconds(asked.get("deadline")), asked.get("db") or parts.path.strip("/") or "0"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("a Redis on a unix socket is unix://PATH")
        return Address(
            path=unquote(parts.path), db=_number(asked.get("db", "0")), user=user, password=password, deadline=deadline
        )
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("a Redis is redis://HOST:PORT/N, rediss://HOST:PORT/N or unix://PATH")
    tls = parts.scheme == "rediss"
    return Address(parts.hostname, parts.port or 6379, "", tls, _number(db), user, password, deadline, ca)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > 999:
        raise ValueError("the database of a Redis URL is a number")
    return int(text)


def _seconds(text: str | None) -> float:
    try:
        seconds = DEADLINE if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not _DEADLINES[0] <= seconds <= _DEADLINES[1]:
        raise ValueError("?deadline= of a Redis URL are seconds, 0.01 to 10")
    return seconds
