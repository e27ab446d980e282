"""The outbound client against real servers: one request a call, warm connections, what is refused unsent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gateway.allow import Allow
from gateway.tool import SecretUse
from tests.gateway.runners.servers import Resolver, Upstream, ask, fails, http, new_net

Run = Callable[[Coroutine[Any, Any, None]], None]
TOKEN = SecretUse("token", "env:TOKEN", ("127.0.0.1",), "Authorization", "Bearer {}")


def test_calls_one_after_the_other_share_one_connection(run: Run) -> None:
    """Ten warm calls are exactly ten requests over one connection."""

    async def calls() -> None:
        async with Upstream(http(b'{"a": 1}', kind="application/json; charset=utf-8")) as upstream:
            net = new_net()
            for number in range(10):
                answer = await net.request(ask(f"http://127.0.0.1:{upstream.port}/{number}", "POST", body=b"{}"))
                assert (answer.status, answer.body, answer.content_type) == (200, b'{"a": 1}', "application/json")
            assert (len(upstream.requests), upstream.connections) == (10, 1)
            await net.close()

    run(calls())


def test_calls_at_once_each_have_their_own_connection(run: Run) -> None:
    """Two requests never share a connection at one time, so answers cannot be mixed up."""

    async def calls() -> None:
        async def echo(writer: asyncio.StreamWriter) -> None:
            number = len(upstream.requests)
            await asyncio.sleep(0.02)
            writer.write(http(str(number).encode()))

        async with Upstream(echo) as upstream:
            net = new_net()
            asks = [net.request(ask(f"http://127.0.0.1:{upstream.port}/")) for _ in range(8)]
            answers = await asyncio.gather(*asks)
            assert sorted(int(answer.body) for answer in answers) == list(range(1, 9))
            assert (len(upstream.requests), upstream.connections) == (8, 8)

    run(calls())


def test_the_request_is_what_was_asked(run: Run) -> None:
    """Method, target, Host and headers as given; nothing of ours but a length, an agent and an encoding."""

    async def calls() -> None:
        async with Upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.port}/a%2Fb?q=%20"
            await new_net().request(ask(url, "POST", body=b"xyz", headers=(("X-One", "1"),)))
            head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
            assert body == b"xyz"
            assert head.decode().split("\r\n") == [
                "POST /a%2Fb?q=%20 HTTP/1.1",
                f"host: 127.0.0.1:{upstream.port}",
                "accept-encoding: gzip",
                "x-one: 1",
                "accept: */*",
                "user-agent: toolgate",
                "content-length: 3",
            ]

    run(calls())


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_connection_that_breaks_after_sending_is_never_tried_again(run: Run, method: str) -> None:
    """The upstream read a second request on a warm connection and hung up: that is a failure, sent once."""

    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def calls() -> None:
        async with Upstream(http(), hang_up) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            await net.request(ask(url, method))
            assert await fails(net, ask(url, method)) == "failed upstream_error"
            assert (len(upstream.requests), upstream.connections) == (2, 1)

    run(calls())


def test_a_stale_connection_is_replaced_before_anything_is_sent(run: Run) -> None:
    """The upstream closed the idle connection: the next call opens another one, and is one request."""

    async def then_close(writer: asyncio.StreamWriter) -> None:
        writer.write(http())
        writer.close()

    async def calls() -> None:
        async with Upstream(then_close) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            for _ in range(3):
                await net.request(ask(url, "POST"))
                await asyncio.sleep(0.05)
            assert (len(upstream.requests), upstream.connections) == (3, 3)

    run(calls())


def test_bytes_nobody_asked_for_end_a_connection(run: Run) -> None:
    """A second answer sent ahead is not taken for the answer of the next call."""

    async def calls() -> None:
        async with Upstream(http(b"first") + http(b"poison"), http(b"second")) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            bodies = [(await net.request(ask(url))).body for _ in range(2)]
            assert (bodies, upstream.connections) == ([b"first", b"second"], 2)

    run(calls())


def test_bytes_that_come_while_idle_end_a_connection(run: Run) -> None:
    """Nor is an answer that comes later, between two calls."""

    async def calls() -> None:
        async def late(writer: asyncio.StreamWriter) -> None:
            writer.write(http(b"first"))
            await asyncio.sleep(0.05)
            writer.write(http(b"poison"))

        async with Upstream(late, http(b"second")) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            first = await net.request(ask(url))
            await asyncio.sleep(0.2)
            second = await net.request(ask(url))
            assert (first.body, second.body, upstream.connections) == (b"first", b"second", 2)

    run(calls())


def test_a_cancelled_call_leaves_no_connection_behind(run: Run) -> None:
    """A call cancelled while it waits cuts its connection; the next call has a fresh one."""

    async def calls() -> None:
        asked = asyncio.Event()

        async def hang(writer: asyncio.StreamWriter) -> None:
            asked.set()
            await asyncio.sleep(60)

        async with Upstream(hang, http(b"fresh")) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            task = asyncio.create_task(net.request(ask(url)))
            await asyncio.wait_for(asked.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await net.request(ask(url))).body == b"fresh"
            assert upstream.connections == 2

    run(calls())


@pytest.mark.parametrize(
    "header",
    [
        *(("x", "a\r\ny: b"), ("x", "a\nb"), ("x", "a\x00b"), ("x", "caf\u00e9"), ("x: y\r\nz", "1"), ("", "1")),
        *(
            ("x y", "1"),
            ("Host", "evil"),
            ("Content-Length", "0"),
            ("transfer-encoding", "chunked"),
            ("Connection", "x"),
        ),
    ],
)
def test_a_header_that_could_split_the_request_is_refused(header: tuple[str, str]) -> None:
    """Line breaks, odd names and the headers that frame a message are refused before anything is dialled."""

    async def calls() -> None:
        async with Upstream() as upstream:
            assert await fails(new_net(), ask(f"http://127.0.0.1:{upstream.port}/", headers=(header,))) == (
                "refused egress_denied"
            )
            assert upstream.connections == 0

    uvloop.run(calls())


def test_a_header_given_twice_is_refused() -> None:
    """A credential cannot be doubled by a header of the spec."""

    async def calls() -> None:
        async with Upstream() as upstream:
            url, headers = f"http://127.0.0.1:{upstream.port}/", (("authorization", "Basic x"),)
            what = ask(url, headers=headers, secrets=(TOKEN,))
            assert await fails(new_net(token="t" * 16), what) == "refused egress_denied"
            assert upstream.connections == 0

    uvloop.run(calls())


def test_a_method_or_path_off_the_list_is_refused() -> None:
    """The client itself asks the allow list, whoever calls it."""

    async def calls() -> None:
        async with Upstream() as upstream:
            allow = (Allow.parse(f"GET http://127.0.0.1:{upstream.port}/open/**"),)
            for method, path in (("POST", "/open/x"), ("GET", "/shut")):
                url = f"http://127.0.0.1:{upstream.port}{path}"
                assert await fails(new_net(), ask(url, method, allow=allow)) == "refused egress_denied"
            assert upstream.connections == 0

    uvloop.run(calls())


def test_a_port_where_nobody_listens_is_unreachable(run: Run) -> None:
    """Nothing was sent, so it is a refusal that may be tried again."""

    async def calls() -> None:
        async with Upstream() as upstream:
            port = upstream.port
        assert await fails(new_net(), ask(f"http://127.0.0.1:{port}/")) == "refused upstream_unreachable"

    run(calls())


def test_a_deadline_that_is_over_sends_nothing(run: Run) -> None:
    """No time left means no request."""

    async def calls() -> None:
        async with Upstream() as upstream:
            what = ask(f"http://127.0.0.1:{upstream.port}/", seconds=-1)
            assert await fails(new_net(), what) == "refused upstream_unreachable"
            assert upstream.requests == []
            warm = new_net()
            await warm.request(ask(f"http://127.0.0.1:{upstream.port}/"))
            assert await fails(warm, what) == "refused upstream_unreachable"
            assert len(upstream.requests) == 1

    run(calls())


def test_a_resolver_that_is_silent_is_unreachable() -> None:
    """A name that cannot be resolved in time is a refusal, not a hang."""

    class Silent(Resolver):
        def datagram_received(self, datagram: bytes, source: tuple[str, int]) -> None:
            self.asked.append(("", 0))

    async def calls() -> None:
        async with Silent({}) as dns:
            assert await fails(new_net(resolver=dns.at), ask("http://a.test/")) == "refused upstream_unreachable"
            assert len(dns.asked) == 2

    uvloop.run(calls())


@pytest.mark.parametrize("text", ["dns.test:53", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", "[::1%lo]:53"])
def test_a_resolver_is_an_address_and_a_port(text: str) -> None:
    """A setting that is no address and port is refused at the start."""
    with pytest.raises(ValueError, match="address:port"):
        new_net(resolver=text)
