"""What an upstream may answer: framings, caps, deadlines, content types, streams."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gateway.model import Failure
from gateway.runners.message import JSON_TYPES, Ask
from gateway.runners.net import Net
from tests.gateway.runners.servers import Upstream, ask, fails, http, new_net

Run = Callable[[Coroutine[Any, Any, None]], None]


async def _hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await asyncio.sleep(0.01)


async def _flood(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(10_000):
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def _endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(10_000):
        writer.write(b"x" * 0x4000)
        await writer.drain()


async def _cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    writer.close()


async def _until_closed(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nold style")
    writer.close()


def _packed(body: bytes, coding: str = "gzip") -> bytes:
    return http(body, extra=f"content-encoding: {coding}\r\n")


_BOMB = gzip.compress(bytes(64 * 1024 * 1024))
BAD = [
    (_hang, "failed timeout"),
    (_drip, "failed timeout"),
    (_flood, "failed output_too_large"),
    (_endless_head, "failed upstream_error"),
    (_cut, "failed upstream_error"),
    (http(b"x" * 65537), "failed output_too_large"),
    (_packed(_BOMB), "failed output_too_large"),
    (_packed(gzip.compress(b"abc")[:-4]), "failed upstream_error"),
    (_packed(gzip.compress(b"abc") + gzip.compress(b"def")), "failed output_invalid"),
    (_packed(b"not gzip"), "failed output_invalid"),
    (_packed(b"x", "br"), "failed output_invalid"),
    (_packed(b"x", "deflate"), "failed output_invalid"),
    (_packed(gzip.compress(gzip.compress(b"abc")), "gzip, gzip"), "failed output_invalid"),
    (b"SSH-2.0-OpenSSH_9\r\n\r\n", "failed upstream_error"),
    (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(200)) + b"\r\n", "failed upstream_error"),
    (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "failed upstream_error"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + http(), "failed upstream_error"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk", "failed upstream_error"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "failed upstream_error"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "failed upstream_error"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n", "failed upstream_error"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "failed upstream_error"),
]


@pytest.mark.parametrize(("reply", "outcome"), BAD, ids=[f"{number}" for number in range(len(BAD))])
def test_a_bad_answer_is_a_typed_failure(reply: bytes | Callable[..., Awaitable[None]], outcome: str) -> None:
    """Slow, endless, oversized, ambiguous or broken: a Failure in time, one request, and the connection is not kept."""

    async def calls() -> None:
        async with Upstream(reply) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            slow = outcome == "failed timeout"
            assert await fails(net, ask(url, "POST", max_bytes=65536, seconds=0.3 if slow else 10)) == outcome
            assert len(upstream.requests) == 1
            upstream.replies = [http(b"next")]
            assert (await net.request(ask(url))).body == b"next"
            assert upstream.connections == 2

    uvloop.run(calls())


_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: u\r\n\r\n"
GOOD = [
    (http(b"plain"), b"plain"),
    (http(b""), b""),
    (_CHUNKED, b"abcde"),
    (_until_closed, b"old style"),
    (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + http(b"late"), b"late"),
    (_packed(gzip.compress(b"packed")), b"packed"),
    (_packed(gzip.compress(b"")), b""),
    (_packed(gzip.compress(b"a" * 60_000)), b"a" * 60_000),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
]


@pytest.mark.parametrize(("reply", "body"), GOOD, ids=[f"{number}" for number in range(len(GOOD))])
def test_every_framing_of_a_good_answer_is_read(
    run: Run, reply: bytes | Callable[..., Awaitable[None]], body: bytes
) -> None:
    """Lengths, chunks with extensions and trailers, interim answers, content codings, bodies that end with the line."""

    async def calls() -> None:
        async with Upstream(reply) as upstream:
            net = new_net()
            for _ in range(2):
                assert (await net.request(ask(f"http://127.0.0.1:{upstream.port}/", max_bytes=65536))).body == body

    run(calls())


def test_an_answer_that_unpacks_too_well_is_refused() -> None:
    """Below the size cap, a ratio above 100 is still a bomb."""

    async def calls() -> None:
        async with Upstream(_packed(gzip.compress(bytes(1_000_000)))) as upstream:
            assert await fails(new_net(), ask(f"http://127.0.0.1:{upstream.port}/")) == "failed output_invalid"

    uvloop.run(calls())


def test_a_head_request_waits_for_no_body(run: Run) -> None:
    """The length in the answer to HEAD announces nothing."""

    async def calls() -> None:
        async with Upstream(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n") as upstream:
            answer = await new_net().request(ask(f"http://127.0.0.1:{upstream.port}/", "HEAD"))
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "10")

    run(calls())


@pytest.mark.parametrize(
    ("kind", "status", "taken"),
    [
        ("application/json", "200 OK", True),
        ("Application/JSON; charset=utf-8", "200 OK", True),
        ("application/problem+json", "200 OK", True),
        ("text/html", "200 OK", False),
        ("", "200 OK", False),
        ("application/json, text/html", "200 OK", False),
        ("text/html", "404 Not Found", True),
    ],
)
def test_a_content_type_off_the_list_is_refused(kind: str, status: str, taken: bool) -> None:
    """A 2xx answer has to be of a listed type; what an error says is for the caller to read."""

    async def calls() -> None:
        async with Upstream(http(b"{}", status, kind)) as upstream:
            what = ask(f"http://127.0.0.1:{upstream.port}/", content_types=JSON_TYPES)
            if taken:
                assert (await new_net().request(what)).body == b"{}"
            else:
                assert await fails(new_net(), what) == "failed output_invalid"

    uvloop.run(calls())


async def _read(net: Net, what: Ask) -> int:
    size = 0
    async with net.stream(what) as answer:
        async for chunk in answer.chunks():
            size += len(chunk)
    return size


def test_a_stream_gives_pieces_as_they_come(run: Run) -> None:
    """The first event is read before the upstream sends the second, and the connection is kept after the end."""

    async def calls() -> None:
        more = asyncio.Event()

        async def events(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"3\r\none\r\n")
            await asyncio.wait_for(more.wait(), 10)
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

        async with Upstream(events) as upstream:
            net, got = new_net(), []
            for _ in range(2):
                what = ask(f"http://127.0.0.1:{upstream.port}/", content_types={"text/event-stream"})
                async with net.stream(what) as answer:
                    assert answer.content_type == "text/event-stream"
                    async for chunk in answer.chunks():
                        got.append(chunk)
                        more.set()
            assert (b"".join(got), upstream.connections) == (b"onetwo" * 2, 1)

    run(calls())


def test_a_stream_of_another_type_is_refused() -> None:
    """The content type is looked at before the body is."""

    async def calls() -> None:
        async with Upstream(http(kind="text/html")) as upstream:
            with pytest.raises(Failure) as failed:
                await _read(new_net(), ask(f"http://127.0.0.1:{upstream.port}/", content_types=JSON_TYPES))
            assert failed.value.problem.code == "output_invalid"

    uvloop.run(calls())


def test_leaving_a_stream_early_cuts_the_connection(run: Run) -> None:
    """What was not read cannot turn up in the next answer."""

    async def calls() -> None:
        async with Upstream(_drip, http(b"next")) as upstream:
            net, url = new_net(), f"http://127.0.0.1:{upstream.port}/"
            async with net.stream(ask(url)) as answer:
                async for _ in answer.chunks():
                    break
            assert (await net.request(ask(url))).body == b"next"
            assert upstream.connections == 2

    run(calls())


@pytest.mark.parametrize(
    ("reply", "code"), [(_flood, "output_too_large"), (_drip, "timeout"), (_cut, "upstream_error")]
)
def test_a_stream_has_the_same_caps(reply: Callable[..., Awaitable[None]], code: str) -> None:
    """Size and deadline hold for what is read in pieces, too."""

    async def calls() -> None:
        async with Upstream(reply) as upstream:
            seconds = 0.5 if code == "timeout" else 10
            what = ask(f"http://127.0.0.1:{upstream.port}/", max_bytes=1_000_000, seconds=seconds)
            with pytest.raises(Failure) as failed:
                await _read(new_net(), what)
            assert failed.value.problem.code == code

    uvloop.run(calls())


def test_a_reader_that_is_slow_holds_the_upstream_back(run: Run) -> None:
    """A large stream read slowly arrives whole, and never piles up."""

    async def calls() -> None:
        size = 3_000_000
        async with Upstream(http(os.urandom(1000) * 3000)) as upstream:
            got = largest = 0
            async with new_net().stream(ask(f"http://127.0.0.1:{upstream.port}/", max_bytes=size)) as answer:
                async for chunk in answer.chunks():
                    got += len(chunk)
                    largest = max(largest, len(chunk))
                    await asyncio.sleep(0.05)
            assert got == size
            assert largest < size / 2

    run(calls())
