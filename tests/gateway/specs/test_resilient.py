"""What specs say of retries, fallbacks and kept results, and what one file says of another there."""

import pytest

from gateway.specs.load import Specs, load_specs
from gateway.specs.yaml import SpecErrors
from gateway.tool import Caching, Retry

TOOL = """
apiVersion: toolgate/v1
kind: Tool
name: NAME
version: 1.0.0
description: Looks something up.
input_schema: {type: object, properties: {what: {type: string}}, required: [what]}
effects: [read]
idempotent: true
runner: {http: {method: GET, url: "https://NAME.example.org/{what}"}}
"""
MIRROR = """
apiVersion: toolgate/v1
kind: Tool
name: mirror
version: 1.0.0
description: Looks something up.
input_schema: {type: object}
effects: [read]
runner: {mcp: {server: files, tool: read}}
"""
SERVER = """
apiVersion: toolgate/v1
kind: Server
name: files
url: https://mcp.example.org/mcp
secrets: [{name: key, from: "SOURCE", hosts: [mcp.example.org], header: "Authorization: Bearer {}"}]
"""


def load(**more: str) -> Specs:
    """Tools by name, each with more lines; `server` is where the credential of the MCP server of `mirror` is from."""
    files = {"server.yaml": SERVER.replace("SOURCE", more.pop("server"))} if "server" in more else {}
    for name, lines in more.items():
        files[f"{name}.yaml"] = (MIRROR if name == "mirror" else TOOL.replace("NAME", name)) + lines
    return load_specs({name: text.encode() for name, text in files.items()}, sandboxes={})


def sentences(**more: str) -> list[str]:
    """The findings of a set that is wrong."""
    with pytest.raises(SpecErrors) as caught:
        load(**more)
    return [str(finding) for finding in caught.value.findings]


def test_each_word_reaches_the_tool_in_its_unit() -> None:
    """Waits and times in seconds, the budget in percent."""
    said = (
        "retry: {on: [upstream_unreachable, timeout], attempts: 4, backoff: 100ms..2s, budget: 5%}\n"
        "fallback: other\ncache: {ttl: 5m, scope: tenant}\n"
    )
    first, _ = load(first=said, other="").tools
    assert first.retry == Retry(frozenset({"upstream_unreachable", "timeout"}), 4, 0.1, 2.0, 5)
    assert first.fallback == "other"
    assert first.cache == Caching(300.0, "tenant")


def test_what_is_left_out_of_a_retry_is_small() -> None:
    """Three attempts, waits of 200 ms to 5 s, a tenth of the calls."""
    (tool,) = load(first="retry: {on: [upstream_unreachable]}\n").tools
    assert tool.retry == Retry(frozenset({"upstream_unreachable"}), 3, 0.2, 5.0, 10)


def test_results_stay_in_a_session_where_a_credential_is_of_the_session() -> None:
    """Whether the tool itself has the credential or the server that it mirrors; the principal is no scope then."""
    secret = 'secrets: [{name: t, from: "oauth:x", hosts: [own.example.org], header: "Authorization: Bearer {}"}]\n'
    own, mirror = load(own="cache: {ttl: 1m}\n" + secret, mirror="cache: {ttl: 1m}\n", server="oauth:x").tools[:2][::-1]
    assert (own.cache, mirror.cache) == (Caching(60.0, "session"), Caching(60.0, "session"))


def test_a_server_of_one_credential_for_all_leaves_the_scope_as_it_is() -> None:
    """Which is what the file says."""
    (mirror,) = load(mirror="cache: {ttl: 1m, scope: tenant}\n", server="env:KEY").tools
    assert mirror.cache == Caching(60.0, "tenant")


def test_a_tenant_does_not_share_what_one_sessions_credential_fetched() -> None:
    """Also when the credential stands in the file of the server."""
    (found,) = sentences(mirror="cache: {ttl: 1m, scope: tenant}\n", server="oauth:x")
    assert found.startswith("mirror.yaml:10:")
    assert "the server's credential is of one session" in found


def test_fallbacks_do_not_go_in_a_circle() -> None:
    """Each tool of the circle is told, with the way; one that only leads into it is not."""
    found = sentences(a="fallback: b\n", b="fallback: c\n", c="fallback: b\n")
    assert [line.partition(":")[0] for line in found] == ["b.yaml", "c.yaml"]
    assert "the fallbacks go in a circle: b → c → b" in found[0]


def test_a_fallback_is_there_for_everybody_who_may_see_the_tool() -> None:
    """A tool of one tenant is none for a tool of all; the other way round it is."""
    (found,) = sentences(a="fallback: b\n", b="tenant: acme\n")
    assert "b is for the tenant 'acme' only" in found
    assert load(a="fallback: b\ntenant: acme\n", b="").tools[0].fallback == "b"


def test_a_chain_of_fallbacks_that_ends_is_fine() -> None:
    """One after the other."""
    assert [tool.fallback for tool in load(a="fallback: b\n", b="fallback: c\n", c="").tools] == ["b", "c", None]
