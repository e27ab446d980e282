"""Tells people's own systems that a call waits: one signed POST for each (Standard Webhooks), through the one client.

No call ever waits for it. It carries what identifies the parked call, never its arguments; whoever is told looks at
them with a key of their own. What could not be delivered in time is given up: the call still waits to be answered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway import display, strictjson
from gateway.allow import Allow
from gateway.model import Failure, Refusal
from gateway.parked import Parked
from gateway.ports import Clock, Vault
from gateway.runners.message import Answer, Ask
from gateway.tool import Json, SecretUse
from gateway.urls import parse_url

log = logging.getLogger("toolgate")
ATTEMPTS = 8
FIRST_WAIT = 1.0  # seconds before the second attempt; each further wait is twice as long
SECONDS = 10.0  # one attempt may take
WAITING = 1024  # notices kept until they can be sent; of more, the newest is left out
_AT_ONCE = 4
_GONE = 410  # the receiver wants no more of this one
_MAX_ANSWER = 64 * 1024
_PREFIX = "whsec_"
_MOST = 200  # characters of a name


class Client(Protocol):
    """The outbound client, as much of `net.Net` as this needs."""

    async def request(self, ask: Ask, follow: int = 0) -> Answer: ...


class Webhook:
    """The port `Notices`; `deliver` has to run beside it."""

    def __init__(
        self,
        url: str,
        secret: str,
        net: Client,
        vault: Vault,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`secret` is where the key is (`env:NAME`, `file:PATH`), read at each attempt. Raises `BadUrl`."""
        self._url = parse_url(url)
        self._allow = (Allow.fixed("POST", self._url),)
        self._secret = secret_of(secret)
        self._net, self._vault, self._clock, self._sleep = net, vault, clock, sleep
        self._waiting: asyncio.Queue[Parked] = asyncio.Queue(WAITING)

    def asked(self, parked: Parked) -> None:
        try:
            self._waiting.put_nowait(parked)
        except asyncio.QueueFull:
            log.warning("nobody was told of the approval %s: too many notices wait", parked.id)

    async def deliver(self) -> None:
        """Sends what there is to send, until it is cancelled."""
        await asyncio.gather(*(self._work() for _ in range(_AT_ONCE)))

    async def drained(self) -> None:
        """Returns once every notice so far was taken, or given up."""
        await self._waiting.join()

    async def _work(self) -> None:
        while True:
            parked = await self._waiting.get()
            if not await self._told(parked):
                log.warning("nobody was told of the approval %s: the webhook did not take it", parked.id)
            self._waiting.task_done()

    async def _told(self, parked: Parked) -> bool:
        body = strictjson.canonical(notice(parked))
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._sleep(FIRST_WAIT * 2 ** (attempt - 1))
            if self._clock.now() >= parked.expires_at:
                return False
            try:
                status = await self._post(parked.id, body)
            except (Refusal, Failure):
                continue
            if 200 <= status < 300 or status == _GONE:
                return True
        return False

    async def _post(self, message: str, body: bytes) -> int:
        at = str(int(self._clock.now()))
        key = key_of(await self._vault.reveal(self._secret, None))
        headers = (
            ("content-type", "application/json"),
            ("webhook-id", message),
            ("webhook-timestamp", at),
            ("webhook-signature", signature(key, message, at, body)),
        )
        deadline = self._clock.monotonic() + SECONDS
        ask = Ask("POST", self._url, self._allow, deadline, headers, body, max_bytes=_MAX_ANSWER)
        return (await self._net.request(ask)).status


def secret_of(source: str) -> SecretUse:
    """The key that signs, from where settings say that it is."""
    return SecretUse("approvals.secret", source, (), "", "{}")


def notice(parked: Parked) -> dict[str, Json]:
    """The message: what waits, for whom, until when, and the digest of the arguments in place of them."""
    return {
        "type": "approval.requested",
        "timestamp": _iso(parked.asked_at),
        "data": {
            "id": parked.id,
            "tool": display.line(parked.tool, _MOST),
            "tool_digest": parked.tool_digest,
            "tenant": display.line(parked.tenant, _MOST),
            "agent": display.line(parked.agent, _MOST),
            "user": None if parked.user is None else display.line(parked.user, _MOST),
            "needs": [{"rule": each.rule, "by": list(each.by)} for each in parked.needs],
            "arguments_digest": display.digest(parked.arguments),
            "expires_at": _iso(parked.expires_at),
            "path": f"/v1/approvals/{parked.id}",
        },
    }


def key_of(secret: str) -> bytes:
    """The signing key: of `whsec_…` what is in Base64 after that, of any other text its UTF-8 bytes."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def signature(key: bytes, message: str, at: str, body: bytes) -> str:
    """`v1,` and Base64 of HMAC-SHA-256 over `id.timestamp.body` (Standard Webhooks 1.0)."""
    signed = b".".join((message.encode(), at.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
