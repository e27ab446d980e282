"""The ways out an operator may choose: through a proxy, with a client certificate, along redirects of a spec."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Failure, Refusal
from gateway.runners.http import BadTemplate, HttpRunner, Plan
from gateway.runners.net import Egress, Net
from gateway.settings import BadSettings, load_settings
from gateway.tool import HttpBackend, SecretUse
from gateway.urls import BadUrl
from gateway.work import Work
from tests.gateway.runners.servers import (
    Canary,
    Resolver,
    Secrets,
    Upstream,
    ask,
    certificate,
    fails,
    http,
    work,
)

Run = Callable[[Coroutine[Any, Any, None]], None]
ANY = ("127.0.0.0/8",)


class Proxy:
    """A forward proxy that knows CONNECT. `asked` are the authorities; each leads to one port of this machine."""

    def __init__(self, port: int, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self._port, self._answer = port, answer
        self.asked: list[str] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b" ")[1].decode())
        writer.write(self._answer)
        if b" 200" not in self._answer:
            writer.close()
            return
        there = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(_pass(reader, there[1]), _pass(there[0], writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while octets := await reader.read(65536):
            writer.write(octets)
    except OSError:
        pass
    writer.close()


def test_a_proxy_is_asked_for_the_address_that_was_checked(run: Run, tmp_path: Path) -> None:
    """CONNECT names the address; TLS is with the upstream, by its name; a warm connection asks the proxy no more."""

    async def calls() -> None:
        tls = certificate(tmp_path)
        async with (
            Upstream(tls=tls) as upstream,
            Proxy(upstream.port) as proxy,
            Resolver({"up.test": [["127.0.0.1"]]}) as dns,
        ):
            net = Net(Egress(ANY, dns.at, str(tmp_path / "cert.pem"), proxy=proxy.url), Secrets())
            for _ in range(2):
                assert (await net.request(ask(f"https://up.test:{upstream.port}/"))).body == b"ok"
            assert proxy.asked == [f"127.0.0.1:{upstream.port}"]
            await net.close()

    run(calls())


def test_a_private_address_is_refused_before_the_proxy_hears_of_it(run: Run) -> None:
    """A name that resolves to a private address: nothing reaches the proxy."""

    async def calls() -> None:
        async with Canary() as canary, Proxy(canary.port) as proxy, Resolver({"in.test": [["10.0.0.7"]]}) as dns:
            net = Net(Egress((), dns.at, proxy=proxy.url), Secrets())
            assert await fails(net, ask("http://in.test/")) == "refused egress_denied"
            assert await fails(net, ask("http://10.0.0.7/", allow=())) == "refused egress_denied"
            assert (proxy.asked, canary.connections) == ([], 0)

    run(calls())


def test_a_proxy_that_resolves_gets_the_name(run: Run) -> None:
    """With `proxy_resolves` no name is looked up here; a literal address is still checked."""

    async def calls() -> None:
        async with Upstream() as upstream, Proxy(upstream.port) as proxy, Resolver({}) as dns:
            net = Net(Egress((), dns.at, proxy=proxy.url, proxy_resolves=True), Secrets())
            assert (await net.request(ask("http://only-there.example/"))).body == b"ok"
            assert await fails(net, ask("http://192.168.0.1/", allow=())) == "refused egress_denied"
            assert (proxy.asked, dns.asked) == (["only-there.example:80"], [])

    run(calls())


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"\r\n\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 2\r\n\r\n"]
)
def test_a_proxy_that_refuses_is_an_unreachable_upstream(run: Run, answer: bytes) -> None:
    """Nothing of the request was sent, and the refusal says so."""

    async def calls() -> None:
        async with Canary() as canary, Proxy(canary.port, answer) as proxy:
            net = Net(Egress(ANY, proxy=proxy.url), Secrets())
            assert await fails(net, ask(f"http://127.0.0.1:{canary.port}/")) == "refused upstream_unreachable"
            assert canary.connections == 0

    run(calls())


def test_a_client_certificate_is_shown_to_its_hosts_only(run: Run, tmp_path: Path) -> None:
    """A server that wants one gets it under a listed name, and under another name no connection is made."""

    async def calls() -> None:
        tls = certificate(tmp_path)
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(tmp_path / "cert.pem")
        both = tmp_path / "both.pem"
        both.write_bytes((tmp_path / "cert.pem").read_bytes() + (tmp_path / "key.pem").read_bytes())
        async with Upstream(tls=tls) as upstream, Resolver({"up.test": [["127.0.0.1"]]}) as dns:
            known = Egress(
                ANY, dns.at, str(tmp_path / "cert.pem"), client_cert=str(both), client_cert_hosts=["up.test"]
            )
            net = Net(known, Secrets())
            assert (await net.request(ask(f"https://up.test:{upstream.port}/"))).body == b"ok"
            said = await fails(net, ask(f"https://127.0.0.1:{upstream.port}/"))
            assert said in ("refused upstream_unreachable", "failed upstream_error")
            assert len(upstream.requests) == 1

    run(calls())


@pytest.mark.parametrize(
    ("redirects", "allow", "code", "asked"),
    [
        (0, (), "tool_error", 1),
        (1, (), "egress_denied", 1),
        (1, ("POST {there}/**",), "egress_denied", 1),  # a 303 goes on as GET
        (1, ("GET {there}/other",), "egress_denied", 1),
        (1, ("GET {there}/**",), None, 2),
    ],
)
def test_a_spec_says_how_far_redirects_go(
    run: Run, redirects: int, allow: tuple[str, ...], code: str | None, asked: int
) -> None:
    """To another host only where the spec lists method, host and path; the credential stays behind."""

    async def calls() -> None:
        async with Upstream() as there:
            place = f"http://127.0.0.1:{there.port}"
            moved = http(status="303 See Other", extra=f"location: {place}/found\r\n")
            async with Upstream(moved) as upstream:
                backend = HttpBackend(
                    "POST",
                    f"http://127.0.0.1:{upstream.port}/a",
                    body={},
                    allow=tuple(entry.format(there=place) for entry in allow),
                    redirects=redirects,
                )
                use = SecretUse("token", "env:TOKEN", ("127.0.0.1",), "X-Key", "{}")
                runner = HttpRunner(Net(Egress(), Secrets(token="hidden-from-there")))
                assert await _code(runner, work(backend, {}, use)) == code
                assert len(upstream.requests) + len(there.requests) == asked
                assert b"hidden-from-there" in upstream.requests[0]
                assert all(b"hidden-from-there" not in request for request in there.requests)

    run(calls())


async def _code(runner: HttpRunner, given: Work) -> str | None:
    try:
        raw = await runner.run(given)
    except (Refusal, Failure) as said:
        return said.problem.code
    return raw.problem.code if raw.problem else None


def test_a_redirect_within_the_place_needs_no_list(run: Run) -> None:
    """`redirects: 1` alone follows to the same scheme, host and port, also from POST to GET."""

    async def calls() -> None:
        async with Upstream(http(status="302 Found", extra="location: /b\r\n"), http(b"there")) as upstream:
            backend = HttpBackend("POST", f"http://127.0.0.1:{upstream.port}/a", body={}, redirects=1)
            raw = await HttpRunner(Net(Egress(), Secrets())).run(work(backend, {}))
            assert raw.text == "there"
            assert [request.split(b" ")[:2] for request in upstream.requests] == [[b"POST", b"/a"], [b"GET", b"/b"]]

    run(calls())


def test_an_entry_that_is_none_makes_no_plan() -> None:
    """A list that cannot be read is found before anything is sent."""
    with pytest.raises(BadTemplate):
        Plan.of(HttpBackend("GET", "http://127.0.0.1/", allow=("everything",), redirects=1))


@pytest.mark.parametrize(
    "egress",
    [
        {"proxy": "https://127.0.0.1:1"},
        {"proxy_resolves": True},
        {"client_cert": "/nowhere.pem"},
        {"client_cert_hosts": ["a.test"]},
    ],
)
def test_settings_that_do_not_fit_are_refused(egress: dict[str, object]) -> None:
    """Each with a sentence, before anything starts."""
    with pytest.raises(BadSettings):
        load_settings(None, {}, {"egress": egress})


def test_a_proxy_address_that_is_none_is_refused() -> None:
    """At the start, not with the first call."""
    with pytest.raises(BadUrl):
        Net(Egress(proxy="http://["), Secrets())
