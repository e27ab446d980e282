"""Secrets of HashiCorp Vault or OpenBao: `vault:MOUNT/PATH#FIELD`, a field of a KV version 2 secret, over its HTTP API.

Asked for when a call needs it, through the one outbound client, and kept for some seconds; while the server is away a
value that was read is used for some minutes more. It never lists, writes or renews anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

from gateway import strictjson
from gateway.allow import Allow
from gateway.identity.vault import BadSecret
from gateway.model import Failure, Holder, Refusal
from gateway.runners.message import JSON_TYPES, Answer, Ask
from gateway.tool import Json, SecretUse
from gateway.urls import BadUrl, Url, parse_url

FRESH_SECONDS: Final = 60.0
STALE_SECONDS: Final = 600.0
_WAIT_SECONDS = 5.0
_MAX_BYTES = 64 * 1024
_FORM = "it reads vault:MOUNT/PATH#FIELD"


class Client(Protocol):
    """The outbound client, as much of it as is needed here."""

    async def request(self, ask: Ask, follow: int = 0) -> Answer: ...


@dataclass(frozen=True, slots=True)
class KvServer:
    """Where it is. `token` is the source of the token to read with (`env:NAME`, `file:PATH`)."""

    url: str
    token: str
    namespace: str | None = None


class KvVault:
    """A source of secrets."""

    def __init__(self, server: KvServer, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises `BadUrl`."""
        self._base = parse_url(server.url.rstrip("/") + "/v1/")
        self._token = SecretUse("vault", server.token, (self._base.host,), "X-Vault-Token", "{}")
        self._namespace = server.namespace
        self._client, self._monotonic = client, monotonic
        self._known: dict[str, tuple[float, Json]] = {}
        self._asking: dict[str, asyncio.Task[Json]] = {}

    def peek(self, place: str) -> None:
        """Raises `BadSecret` for what is no place."""
        if self._url(place) is None:
            raise BadSecret(_FORM)

    async def fetch(self, place: str, holder: Holder | None) -> str:
        """The field. Raises `BadSecret`."""
        path, _, name = place.partition("#")
        fields = await self._secret(path, place)
        value = fields.get(name) if isinstance(fields, dict) else None
        if not isinstance(value, str):
            raise BadSecret("the secret there has no such field with a text")
        return value

    async def _secret(self, path: str, place: str) -> Json:
        read_at, known = self._known.get(path, (float("-inf"), None))
        age = self._monotonic() - read_at
        if age < FRESH_SECONDS:
            return known
        task = self._asking.get(path)
        if task is None:
            task = self._asking[path] = asyncio.create_task(self._ask(place))
            task.add_done_callback(lambda _: self._asking.pop(path, None))
        try:
            fields = await asyncio.shield(task)
        except _Away:
            if age < STALE_SECONDS:
                return known
            raise BadSecret("the vault cannot be reached") from None
        self._known[path] = (self._monotonic(), fields)
        return fields

    async def _ask(self, place: str) -> Json:
        url = self._url(place)
        if url is None:
            raise BadSecret(_FORM)
        headers = [("accept", "application/json"), ("x-vault-request", "true")]
        if self._namespace:
            headers.append(("x-vault-namespace", self._namespace))
        deadline = self._monotonic() + _WAIT_SECONDS
        allow = (Allow.fixed("GET", url),)
        ask = Ask("GET", url, allow, deadline, headers, None, (self._token,), _MAX_BYTES, JSON_TYPES)
        try:
            answer = await self._client.request(ask)
        except (Refusal, Failure):
            raise _Away from None
        if answer.status >= 500 or answer.status in (412, 429, 472, 473):
            raise _Away
        if answer.status != 200:
            self._known.pop(place.partition("#")[0], None)
            raise BadSecret("the vault has no such secret" if answer.status == 404 else "the vault does not give it")
        return _fields(answer.body)

    def _url(self, place: str) -> Url | None:
        path, mark, field = place.partition("#")
        mount, slash, rest = path.partition("/")
        parts = [mount, *rest.split("/")]
        if not (mark and field and slash) or any(part in ("", ".", "..") for part in parts):
            return None
        safe = [quote(part, safe="") for part in parts]
        try:
            return parse_url(f"{self._base}{safe[0]}/data/{'/'.join(safe[1:])}")
        except BadUrl:
            return None


class _Away(Exception):
    """The server cannot be asked now."""


def _fields(body: bytes) -> Json:
    """`data.data` of an answer."""
    try:
        outer = strictjson.loads(body, max_bytes=_MAX_BYTES)
    except ValueError:
        raise BadSecret("the vault's answer is not understood") from None
    inner = outer.get("data") if isinstance(outer, dict) else None
    return inner.get("data") if isinstance(inner, dict) else None
