"""Where policy says where a call may go, nothing is sent elsewhere: by any runner, at any depth, in any redirect."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.allow import Allow, networks_of
from gateway.model import Failure, Refusal
from gateway.runners.http import HttpRunner
from gateway.runners.net import Egress, Net
from gateway.tool import FetchBackend, HttpBackend
from gateway.work import Calls, Work
from tests.gateway.coder import CODER, LOOK, SPECS, code_of, lines, playing, told
from tests.gateway.runners.mcp_bench import Bench, refused, run
from tests.gateway.runners.mcp_server import McpServer
from tests.gateway.runners.servers import Secrets, Upstream, ask, fails, http, new_net
from tests.kit import Lab

RUN = {"code": "played"}
FETCH = "- {id: fetch, effect: permit, match: {tools: [net.fetch]}}\n"


def policy(*rules: str) -> dict[str, str]:
    """One part of these rules."""
    return {"lab.yaml": "\napiVersion: toolgate/v1\nkind: Policy\nid: nets\nrules:\n" + "".join(rules)}


def permit(name: str, tool: str, *networks: str) -> str:
    """A permit of a tool; with a network where entries are given."""
    duties = f", with: {{network: {{allow: {json.dumps(networks)}}}}}" if networks else ""
    return f"- {{id: {name}, effect: permit, match: {{tools: [{tool}]}}{duties}}}\n"


def fetching(url: str, **more: str) -> bytes:
    """Arguments of net.fetch."""
    return json.dumps({"url": url, **more}).encode()


@pytest.mark.parametrize(
    ("entry", "goes"),
    [
        ("GET https://look.example.com/**", True),
        ("GET https://*.example.com/a", True),
        ("POST https://look.example.com/**", False),
        ("GET https://look.example.com/b/**", False),
        ("GET http://look.example.com/**", False),
        ("GET https://look.example.com:8443/**", False),
        ("GET https://example.com/**", False),
    ],
)
def test_an_http_call_goes_where_policy_says_or_nowhere(entry: str, goes: bool) -> None:
    """Method, scheme, host, port and path; what the spec fixes is no way around it."""
    lab = Lab.of(SPECS, policy(permit("look", "look", entry)))
    outcome = asyncio.run(lab.call("look", {"what": "a"}))
    assert (outcome.status, len(lab.trial.net.asked)) == (("done", 1) if goes else ("refused", 0))
    if outcome.problem is not None:
        assert outcome.problem.code == "egress_denied"
        assert "policy" in outcome.problem.detail


def test_each_rule_has_a_list_of_its_own() -> None:
    """Two permits with different lists leave what both name, and nothing when that is nothing."""
    wide, narrow = (
        permit("wide", "look", "GET https://*.example.com/**"),
        permit("narrow", "look", "GET https://look.example.com/a"),
    )
    lab = Lab.of(SPECS, policy(wide, narrow))
    assert asyncio.run(lab.call("look", {"what": "a"})).status == "done"
    assert asyncio.run(lab.call("look", {"what": "b"})).status == "refused"
    other = permit("other", "look", "GET https://other.example.com/**")
    lab = Lab.of(SPECS, policy(wide, narrow, other))
    assert asyncio.run(lab.call("look", {"what": "a"})).status == "refused"
    assert lab.trial.net.asked == []


def test_code_carries_its_network_into_what_it_calls() -> None:
    """A network of the tool that runs code holds for its fetches and its tools, however widely those are permitted."""

    async def play(work: Work, calls: Calls) -> object:
        return [
            await told(calls, "net.fetch", fetching("https://docs.example.com/in/a")),
            await told(calls, "net.fetch", fetching("https://docs.example.com/else")),
            await told(calls, "look", b'{"what": "a"}'),
            await told(calls, "send", b'{"what": "a"}'),
        ]

    confined = permit("code", "coder", "GET https://docs.example.com/in/**", "POST https://send.example.com/in")
    lab = playing(play, FETCH)
    lab.gate = replace(
        lab.gate,
        bundles=Lab.of(SPECS, policy(confined, FETCH, permit("look", "look"), permit("send", "send"))).gate.bundles,
    )
    outcome = asyncio.run(lab.call("coder", RUN))
    said = outcome.structured["result"]  # type: ignore[index]  # a mapping
    assert [bool(each) for each in said] == [False, True, True, False]
    assert all("(egress_denied)" in each for each in said if each)
    assert [each.url.host for each in lab.trial.net.asked] == ["docs.example.com", "send.example.com"]


def test_every_call_around_a_call_confines_it() -> None:
    """Two levels down the lists of all three calls hold, and deeper code gets none of it back."""
    seen: list[tuple[tuple[str, ...], ...]] = []

    async def play(work: Work, calls: Calls) -> object:
        seen.append(work.networks)
        if work.depth == 0:
            return json.loads(await calls.call("coder", json.dumps({"code": "inner"}).encode()))
        inner = await told(calls, "net.fetch", fetching("https://docs.example.com/in"))
        return [inner, await told(calls, "net.fetch", fetching("https://docs.example.com/in/a"))]

    rules = (
        '- {id: outer, effect: permit, match: {tools: [coder]}, when: [args.code == "played"],'
        ' with: {network: {allow: ["GET https://docs.example.com/in", "GET https://docs.example.com/in/**"]}}}\n',
        '- {id: inner, effect: permit, match: {tools: [coder]}, when: [args.code == "inner"],'
        ' with: {network: {allow: ["GET https://docs.example.com/*"]}}}\n',
        permit("fetch", "net.fetch", "GET https://*.example.com/**"),
    )
    lab = playing(play)
    lab.gate = replace(lab.gate, bundles=Lab.of(SPECS, policy(*rules)).gate.bundles)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "(egress_denied)" in str(outcome.structured)
    assert [each.url.path for each in lab.trial.net.asked] == ["/in"]
    outer = ("GET https://docs.example.com/in", "GET https://docs.example.com/in/**")
    assert seen == [(outer,), (("GET https://docs.example.com/*",), outer)]
    assert [code_of(line) for line in lines(lab) if line.type == "call.outcome"] == [None, "egress_denied", None, None]


def test_over_the_real_client_nothing_is_sent_where_policy_does_not_say() -> None:
    """A local server that the spec names hears only the requests that policy lets through, fetches of code too."""

    async def calls() -> None:
        async with Upstream(http(b'{"a": 1}', kind="application/json")) as upstream:
            at = f"http://127.0.0.1:{upstream.port}"

            async def play(work: Work, calls: Calls) -> object:
                return [
                    await told(calls, "net.fetch", fetching(f"{at}/in/a")),
                    await told(calls, "net.fetch", fetching(f"{at}/else")),
                    await told(calls, "look", b'{"what": "x"}'),
                ]

            specs = {
                "coder.yaml": CODER.replace("https://docs.example.com/**", f"{at}/**"),
                "look.yaml": LOOK.replace("https://look.example.com", at),
            }
            rules = (permit("code", "coder", f"GET {at}/in/**"), permit("look", "look"), permit("fetch", "net.fetch"))
            lab = playing(play, clock=True, specs=specs)
            net = Net(Egress(), Secrets())
            runners = {**lab.gate.runners, HttpBackend: HttpRunner(net)}
            runners[FetchBackend] = type(lab.gate.runners[FetchBackend])(net)  # type: ignore[call-arg]  # the fetch runner
            bundles = Lab.of(SPECS | specs, policy(*rules)).gate.bundles
            lab.gate = replace(lab.gate, runners=runners, bundles=bundles)
            outcome = await lab.call("coder", RUN)
            said = outcome.structured["result"]  # type: ignore[index]  # a mapping
            assert [bool(each) for each in said] == [False, True, True]
            assert [request.split(b" ")[1] for request in upstream.requests] == [b"/in/a"]
            assert (await lab.call("look", {"what": "y"})).status == "done"
            await net.close()

    asyncio.run(calls())


def test_a_redirect_stays_within_the_network() -> None:
    """Each step of a redirect is held to the lists again; the step that leaves them is not taken."""

    async def calls() -> None:
        moved, on = (http(b"", "302 Found", extra=f"location: {to}\r\n") for to in ("/in/b", "/out"))
        async with Upstream(moved, on, http(b"end")) as upstream:
            at = f"http://127.0.0.1:{upstream.port}"
            net = new_net()
            lists = networks_of(((f"GET {at}/**",), (f"GET {at}/in/**",)))
            asked = replace(ask(f"{at}/in/a", allow=(Allow.parse(f"GET {at}/**"),)), networks=lists)
            with pytest.raises(Failure) as failure:  # the first request was sent
                await net.request(asked, follow=3)
            assert failure.value.problem.code == "egress_denied"
            assert [request.split(b" ")[1] for request in upstream.requests] == [b"/in/a", b"/in/b"]
            assert await fails(net, replace(asked, url=ask(f"{at}/out").url)) == "refused egress_denied"
            assert len(upstream.requests) == 2
            await net.close()

    asyncio.run(calls())


@pytest.mark.parametrize(
    ("entry", "reached"),
    [("POST {at}/**", True), ("POST {at}", True), ("GET {at}/**", False), ("POST https://else.example.com/**", False)],
)
def test_an_mcp_server_is_asked_only_where_policy_lets_the_call_go_to_it(entry: str, reached: bool) -> None:
    """What is sent to an MCP server is a POST to its URL: off the list not even a greeting is."""

    async def scene(b: Bench) -> None:
        lists = ((entry.replace("{at}", b.server.url),),)
        if reached:
            assert (await b.call(networks=lists)).text == "hi"
        else:
            with pytest.raises(Refusal) as refusal:
                await b.call(networks=lists)
            assert refused(refusal) == "egress_denied"
            assert b.server.counts.total() == 0

    run(McpServer(), scene)
