"""A sink for signed heads that is an HTTP service: each head is one POST of the signed note, through the one client.

It carries no credential, follows no redirect and reads nothing from the answer but its status.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.allow import Allow
from gateway.ledger_ports import NotTaken, SignedHead
from gateway.model import Failure, Refusal
from gateway.runners.message import Ask
from gateway.runners.net import Net
from gateway.urls import parse_url

SECONDS = 4.0
_MAX_ANSWER = 64 * 1024


class Collector:
    """Takes a head once `url` has answered with 2xx. Any other answer, or none within `seconds`, is `NotTaken`."""

    def __init__(
        self, url: str, net: Net, seconds: float = SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `BadUrl`."""
        self.name = url
        self._url = parse_url(url)
        self._allow = (Allow.fixed("POST", self._url),)
        self._net = net
        self._seconds = seconds
        self._monotonic = monotonic

    async def take(self, head: SignedHead) -> None:
        headers = (("content-type", "text/plain; charset=utf-8"),)
        deadline = self._monotonic() + self._seconds
        ask = Ask("POST", self._url, self._allow, deadline, headers, head.note, max_bytes=_MAX_ANSWER)
        try:
            answer = await self._net.request(ask)
        except (Refusal, Failure) as error:
            raise NotTaken(error.problem.detail) from error
        if not 200 <= answer.status < 300:
            raise NotTaken(f"it answered with {answer.status}")
