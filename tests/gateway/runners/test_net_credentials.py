"""Where credentials go and where they do not: hosts, connections, redirects, TLS, proxies."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.allow import Allow
from gateway.model import Failure
from gateway.problems import refuse
from gateway.runners.net import Egress, Net
from gateway.tool import SecretUse
from gateway.urls import parse_url
from tests.gateway.runners.servers import Resolver, Upstream, ask, certificate, fails, http, new_net

Run = Callable[[Coroutine[Any, Any, None]], None]
TOKEN = SecretUse("token", "env:TOKEN", ("127.0.0.1",), "Authorization", "Bearer {}")


def test_a_credential_goes_to_its_hosts_only(run: Run) -> None:
    """The secret is put into the header for its host, and the request to another host is refused, unsent."""

    async def calls() -> None:
        async with Upstream() as mine, Upstream(host="127.0.0.2") as other:
            net = new_net(token="t" * 16)
            await net.request(ask(f"http://127.0.0.1:{mine.port}/", secrets=(TOKEN,)))
            assert b"\r\nauthorization: Bearer tttttttttttttttt\r\n" in mine.requests[0]
            refused = await fails(net, ask(f"http://127.0.0.2:{other.port}/", secrets=(TOKEN,)))
            assert (refused, other.connections) == ("refused egress_denied", 0)

    run(calls())


def test_calls_with_different_credentials_share_no_connection(run: Run) -> None:
    """A connection that carried one credential is never used with another one, or with none."""

    async def calls() -> None:
        async with Upstream() as upstream:
            net, url = new_net(token="t" * 16, other="o" * 16), f"http://127.0.0.1:{upstream.port}/"
            other = SecretUse("other", "env:OTHER", ("127.0.0.1",), "Authorization", "Bearer {}")
            for secrets in ((), (TOKEN,), (other,), (), (TOKEN,), (other,)):
                await net.request(ask(url, secrets=secrets))
            assert (upstream.connections, len(upstream.requests)) == (3, 6)

    run(calls())


def test_a_token_that_was_dropped_while_it_was_dialled_is_not_sent(run: Run) -> None:
    """One of a session may end meanwhile, or be another by then: nothing is sent with the old one."""

    class Changing:
        """Gives each value once, in order; then it has none."""

        def __init__(self, *values: str) -> None:
            self.values = list(values)

        async def reveal(self, use: SecretUse, holder: object = None) -> str:
            if not self.values:
                raise refuse("account_required", "Disconnected.")
            return self.values.pop(0)

        def issued(self) -> Mapping[str, str]:
            return {}

    async def calls() -> None:
        leased = SecretUse("token", "oauth:mine", ("127.0.0.1",), "Authorization", "Bearer {}")
        async with Upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.port}/"
            for values, code in (("one",), "account_required"), (("one", "two"), "upstream_unreachable"):
                net = Net(Egress(networks=["127.0.0.0/8"]), Changing(*values))
                assert await fails(net, ask(url, secrets=(leased,))) == f"refused {code}"
            net = Net(Egress(networks=["127.0.0.0/8"]), Changing("one", "one"))
            await net.request(ask(url, secrets=(leased,)))
            assert len(upstream.requests) == 1

    run(calls())


@pytest.mark.parametrize(("status", "method"), [(307, "POST"), (308, "POST"), (303, "GET"), (302, "GET")])
def test_a_followed_redirect_leaves_credentials_behind(status: int, method: str) -> None:
    """Another port is another place: neither secret nor cookie goes there; the method stays for 307 and 308 only."""

    async def calls() -> None:
        async with Upstream(http(b"there")) as there:
            moved = http(b"", f"{status} Moved", extra=f"location: http://127.0.0.1:{there.port}/x#y\r\n")
            async with Upstream(moved) as here:
                url = parse_url(f"http://127.0.0.1:{here.port}/")
                allow = tuple(
                    Allow.parse(f"{verb} http://127.0.0.1:{port}/**")
                    for verb in ("GET", "POST")
                    for port in (here.port, there.port)
                )
                what = ask(str(url), "POST", allow=allow, secrets=(TOKEN,), headers=(("cookie", "a=b"),), body=b"{}")
                answer = await new_net(token="t" * 16).request(what, follow=1)
                assert answer.body == b"there"
                assert there.requests[0].startswith(f"{method} /x HTTP/1.1".encode())
                assert b"authorization" in here.requests[0]
                assert b"authorization" not in there.requests[0]
                assert b"cookie" not in there.requests[0]

    uvloop.run(calls())


def test_a_redirect_within_its_place_keeps_credentials() -> None:
    """The same scheme, host and port is the same place."""

    async def calls() -> None:
        async with Upstream(http(b"", "307 Moved", extra="location: /x\r\n"), http()) as upstream:
            what = ask(f"http://127.0.0.1:{upstream.port}/", secrets=(TOKEN,))
            await new_net(token="t" * 16).request(what, follow=1)
            assert [b"authorization" in request for request in upstream.requests] == [True, True]

    uvloop.run(calls())


def test_a_redirect_never_leaves_https(tmp_path: Path) -> None:
    """A redirect to plain http is not followed, though the allow list has it."""

    async def calls() -> None:
        async with Upstream() as plain:
            moved = http(b"", "302 Found", extra=f"location: http://127.0.0.1:{plain.port}/\r\n")
            async with Upstream(moved, tls=certificate(tmp_path)) as upstream:
                places = (f"https://127.0.0.1:{upstream.port}", f"http://127.0.0.1:{plain.port}")
                allow = tuple(Allow.parse(f"GET {place}/**") for place in places)
                with pytest.raises(Failure) as failed:
                    await new_net(ca=str(tmp_path / "cert.pem")).request(ask(places[0], allow=allow), follow=1)
                assert (failed.value.problem.code, plain.connections) == ("egress_denied", 0)

    uvloop.run(calls())


def test_redirects_end() -> None:
    """A loop of redirects is followed three times at most, whatever is asked."""

    async def calls() -> None:
        async with Upstream(http(b"", "302 Found", extra="location: /again\r\n")) as upstream:
            answer = await new_net().request(ask(f"http://127.0.0.1:{upstream.port}/"), follow=99)
            assert (answer.status, len(upstream.requests)) == (302, 4)

    uvloop.run(calls())


def test_cookies_are_not_kept() -> None:
    """What an upstream sets is not sent back."""

    async def calls() -> None:
        async with Upstream(http(extra="set-cookie: a=b\r\n")) as upstream:
            net = new_net()
            for _ in range(2):
                await net.request(ask(f"http://127.0.0.1:{upstream.port}/"))
            assert b"cookie" not in upstream.requests[1]

    uvloop.run(calls())


def test_the_certificate_is_checked_against_the_name(run: Run, tmp_path: Path) -> None:
    """TLS to a checked address: the name's own certificate passes, another name or an unknown issuer sends nothing."""

    async def calls() -> None:
        table = {"up.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}
        async with Upstream(tls=certificate(tmp_path)) as upstream, Resolver(table) as dns:
            net = new_net("127.0.0.0/8", resolver=dns.at, ca=str(tmp_path / "cert.pem"))
            for host in ("up.test", "127.0.0.1", "up.test"):
                assert (await net.request(ask(f"https://{host}:{upstream.port}/"))).body == b"ok"
            assert len(upstream.requests) == 3
            wrong = await fails(net, ask(f"https://other.test:{upstream.port}/"))
            stranger = new_net("127.0.0.0/8", resolver=dns.at)
            unknown = await fails(stranger, ask(f"https://up.test:{upstream.port}/"))
            assert (wrong, unknown) == ("refused upstream_unreachable",) * 2
            assert len(upstream.requests) == 3

    run(calls())


def test_the_environment_names_no_proxy() -> None:
    """A proxy in the environment is not used: the client has no code that reads one."""

    async def calls() -> None:
        async with Upstream() as proxy, Upstream(http(b"direct")) as upstream:
            os.environ["http_proxy"] = f"http://127.0.0.1:{proxy.port}"
            try:
                answer = await new_net().request(ask(f"http://127.0.0.1:{upstream.port}/"))
            finally:
                del os.environ["http_proxy"]
            assert (answer.body, proxy.connections) == (b"direct", 0)

    uvloop.run(calls())
