"""`net.fetch` within a call: what spec and policy allow, what is recorded; the code is played, nothing is dialled."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.loading import ToolCatalogue, load_files
from gateway.policy.cases import run_cases
from gateway.runners.fetch import FetchRunner
from gateway.runners.net import Egress, Net
from gateway.screening import IssuedSecrets, Screener, bundled
from gateway.tool import FetchBackend, SandboxBackend, SecretUse
from gateway.work import Calls, NestedRefusal, Work
from tests.gateway.coder import CODER, MAY_FETCH, POLICY, SPECS, Played, code_of, lines, playing, story, told
from tests.gateway.runners.servers import Secrets, Upstream, http
from tests.kit import DEV, Lab

RUN = {"code": "played"}


def fetching(url: str, **more: str) -> bytes:
    """Arguments of net.fetch."""
    return json.dumps({"url": url, **more}).encode()


def fetch_lab(*rules: str, url: str = "https://docs.example.com/a?q=secret", **more: str) -> Lab:
    """A lab whose code fetches one URL."""

    async def play(work: Work, calls: Calls) -> object:
        try:
            return json.loads(await calls.call("net.fetch", fetching(url, **more)))
        except NestedRefusal as refusal:
            return str(refusal)

    return playing(play, *rules)


def test_fetch_is_a_call_like_any_other() -> None:
    """Its own intent and outcome; what was asked and what came stand in plain, without the query."""
    lab = fetch_lab(MAY_FETCH)
    outcome = asyncio.run(lab.call("coder", RUN))
    got = outcome.structured["result"]  # type: ignore[index]  # a mapping
    assert got == {"status": 200, "headers": {"content-type": "application/json"}, "body": '{"said":"hello"}'}
    assert story(lines(lab))[1:3] == [("call.intent", "net.fetch", True), ("call.outcome", "net.fetch", True)]
    sent = {"method": "GET", "host": "docs.example.com", "path": "/a", "status": 200, "bytes": 16}
    assert lines(lab)[2].fields["network"] == [sent]
    assert outcome.verdict.labels == {"untrusted"}


def test_a_path_is_content_where_policy_wants_none() -> None:
    """Under `record: metadata` the ledger knows the host and the size, not what was asked for there."""
    lab = fetch_lab(MAY_FETCH.rstrip().removesuffix("}") + ", with: {record: metadata}}\n")
    asyncio.run(lab.call("coder", RUN))
    (sent,) = lines(lab)[2].fields["network"]  # type: ignore[misc]  # a list of one
    assert sent == {"method": "GET", "host": "docs.example.com", "status": 200, "bytes": 16}


def test_nobody_may_fetch_unless_a_rule_says_so() -> None:
    """The spec's network alone is not enough: without a permit for net.fetch nothing is sent."""
    lab = fetch_lab()
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "(no_permit)" in str(outcome.structured)
    assert lab.trial.net.asked == []


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("https://docs.example.com/in", {"method": "POST"}),
        ("https://docs.example.com/else", {"method": "POST"}),
        ("https://evil.example.com/", {}),
        ("http://docs.example.com/", {}),
        ("https://docs.example.com:8443/", {}),
    ],
)
def test_the_spec_says_where_code_may_fetch(url: str, more: dict[str, str]) -> None:
    """Method, scheme, host, port and path; policy comes first, and may say less."""
    rule = MAY_FETCH.replace('arg.url.scheme == "https"', 'args.url != ""')
    lab = fetch_lab(rule, url=url, **more)
    outcome = asyncio.run(lab.call("coder", RUN))
    if url.endswith("/in"):
        assert "'status': 200" in str(outcome.structured)
        return
    assert "(egress_denied)" in str(outcome.structured)
    assert lab.trial.net.asked == []
    recorded = lines(lab)[2].fields
    assert code_of(lines(lab)[2]) == "egress_denied"
    assert recorded["network"][0]["status"] is None  # type: ignore[index]  # as read back


def test_policy_reads_the_url_of_a_fetch() -> None:
    """`arg.url` is the fact of it, for net.fetch as for any tool."""
    lab = fetch_lab(MAY_FETCH, url="http://docs.example.com/")
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "(no_permit)" in str(outcome.structured)


def test_fetch_exists_within_a_call_only() -> None:
    """Called directly it is a tool that does not exist, whatever policy says, by any door; nobody sees it listed."""
    lab = fetch_lab(MAY_FETCH)

    async def calls() -> tuple[Any, Any, Any, list[str]]:
        arguments = {"url": "https://docs.example.com/"}
        direct = await lab.call("net.fetch", arguments)
        rest = await lab.rest("net.fetch", arguments)
        mcp = await lab.mcp("net.fetch", arguments)
        return direct, rest, mcp, [tool.name for tool in lab.gate.listing(DEV)]

    direct, rest, mcp, listed = asyncio.run(calls())
    assert direct.problem.code == "unknown_tool"
    assert (rest.status, rest.json["code"]) == (404, "unknown_tool")
    assert "unknown_tool" in json.dumps(mcp)
    assert listed == ["coder", "look", "send"]


def test_code_without_network_cannot_fetch() -> None:
    """A spec that grants tools only grants no net.fetch."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "net.fetch", fetching("https://docs.example.com/"))

    spec = CODER.split("    network:")[0]
    lab = Lab.of(SPECS | {"coder.yaml": spec}, {"lab.yaml": POLICY + MAY_FETCH.replace("arg.url.scheme", "args.url")})
    lab.gate = replace(lab.gate, runners={**lab.gate.runners, SandboxBackend: Played(play)})
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "(no_permit)" in str(outcome.structured)


def test_lint_knows_fetch_where_a_spec_has_a_network() -> None:
    """A rule about net.fetch is about a tool that is there; elsewhere it is named as one that matches nothing."""
    files = {name: text.encode() for name, text in SPECS.items()}
    policy = {"lab.yaml": (POLICY + MAY_FETCH).encode()}
    assert [str(each) for each in load_files(files, policy).findings if "net.fetch" in each.sentence] == []
    files["coder.yaml"] = CODER.split("    network:")[0].encode()
    assert any("'net.fetch' matches no loaded tool" in each.sentence for each in load_files(files, policy).findings)


def test_a_network_that_nobody_may_use_is_found() -> None:
    """A spec lets code fetch, and no rule does: said when files are read, at the spec's line."""
    files = {name: text.encode() for name, text in SPECS.items()}
    (found,) = [each for each in load_files(files, {"lab.yaml": POLICY.encode()}).findings if each.file == "coder.yaml"]
    assert found.sentence.startswith("no rule permits net.fetch, so the code of coder fetches nothing")


def test_a_policy_tests_its_rules_about_fetch() -> None:
    """Cases of a policy name net.fetch like any tool."""
    cases = """
tests:
- {name: safe, call: {net.fetch: {url: "https://docs.example.com/"}}, expect: {permit: may-fetch}}
- {name: plain, call: {net.fetch: {url: "http://docs.example.com/"}}, expect: {deny: no_permit}}
- {name: no url, call: {net.fetch: {}}, expect: {refused: invalid_arguments}}
"""
    files = {name: text.encode() for name, text in SPECS.items()}
    loaded = load_files(files, {"lab.yaml": (POLICY + MAY_FETCH + cases).encode()})
    assert [(each.name, each.ok) for each in run_cases(loaded.bundle)] == [
        ("safe", True),
        ("plain", True),
        ("no url", True),
    ]


def test_an_upstream_that_echoes_the_credential_teaches_code_nothing() -> None:
    """The key goes out and is taken out of what comes back, in body and headers, before the code sees either."""
    secret = "k-3141592653589793"
    use = SecretUse("docs-key", "env:DOCS", ("127.0.0.1",), "Authorization", "Bearer {}")

    async def calls() -> None:
        echo = http(f"you sent: Bearer {secret}".encode(), extra=f"location: /?key={secret}\r\n")
        async with Upstream(echo) as upstream:
            at = f"http://127.0.0.1:{upstream.port}"

            async def play(work: Work, calls: Calls) -> object:
                got = json.loads(await calls.call("net.fetch", fetching(f"{at}/a")))
                assert secret not in str(got)
                return got

            rule = MAY_FETCH.replace('== "https"', '== "http"')
            spec = CODER.replace("https://docs.example.com/**", f"{at}/**")
            lab = playing(play, rule, specs={"coder.yaml": spec}, clock=True)
            coder = lab.gate.catalogue.find("coder")
            assert coder is not None
            vault = Secrets(**{use.name: secret})
            runners = {**lab.gate.runners, FetchBackend: FetchRunner(Net(Egress(), vault))}
            screener = Screener(bundled(), IssuedSecrets(vault.values))
            catalogue = ToolCatalogue([replace(coder, secrets=(use,))])
            lab.gate = replace(lab.gate, runners=runners, screener=screener, catalogue=catalogue)
            outcome = await lab.call("coder", RUN)
            assert f"authorization: Bearer {secret}".encode() in upstream.requests[0]
            assert "you sent: Bearer [redacted:docs-key]" in str(outcome.structured)
            assert secret not in repr([line for line in lines(lab) if line.content is None])

    asyncio.run(calls())
