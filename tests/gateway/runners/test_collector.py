"""A collector of signed heads: the exact note by POST, through the one client and its rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.ledger_ports import NotTaken, SignedHead
from gateway.runners.collector import Collector
from tests.gateway.runners.servers import Resolver, Upstream, http, new_net

Run = Callable[[Coroutine[Any, Any, None]], None]
HEAD = SignedHead("w1", 7, b"toolgate-1/w1\n7\nAAAA\n\n\xe2\x80\x94 toolgate-1 BBBB\n")


def test_the_note_is_posted_as_it_was_signed(run: Run) -> None:
    """Method, path and body are exact; an answer of 2xx means kept, even an empty one."""

    async def test() -> None:
        async with Upstream(http(b"", "204 No Content")) as collector:
            await Collector(f"http://127.0.0.1:{collector.port}/heads?of=me", new_net()).take(HEAD)
        (request,) = collector.requests
        assert request.startswith(b"POST /heads?of=me HTTP/1.1\r\n")
        assert b"content-type: text/plain; charset=utf-8\r\n" in request
        assert request.partition(b"\r\n\r\n")[2] == HEAD.note

    run(test())


@pytest.mark.parametrize("status", ["301 Moved", "400 Bad Request", "500 Broken"])
def test_any_other_answer_means_not_kept(status: str, run: Run) -> None:
    """A redirect is not followed: what an operator wrote is where heads go."""

    async def test() -> None:
        async with Upstream() as elsewhere, Upstream() as collector:
            collector.replies = [http(status=status, extra=f"location: http://127.0.0.1:{elsewhere.port}/\r\n")]
            with pytest.raises(NotTaken, match=f"it answered with {status[:3]}"):
                await Collector(f"http://127.0.0.1:{collector.port}/", new_net()).take(HEAD)
            assert elsewhere.connections == 0

    run(test())


def test_a_name_leads_only_where_the_gateway_may_dial(run: Run) -> None:
    """A private address behind a name is refused, unless egress allows its network."""

    async def test() -> None:
        async with Upstream() as collector, Resolver({"collector.test": [["127.0.0.1"]]}) as resolver:
            url = f"http://collector.test:{collector.port}/"
            with pytest.raises(NotTaken, match="address"):
                await Collector(url, new_net(resolver=resolver.at)).take(HEAD)
            assert collector.connections == 0
            await Collector(url, new_net("127.0.0.0/8", resolver=resolver.at)).take(HEAD)
            assert len(collector.requests) == 1

    run(test())


def test_a_collector_that_is_not_there_is_said(run: Run) -> None:
    """A refused connection and a silent server are both `NotTaken`, never an error of another kind."""

    async def silent(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        async with Upstream(silent) as collector:
            url = f"http://127.0.0.1:{collector.port}/"
            with pytest.raises(NotTaken, match="in time"):
                await Collector(url, new_net(), seconds=0.2).take(HEAD)
        with pytest.raises(NotTaken, match="could not be connected"):
            await Collector(url, new_net()).take(HEAD)

    run(test())
