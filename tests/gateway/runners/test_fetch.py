"""`net.fetch` over real sockets: what goes out, with which credential, what comes back, and what never leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.model import Arguments, Failure, RawOutput, Refusal
from gateway.runners.fetch import FetchRunner
from gateway.specs.fetch import fetch_tool
from gateway.tool import Json, SandboxBackend, SecretUse, Tool
from gateway.work import Work
from tests.gateway.runners.servers import Anything, Canary, Resolver, Upstream, http, new_net

TOKEN = SecretUse("token", "env:TOKEN", ("127.0.0.1",), "X-Api-Key", "Key {}")


def fetching(allow: tuple[str, ...], given: Mapping[str, Json], *secrets: SecretUse) -> Work:
    """A fetch by the code of a tool with these grants. Arguments as the schema leaves them."""
    backend = SandboxBackend("wasm-python", "code", None, network=allow)
    parent = Tool("coder", "1", "sha256:0", "Runs code.", {}, backend, Anything(), secrets=secrets)
    tool = fetch_tool(parent)
    assert tool.check.check(dict(given)) == ()
    arguments = Arguments(tool.check.fill(dict(given)))
    return Work("c_1", tool, arguments, "default", time.monotonic() + 10, time.time(), 0)


async def fetched(net: Any, work: Work) -> Any:
    """`{status, headers, body}`, or the code of the refusal or failure."""
    try:
        output: RawOutput = await FetchRunner(net).run(work)
    except Refusal as refusal:
        return f"refused {refusal.problem.code}"
    except Failure as failure:
        return f"failed {failure.problem.code}"
    assert (output.text, output.problem) == ("", None)
    return output.structured


def test_every_status_is_a_result() -> None:
    """Also those an http tool would fail with; a redirect is told, not followed."""

    async def calls() -> None:
        moved = http(b"", "302 Found", extra="location: /else\r\nset-cookie: a=b\r\n")
        async with Upstream(http(b"no", "404 Not Found"), http(b"oh", "500 Oh"), moved) as upstream:
            at = f"http://127.0.0.1:{upstream.port}"
            work = fetching((f"GET {at}/**",), {"url": f"{at}/a"})
            plain = {"content-type": "text/plain"}
            assert await fetched(new_net(), work) == {"status": 404, "headers": plain, "body": "no"}
            assert await fetched(new_net(), work) == {"status": 500, "headers": plain, "body": "oh"}
            told = {"status": 302, "headers": plain | {"location": "/else"}, "body": ""}
            assert await fetched(new_net(), work) == told
            assert len(upstream.requests) == 3

    asyncio.run(calls())


def test_a_body_and_headers_go_out_as_the_code_has_them() -> None:
    """A POST with a text for a body, and a header of the code's own."""

    async def calls() -> None:
        async with Upstream(http(b"ok")) as upstream:
            at = f"http://127.0.0.1:{upstream.port}"
            given: dict[str, Json] = {"url": f"{at}/in?a=b", "method": "POST", "body": "häh"}
            given["headers"] = {"X-Mine": "1", "Authorization": "Bearer mine"}
            await fetched(new_net(), fetching((f"POST {at}/in",), given))
            (sent,) = upstream.requests
            assert sent.startswith(b"POST /in?a=b HTTP/1.1\r\n")
            assert b"\r\nx-mine: 1\r\n" in sent
            assert b"\r\nauthorization: Bearer mine\r\n" in sent
            assert sent.endswith(b"\r\n\r\nh\xc3\xa4h")

    asyncio.run(calls())


def test_a_credential_is_put_in_outside_and_goes_to_its_host_only() -> None:
    """The code names no secret: the spec's goes to the host it is for, another host gets none."""

    async def calls() -> None:
        async with Upstream() as mine, Upstream(host="127.0.0.2") as other:
            entries = tuple(f"GET http://{up.host}:{up.port}/**" for up in (mine, other))
            net = new_net(token="t" * 16)
            for upstream in (mine, other):
                url = f"http://{upstream.host}:{upstream.port}/"
                assert (await fetched(net, fetching(entries, {"url": url}, TOKEN)))["status"] == 200
            assert b"\r\nx-api-key: Key tttttttttttttttt\r\n" in mine.requests[0]
            assert b"tttt" not in other.requests[0]

    asyncio.run(calls())


NOT_FOR_CODE = [
    *("Host", "cookie", "Transfer-Encoding", "connection", "X-API-Key", "Authorization"),
    # A credential that is sent back is found whole only: in pieces that the code orders it would pass.
    *("Range", "If-Range"),
    # Some servers take `_` for `-`.
    *("X_Api_Key", "Content_Length", "Transfer_Encoding"),
    # These would ask for another method, path or host than the one that was allowed.
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"),
    *("X-Forwarded-Host", "X_Forwarded_Uri", "X-Forwarded-For", "X-Original-Method", "X-Host"),
]


@pytest.mark.parametrize("name", NOT_FOR_CODE)
def test_code_sets_no_header_that_is_not_its_own(name: str) -> None:
    """Not the message's, not the credential's, and no other credential beside it; nothing is sent."""

    async def calls() -> None:
        async with Upstream() as upstream:
            at = f"http://127.0.0.1:{upstream.port}"
            work = fetching((f"GET {at}/**",), {"url": f"{at}/", "headers": {name: "x"}}, TOKEN)
            assert await fetched(new_net(token="t" * 16), work) == "refused invalid_arguments"
            assert upstream.connections == 0

    asyncio.run(calls())


@pytest.mark.parametrize("headers", [{"x": "a\r\nb: c"}, {"x y": "1"}, {"x": "1", "X": "2"}, {"": "1"}, {"x": "ä"}])
def test_a_header_that_reads_in_two_ways_is_not_sent(headers: dict[str, str]) -> None:
    """Line breaks, odd names, the same name twice: refused before anything is dialled."""

    async def calls() -> None:
        async with Upstream() as upstream:
            at = f"http://127.0.0.1:{upstream.port}"
            work = fetching((f"GET {at}/**",), {"url": f"{at}/", "headers": headers})
            assert await fetched(new_net(), work) == "refused egress_denied"
            assert upstream.connections == 0

    asyncio.run(calls())


def test_what_cannot_be_given_to_code_is_a_failure() -> None:
    """Bytes that are no text, a body over a mebibyte, and a body where none can go."""

    async def calls() -> None:
        image, large = http(b"\x89PNG", kind="image/png"), http(b"x" * (1024 * 1024 + 1))
        async with Upstream(image, http(b"\xff"), large) as upstream:
            at = f"http://127.0.0.1:{upstream.port}"
            said = [await fetched(new_net(), fetching((f"GET {at}/**",), {"url": f"{at}/"})) for _ in range(3)]
            assert said == ["failed output_invalid", "failed output_invalid", "failed output_too_large"]
            bodied = fetching((f"GET {at}/**",), {"url": f"{at}/", "body": "x"})
            assert await fetched(new_net(), bodied) == "refused invalid_arguments"
            assert len(upstream.requests) == 3

    asyncio.run(calls())


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.169.254", "10.0.0.1", "fd00:ec2::254", "0.0.0.0", "::ffff:127.0.0.1"]
)
def test_an_allowed_name_does_not_open_an_inner_address(address: str) -> None:
    """The list of the spec says which names; where they lead is checked by the one client, for code as for anybody."""

    async def calls() -> None:
        async with Canary() as canary, Resolver({"api.in.test": [[address]]}) as resolver:
            at = f"http://api.in.test:{canary.port}"
            work = fetching((f"GET {at}/**",), {"url": f"{at}/latest/meta-data/"})
            assert await fetched(new_net(resolver=resolver.at), work) == "refused egress_denied"
            assert canary.connections == 0

    asyncio.run(calls())


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "http://2130706433/"])
def test_a_wildcard_does_not_take_an_address(url: str) -> None:
    """An entry for names is none for addresses, however they are written."""

    async def calls() -> None:
        work = fetching(("GET http://*.in.test/**",), {"url": url})
        assert await fetched(new_net(), work) == "refused egress_denied"

    asyncio.run(calls())


def test_a_tool_for_fetching_is_made_once_for_the_same_grants() -> None:
    """The same network and credentials give the same object; others another digest."""
    tools = [fetching(allow, {"url": "https://a.test/"}, *secrets).tool for allow, secrets in GRANTS]
    assert tools[0] is tools[1]
    assert len({tool.digest for tool in tools}) == 3


GRANTS: list[tuple[tuple[str, ...], tuple[SecretUse, ...]]] = [
    (("GET https://a.test/**",), ()),
    (("GET https://a.test/**",), ()),
    (("GET https://b.test/**",), ()),
    (("GET https://a.test/**",), (TOKEN,)),
]
