"""One question to one DNS server over UDP: the addresses of a name, A and AAAA.

It never opens the socket (`net.py` does), never caches, never asks twice. Answers that do not fit are passed over, so a
forged one cannot end the wait; the caller's deadline does.
"""

import asyncio
import secrets

from gateway.runners.addresses import Address, parse_address
from gateway.runners.dnswire import AAAA, A, BadAnswer, addresses, question


def endpoint(text: str) -> tuple[str, int]:
    """`address:port` of a DNS server; IPv6 in brackets. Raises ValueError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if parse_address(host) is None or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("a resolver is address:port")
    return host, int(port)


class Datagrams(asyncio.DatagramProtocol):
    """Asks for both kinds as soon as the socket is open. Its socket is connected, so only the server is heard."""

    def __init__(self, host: str) -> None:
        self._asked = {kind: question(secrets.randbits(16), host, kind) for kind in (A, AAAA)}
        self._found: dict[int, list[Address]] = {}
        self._all = asyncio.get_running_loop().create_future()

    async def addresses(self) -> list[Address]:
        """All addresses, IPv4 first. Raises OSError when the server cannot be asked."""
        await self._all
        return [*self._found[A], *self._found[AAAA]]

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # never another
        for query in self._asked.values():
            transport.sendto(query)

    def datagram_received(self, datagram: bytes, source: object) -> None:
        for kind, query in self._asked.items():
            if kind not in self._found:
                try:
                    self._found[kind] = addresses(datagram, query)
                except BadAnswer:
                    continue
        if len(self._found) == len(self._asked) and not self._all.done():
            self._all.set_result(None)

    def error_received(self, error: Exception) -> None:
        if not self._all.done():
            self._all.set_exception(error)
