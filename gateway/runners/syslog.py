"""A sink for signed heads that is a syslog receiver: RFC 5424 over TCP, framed by octet counting (RFC 6587 §3.4.1).

Syslog has no answer, so a head counts as taken when the receiver has read all of it and closes the connection, which it
is asked to by its end. A connection carries one message: it is never kept, and nothing is sent in two pieces.
"""

from __future__ import annotations

import os
import socket
import time

from gateway.audit.drops import PRIORITY, told
from gateway.ledger_ports import NotTaken, SignedHead
from gateway.model import Failure, Refusal
from gateway.runners.net import Net
from gateway.urls import Url

SECONDS = 4.0


class Receiver:
    """Takes heads at host and port of `url`; `name` is how its operator wrote it down."""

    def __init__(self, name: str, url: Url, net: Net, seconds: float = SECONDS) -> None:
        self.name = name
        self._url = url
        self._net = net
        self._seconds = seconds

    async def take(self, head: SignedHead) -> None:
        octets = _message(head).encode("ascii")
        try:
            await self._net.deliver(self._url, b"%d %b" % (len(octets), octets), self._seconds)
        except (Refusal, Failure) as error:
            raise NotTaken(error.problem.detail) from error


def _message(head: SignedHead) -> str:
    """Without structured data: the message is the line that every sink of lines gets, which is ASCII."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    host = socket.gethostname()
    known = host if host.isascii() and host.isprintable() and 0 < len(host) < 256 and " " not in host else "-"
    return f"<{PRIORITY}>1 {at} {known} toolgate {os.getpid()} checkpoint - {told(head)}"
