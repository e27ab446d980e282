"""Which backend a call goes to, and what of an attempt says that it is ill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.model import Arguments, Call, Caller, Principal, RawOutput, Session
from gateway.problems import problem
from gateway.reliability.breaker import Place
from gateway.reliability.resilience import _at, had_its_time, is_ill, is_out, place_of
from gateway.tool import Backend, FetchBackend, HttpBackend, McpBackend, SandboxBackend
from tests.kit import Lab

HTTP = HttpBackend("GET", "https://Up.example.org:443/{what}?x=1")
GIVEN = HttpBackend("GET", None, "url", ("GET https://**",))
MCP = McpBackend("files", "read")
CODE = SandboxBackend("docker", "code", None)
FETCH = FetchBackend(("GET https://**",))


def call(backend: Backend, url: str = "https://up.example.org/a?b") -> Call:
    """A call of a tool with that backend, which has 10 s."""
    tool = Lab.of().gate.catalogue.find("echo")
    assert tool is not None
    caller = Caller(Principal("dev", "acme"), Session("s", "u", "acme\x1fdev\x1f", 0.0, 1.0))
    return Call("c_1", caller, replace(tool, backend=backend, timeout=10.0), Arguments({"url": url}), 0.0, 1)


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        (HTTP, "https://up.example.org"),
        (replace(HTTP, url="http://127.0.0.1:81"), "http://127.0.0.1:81"),
        (GIVEN, "https://up.example.org"),
        (FETCH, "https://up.example.org"),
        (MCP, "mcp:files"),
        (CODE, "sandbox:docker"),
    ],
)
def test_a_backend_has_one_name(backend: Backend, name: str) -> None:
    """Scheme, host and port in one spelling, the server, the kind of sandbox; and the tenant's own."""
    assert place_of(call(backend)) == Place("acme", name)


@pytest.mark.parametrize("url", ["", "ftp://x/", "https://", "https://a b/", "x" * 9000, f"https://{'x' * 9000}"])
def test_what_is_no_url_has_no_backend(url: str) -> None:
    """Its runner refuses it; one that is long is not remembered."""
    before = _at.cache_info().currsize
    assert place_of(call(GIVEN, url)) is None
    assert len(url) < 9000 or _at.cache_info().currsize == before


ANSWERED = {"origin": "up.example.org"}


@pytest.mark.parametrize(
    ("backend", "code", "more", "ill"),
    [
        (HTTP, None, ANSWERED, False),
        (HTTP, "upstream_error", ANSWERED, True),  # a status from 500 on
        (HTTP, "upstream_error", {}, True),  # the connection broke
        (HTTP, "tool_error", ANSWERED, False),
        (HTTP, "output_too_large", {}, False),
        (HTTP, "timeout", {}, True),
        (HTTP, "cancelled", {}, None),
        (MCP, "upstream_error", ANSWERED, False),  # it says that the call is wrong
        (MCP, "upstream_error", {}, True),
        (MCP, "timeout", {}, True),
        (CODE, "timeout", {}, None),
        (CODE, "tool_error", ANSWERED, False),
        (CODE, "upstream_error", {}, False),  # the sandbox broke down under its code
        (CODE, "sandbox_limit", {}, False),
    ],
)
def test_what_an_output_says_of_its_backend(
    backend: Backend, code: str | None, more: dict[str, str], ill: bool | None
) -> None:
    """Ill, well, or nothing."""
    raw = RawOutput("", problem=problem(code, "") if code else None, **more)  # type: ignore[arg-type]  # an origin
    assert is_ill(call(backend), raw, fair=True) is ill


def test_a_call_that_was_cut_short_says_nothing_by_ending() -> None:
    """Nine tenths of the tool's time are needed for that, also where there was no time left to connect."""
    made = call(HTTP)
    assert (had_its_time(made, 9.0), had_its_time(made, 8.9)) == (True, False)
    assert is_ill(made, RawOutput("", problem=problem("timeout", "")), fair=False) is None
    assert is_ill(made, RawOutput("", problem=problem("upstream_error", "")), fair=False) is True
    assert is_out(problem("upstream_unreachable", ""), fair=False) is None


@pytest.mark.parametrize(
    ("code", "again", "ill"),
    [
        ("upstream_unreachable", None, True),
        ("sandbox_unavailable", 1000, True),
        ("sandbox_unavailable", None, None),  # a guarantee it lacks
        ("egress_denied", None, None),
        ("account_required", None, None),
        ("tool_changed", None, None),
        ("invalid_arguments", None, None),
        ("audit_unavailable", None, None),
    ],
)
def test_what_a_refusal_says_of_its_backend(code: str, again: int | None, ill: bool | None) -> None:
    """Only that nobody is there: whatever else was refused is the caller's own, or ours."""
    assert is_out(problem(code, "", retry_after_ms=again), fair=True) is ill
