"""A syslog receiver of signed heads: whole messages, framed, over connections that both sides end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.heads import make_sink
from gateway.ledger_ports import HeadSink, NotTaken, SignedHead
from gateway.runners.net import Net
from gateway.runners.syslog import Receiver
from gateway.urls import parse_url
from tests.gateway.runners.servers import Resolver, new_net

Run = Callable[[Coroutine[Any, Any, None]], None]
HEAD = SignedHead("w1", 7, b"toolgate-1/w1\n7\nAAAA\n\n\xe2\x80\x94 toolgate-1 BBBB\n")
TOLD = {"shard": "w1", "size": 7, "checkpoint": HEAD.note.decode()}
# HEADER of RFC 5424 §6, without structured data
HEADER = re.compile(r"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([!-~]{1,255}) toolgate (\d+) checkpoint - ")


@asynccontextmanager
async def listening(*, closes: bool = True, resets: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A receiver on a port: what each connection sent. One that does not close keeps the connection half open."""
    received: list[bytes] = []
    done = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if resets:
            connected = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        received.append(await reader.read())
        if not closes:
            await done.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], received
    finally:
        done.set()
        server.close()
        await server.wait_closed()


def sink(port: int, net: Net | None = None, host: str = "127.0.0.1") -> HeadSink:
    """The sink that a target of settings makes."""
    return make_sink(f"syslog://{host}:{port}", net or new_net())


def unframed(octets: bytes) -> list[str]:
    """The messages of octet-counted frames (RFC 6587 §3.4.1): a length, a space, so many bytes."""
    messages = []
    while octets:
        length, _, rest = octets.partition(b" ")
        messages.append(rest[: int(length)].decode("ascii"))
        assert len(rest) >= int(length)
        octets = rest[int(length) :]
    return messages


def test_a_head_is_one_framed_message(run: Run) -> None:
    """Header as the RFC has it, facility 13 and severity notice, the note in a line of JSON; one connection each."""

    async def test() -> None:
        async with listening() as (port, received):
            to = sink(port)
            await to.take(HEAD)
            await to.take(SignedHead("w2", 9, b"later"))
        messages = [message for octets in received for message in unframed(octets)]
        assert len(messages) == len(received) == 2
        for message, told in zip(messages, (TOLD, {"shard": "w2", "size": 9, "checkpoint": "later"}), strict=True):
            header = HEADER.match(message)
            assert header is not None
            assert divmod(int(header[1]), 8) == (13, 5)
            assert json.loads(message[header.end() :]) == told

    run(test())


def test_what_a_receiver_did_not_read_is_not_taken(run: Run) -> None:
    """A connection that is reset, one that is never closed in turn, a port where nobody listens."""

    async def test() -> None:
        async with listening(resets=True) as (port, _):
            with pytest.raises(NotTaken, match=r"broke|not read all"):
                await sink(port).take(HEAD)
        async with listening(closes=False) as (port, received):
            slow = Receiver("slow", parse_url(f"http://127.0.0.1:{port}/"), new_net(), seconds=0.2)
            with pytest.raises(NotTaken, match="in time"):
                await slow.take(HEAD)
            assert len(received) == 1
        with pytest.raises(NotTaken, match="could not be connected to"):
            await sink(port).take(HEAD)

    run(test())


def test_a_receiver_that_never_ends_what_it_says_is_left(run: Run) -> None:
    """It is read for a while only, and has not taken the head, however fast it is."""

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

    async def test() -> None:
        server = await asyncio.start_server(flood, "127.0.0.1", 0)
        async with server:
            with pytest.raises(NotTaken, match="more to say"):
                await sink(server.sockets[0].getsockname()[1]).take(HEAD)

    run(test())


def test_a_name_leads_only_where_the_gateway_may_dial(run: Run) -> None:
    """A private address behind a name is refused, unless egress allows its network."""

    async def test() -> None:
        async with listening() as (port, received), Resolver({"logs.test": [["127.0.0.1"]]}) as resolver:
            with pytest.raises(NotTaken, match="address"):
                await sink(port, new_net(resolver=resolver.at), "logs.test").take(HEAD)
            assert received == []
            await sink(port, new_net("127.0.0.0/8", resolver=resolver.at), "logs.test").take(HEAD)
            assert len(received) == 1

    run(test())
