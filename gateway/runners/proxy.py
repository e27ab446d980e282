"""A tunnel through a forward proxy: CONNECT (RFC 9110 §9.3.6), over a socket that is connected to the proxy already.

It opens no socket, reads nothing past the proxy's answer, and says nothing of that answer but its status.
"""

from __future__ import annotations

import asyncio
import socket

MAX_ANSWER = 8192
_END = b"\r\n\r\n"


class NoTunnel(OSError):
    """The proxy does not let us through."""


async def tunnel(opened: socket.socket, authority: str) -> None:
    """Asks for `authority` (`host:port`); when this returns the socket reaches it. Raises `OSError`, `NoTunnel`."""
    loop = asyncio.get_running_loop()
    request = f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: toolgate\r\n\r\n"
    await loop.sock_sendall(opened, request.encode("ascii"))
    answer = b""
    while not answer.endswith(_END):
        # One by one: what comes after the answer is the upstream's.
        octet = await loop.sock_recv(opened, 1)
        answer += octet
        if not octet or len(answer) > MAX_ANSWER:
            raise NoTunnel("the proxy gave no answer")
    version, _, rest = answer.partition(b" ")
    if not version.startswith(b"HTTP/1.") or rest[:1] != b"2" or not rest[:3].isdigit():
        raise NoTunnel("the proxy refused")
