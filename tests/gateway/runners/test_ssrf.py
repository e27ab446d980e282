"""URLs that try to reach the machine itself, given to a tool that fetches a URL: the canary is never connected to.

Every call is the real runner with the real client; names come from a real DNS server. The controls at the end show
that the same canary is reached once an operator opens the way, so silence above is the guard's doing.
"""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from gateway.allow import Allow
from gateway.model import Failure, RawOutput, Refusal
from gateway.problems import TABLE
from gateway.runners.http import HttpRunner
from gateway.runners.net import Egress, Net
from gateway.tool import HttpBackend
from tests.gateway.runners.servers import Canary, Resolver, Secrets, Upstream, ask, http, work

# Every name here is on the tool's allow list, so only the addresses decide.
NAMES: dict[str, list[list[str]]] = {
    "loop.in.test": [["127.0.0.1"]],
    "loop2.in.test": [["127.0.0.2"]],
    "zero.in.test": [["0.0.0.0"]],
    "six.in.test": [["::1"]],
    "mapped.in.test": [["::ffff:127.0.0.1"]],
    "compat.in.test": [["::127.0.0.1"]],
    "nat64.in.test": [["64:ff9b::127.0.0.1"]],
    "nat64local.in.test": [["64:ff9b:1::127.0.0.1"]],
    "sixtofour.in.test": [["2002:7f00:1::1"]],
    "teredo.in.test": [["2001:0:7f00:1::80ff:fffe"]],
    "isatap.in.test": [["2600::5efe:7f00:1"]],
    "linklocal.in.test": [["fe80::1"]],
    "unique.in.test": [["fd00::1"]],
    "sitelocal.in.test": [["fec0::1"]],
    "multicast.in.test": [["224.0.0.1"]],
    "multicast6.in.test": [["ff02::1"]],
    "broadcast.in.test": [["255.255.255.255"]],
    "meta.in.test": [["169.254.169.254"]],
    "meta6.in.test": [["fd00:ec2::254"]],
    "alibaba.in.test": [["100.100.100.200"]],
    "azure.in.test": [["168.63.129.16"]],
    "oracle.in.test": [["192.0.0.192"]],
    "ten.in.test": [["10.0.0.1"]],
    "lan.in.test": [["192.168.0.1"]],
    "docker.in.test": [["172.17.0.1"]],
    "cgnat.in.test": [["100.64.0.1"]],
    "bench.in.test": [["198.18.0.1"]],
    "documentation.in.test": [["203.0.113.1"]],
    "mixed.in.test": [["93.184.216.34", "127.0.0.1"]],
    "mixedlast.in.test": [["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::1"]],
    "mixedfirst.in.test": [["127.0.0.1", "93.184.216.34"]],
    "flood.in.test": [[f"93.184.216.{n}" for n in range(1, 18)]],
    "nothing.in.test": [[]],
}
_HOSTS = [
    # the machine by name and by every spelling of its address
    *("localhost", "localhost.", "LOCALHOST", "localhost.localdomain", "ip6-localhost", "127.0.0.1", "127.0.0.1."),
    *("127.1", "127.0.1", "127.000.000.001", "0177.0.0.1", "0177.0.0.01", "0x7f.0.0.1", "0x7F.1", "0x7f000001"),
    *("2130706433", "017700000001", "0x7f.0x0.0x0.0x1", "127.0.0.0x1", "0", "0.0.0.0", "00000000", "0x0", "127.0.0.2"),
    *(
        "１２７.０.０.１",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "127.0.0.1%00",
        "127.0.0.1%2e",
        "%31%32%37.0.0.1",
        "127%2e0%2e0%2e1",
    ),
    *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::1%25lo]"),
    *(
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::1%lo]",
        "[::1%lo]",
    ),
    *(
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "[::ffff:a9fe:a9fe]",
    ),
    *("ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "local\u00adhost", "local\u200bhost", "loc\u0430lhost", "127.0.0.1.nip.test", "4294967297"),
    *("ok.test.localhost", "256.256.256.256", "127.0.0.1.", "1.0.0.127.in-addr.arpa", "127.0.0.1\u2024", "[127.0.0.1]"),
]
_URLS = [
    # user-info, backslashes, white space, fragments: where does the host end?
    *("http://ok.test@127.0.0.1:{p}/", "http://ok.test:{p}@127.0.0.1:{p}/", "http://127.0.0.1:{p}@ok.test/"),
    *("http://ok.test:80@127.0.0.1:{p}/", "http://a@b@127.0.0.1:{p}/", "http://ok.test%40127.0.0.1:{p}/"),
    *(
        "http://127.0.0.1:{p}\\@ok.test/",
        "http://127.0.0.1:{p}\\ok.test/",
        "http:\\\\127.0.0.1:{p}\\",
        "http:/\\127.0.0.1:{p}/",
    ),
    *("http://ok.test\\@127.0.0.1:{p}/", "http://ok.test\\.127.0.0.1:{p}/", "http://127.0.0.1:{p}#@ok.test/"),
    *("http://ok.test#@127.0.0.1:{p}/", "http://127.0.0.1:{p}?@ok.test/", "http://127.0.0.1:{p};@ok.test/"),
    *("http://127.0.0.1:{p}/#ok.test", "http://127.0.0.1:{p}/?http://ok.test/", "http://127.0.0.1:{p}%23@ok.test/"),
    *(" http://127.0.0.1:{p}/", "http://127.0.0.1:{p}/ ", "http://127.0.0.1 :{p}/", "http:// 127.0.0.1:{p}/"),
    *(
        "ht\ttp://127.0.0.1:{p}/",
        "http://127.0.0.1\t:{p}/",
        "http://127.0.0.1:{p}/\r\nHost: ok.test",
        "\x00http://127.0.0.1:{p}/",
    ),
    *("http://ok.test\n@127.0.0.1:{p}/", "http://127.0.0.1:{p}\r\n/", "http://ok.test\x00.127.0.0.1:{p}/"),
    *(
        "http://ok.test\uff0f@127.0.0.1:{p}/",
        "http://ok.test\uff03@127.0.0.1:{p}/",
        "http://ok.test\u2044@127.0.0.1:{p}/",
    ),
    # schemes and missing pieces
    *(
        "//127.0.0.1:{p}/",
        "/",
        "",
        "http:",
        "http://",
        "http:///127.0.0.1:{p}/",
        "http:127.0.0.1:{p}/",
        "127.0.0.1:{p}/",
    ),
    *("http:/127.0.0.1:{p}/", "http:////127.0.0.1:{p}/", "HTTP://127.0.0.1:{p}/", "hTtP://127.0.0.1:{p}/"),
    *(
        "file:///etc/passwd",
        "file://127.0.0.1/etc/passwd",
        "gopher://127.0.0.1:{p}/_GET",
        "dict://127.0.0.1:{p}/",
        "ftp://127.0.0.1:{p}/",
    ),
    *(
        "ws://127.0.0.1:{p}/",
        "unix:///run/docker.sock",
        "http+unix://%2Frun%2Fdocker.sock/",
        "data:text/plain,x",
        "jar:http://127.0.0.1:{p}/!/",
    ),
    *(
        "javascript:alert(1)",
        "view-source:http://127.0.0.1:{p}/",
        "url:http://127.0.0.1:{p}/",
        "http::://127.0.0.1:{p}/",
    ),
    # ports, paths, methods beside what is allowed
    *(
        "http://ok.test:0/",
        "http://ok.test:65536/",
        "http://ok.test:-1/",
        "http://ok.test:{p}{p}/",
        "http://ok.test:+{p}/",
    ),
    *(
        "http://ok.test:８０/",
        "http://ok.test:{p}:{p}/",
        "http://ok.test:/",
        "https://127.0.0.1:{p}/",
        "https://loop.in.test:{p}/",
    ),
    *(
        "http://ok.test:{p}.127.0.0.1/",
        "http://ok.test.:{p}/../",
        "http://127.0.0.1:{p}/%2e%2e/",
        "http://[::1/",
        "http://::1:{p}/",
    ),
    *(
        "http://in.test:{p}/",
        "http://xin.test:{p}/",
        "http://loop.in.test.evil.test:{p}/",
        "http://{long}.in.test:{p}/",
    ),
]
URLS = [f"http://{host}:{{p}}/" for host in _HOSTS] + _URLS + [f"http://{name}:{{p}}/" for name in NAMES]
CODES = {"egress_denied", "upstream_unreachable", "invalid_arguments"}


async def _fetch(url: str, net: Net, port: int) -> RawOutput:
    allow = ("GET https://docs.python.org/**", f"GET http://*.in.test:{port}/**", f"GET http://ok.test:{port}/**")
    backend = HttpBackend("GET", url_argument="url", allow=allow)
    return await HttpRunner(net).run(work(backend, {"url": url}, seconds=5))


@pytest.mark.parametrize("template", URLS, ids=ascii)
def test_the_canary_is_never_connected_to(template: str) -> None:
    """A hostile URL is refused with a typed problem, and nobody connects to the canary."""

    async def attempt() -> None:
        async with Canary() as canary, Resolver(NAMES) as dns:
            net = Net(Egress(resolver=dns.at), Secrets())
            url = template.replace("{p}", str(canary.port)).replace("{long}", "a" * 64)
            with pytest.raises(Refusal) as refused:
                await _fetch(url, net, canary.port)
            await asyncio.sleep(0.01)
            assert canary.connections == 0
            assert refused.value.problem.code in CODES <= TABLE.keys()
            assert "127.0.0.1" not in refused.value.problem.detail

    uvloop.run(attempt())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "nothing.in.test"])
def test_a_name_is_refused_for_its_address(name: str) -> None:
    """An allowed name whose answers hold one bad address, or too many, is `egress_denied` after one look-up."""

    async def attempt() -> None:
        async with Resolver(NAMES) as dns:
            with pytest.raises(Refusal) as refused:
                await _fetch(f"http://{name}:81/", Net(Egress(resolver=dns.at), Secrets()), 81)
            assert refused.value.problem.code == "egress_denied"
            assert sorted(dns.asked) == [(name, 1), (name, 28)]

    uvloop.run(attempt())


def test_the_system_resolver_passes_the_same_guard() -> None:
    """`localhost`, allowed by name and resolved by the machine itself, is refused for its address."""

    async def attempt() -> None:
        async with Canary() as canary:
            with pytest.raises(Refusal) as refused:
                await Net(Egress(), Secrets()).request(ask(f"http://localhost:{canary.port}/"))
            assert (refused.value.problem.code, canary.connections) == ("egress_denied", 0)

    uvloop.run(attempt())


def test_a_named_network_opens_the_way() -> None:
    """Control: with the loopback network named, the very same call reaches the canary, once."""

    async def attempt() -> None:
        async with Upstream(http(b"hello")) as canary, Resolver(NAMES) as dns:
            net = Net(Egress(["127.0.0.0/8"], dns.at), Secrets())
            output = await _fetch(f"http://loop.in.test:{canary.port}/", net, canary.port)
            assert (output.text, canary.connections, len(canary.requests)) == ("hello", 1, 1)

    uvloop.run(attempt())


def test_the_canary_listens_on_ipv6_too() -> None:
    """Control: with ::1 named, the name that resolves to it reaches the canary."""

    async def attempt() -> None:
        async with Canary() as canary, Resolver(NAMES) as dns:
            if not canary.has_six:
                pytest.skip("this machine has no IPv6 loopback")
            net = Net(Egress(["::1/128"], dns.at), Secrets())
            await _fetch(f"http://six.in.test:{canary.port}/", net, canary.port)
            assert canary.connections == 1

    uvloop.run(attempt())


def test_an_operators_literal_opens_itself() -> None:
    """Control: a fixed literal in a spec allows exactly that host and port, with no network named."""

    async def attempt() -> None:
        async with Upstream(http(b"hello")) as canary:
            runner = HttpRunner(Net(Egress(), Secrets()))
            output = await runner.run(work(HttpBackend("GET", f"http://127.0.0.1:{canary.port}/"), {}))
            assert (output.text, canary.connections) == ("hello", 1)

    uvloop.run(attempt())


@pytest.mark.parametrize("own", ["127.0.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize("url", ["http://loop.in.test:{p}/", "http://127.0.0.1:{p}/", "http://[::ffff:127.0.0.1]:{p}/"])
def test_the_gateway_is_not_its_own_upstream(own: str, url: str) -> None:
    """The gateway's own address is refused, though its network is named or the literal stands in the spec."""

    async def attempt() -> None:
        async with Upstream() as canary, Resolver(NAMES) as dns:
            net = Net(Egress(["127.0.0.0/8", "::/0"], dns.at, own_addresses=[(own, canary.port)]), Secrets())
            with pytest.raises(Refusal) as refused:
                await net.request(ask(url.replace("{p}", str(canary.port))))
            await asyncio.sleep(0.01)
            assert (refused.value.problem.code, canary.connections) == ("egress_denied", 0)

    uvloop.run(attempt())


def test_metadata_is_refused_though_its_network_is_named() -> None:
    """Naming the link-local network does not open the metadata address."""

    async def attempt() -> None:
        async with Resolver(NAMES) as dns:
            net = Net(Egress(["169.254.0.0/16"], dns.at), Secrets())
            for url in ("http://meta.in.test/", "http://169.254.169.254/latest/"):
                with pytest.raises(Refusal) as refused:
                    await net.request(ask(url))
                assert refused.value.problem.code == "egress_denied"

    uvloop.run(attempt())


def test_a_name_that_rebinds_is_dialled_at_the_checked_address_only() -> None:
    """One look-up a call: the first reaches the address that was checked, the second is refused, the canary silent.

    The upstream (allowed) and the canary listen on the same port of 127.0.0.2 and 127.0.0.1.
    """

    async def attempt() -> None:
        table = {"rebind.in.test": [["127.0.0.2"], ["127.0.0.1"]]}
        async with (
            Upstream() as canary,
            Upstream(http(b"right"), host="127.0.0.2", port=canary.port) as upstream,
            Resolver(table) as dns,
        ):
            net = Net(Egress(["127.0.0.2/32"], dns.at, keep=0), Secrets())
            url = f"http://rebind.in.test:{canary.port}/"
            assert (await _fetch(url, net, canary.port)).text == "right"
            assert sorted(dns.asked) == [("rebind.in.test", 1), ("rebind.in.test", 28)]
            with pytest.raises(Refusal) as refused:
                await _fetch(url, net, canary.port)
            assert refused.value.problem.code == "egress_denied"
            assert sorted(dns.asked) == [("rebind.in.test", 1)] * 2 + [("rebind.in.test", 28)] * 2
            assert (canary.connections, len(upstream.requests)) == (0, 1)

    uvloop.run(attempt())


def test_a_checked_resolution_is_kept_for_a_while() -> None:
    """Within `keep` seconds a name that rebinds is not asked again: the checked address stands."""

    async def attempt() -> None:
        async with Upstream(host="127.0.0.2") as upstream, Resolver({"a.test": [["127.0.0.2"], ["127.0.0.1"]]}) as dns:
            net = Net(Egress(["127.0.0.2/32"], dns.at, keep=60), Secrets())
            for _ in range(3):
                await net.request(ask(f"http://a.test:{upstream.port}/"))
            assert (len(dns.asked), len(upstream.requests), upstream.connections) == (2, 3, 1)

    uvloop.run(attempt())


_LOCATIONS = [
    *(
        "http://127.0.0.1:{p}/",
        "//127.0.0.1:{p}/",
        "http://localhost:{p}/",
        "http://loop.in.test:{p}/",
        "http://[::1]:{p}/",
    ),
    *(
        "http://0x7f000001:{p}/",
        "http://x@127.0.0.1:{p}/",
        "http://2130706433:{p}/",
        "\\\\127.0.0.1:{p}\\",
        "file:///etc/passwd",
    ),
    *(
        "http://127.0.0.1:{p}\\@ok.in.test/",
        "http:///127.0.0.1:{p}/",
        "http://[::1",
        "gopher://127.0.0.1:{p}/",
        "///127.0.0.1:{p}/",
    ),
]


@pytest.mark.parametrize("location", _LOCATIONS)
def test_a_redirect_to_the_canary_is_not_followed(location: str) -> None:
    """A redirect is an answer to the tool; a client that follows checks it like the first request."""

    async def attempt() -> None:
        async with Upstream() as canary, Resolver(NAMES | {"ok.in.test": [["127.0.0.2"]]}) as dns:
            away = location.replace("{p}", str(canary.port))
            reply = http(b"moved", "302 Found", extra=f"location: {away}\r\n")
            async with Upstream(reply, host="127.0.0.2", port=canary.port):
                net = Net(Egress(["127.0.0.2/32"], dns.at), Secrets())
                url = f"http://ok.in.test:{canary.port}/"
                output = await _fetch(url, net, canary.port)
                assert output.problem is not None
                assert (output.problem.code, output.text) == ("tool_error", "moved")
                allow = (Allow.parse(f"GET http://*.in.test:{canary.port}/**"),)
                with pytest.raises(Failure) as failed:
                    await net.request(ask(url, allow=allow), follow=3)
                await asyncio.sleep(0.01)
                assert (failed.value.problem.code, canary.connections) == ("egress_denied", 0)

    uvloop.run(attempt())
