"""The http runner against a real upstream: the request a spec stands for, and what each kind of answer becomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
import uvloop

from gateway.model import Failure, Refusal
from gateway.runners.http import HttpRunner
from gateway.tool import HttpBackend, Json, SecretUse
from tests.gateway.runners.servers import Upstream, http, new_net, work


async def _sent(backend: HttpBackend, arguments: Mapping[str, Json]) -> str:
    """The request as the upstream saw it; `PORT` in the backend's URL is the upstream's."""
    async with Upstream() as upstream:
        url = None if backend.url is None else backend.url.replace("PORT", str(upstream.port))
        allow = tuple(entry.replace("PORT", str(upstream.port)) for entry in backend.allow)
        at = HttpBackend(backend.method, url, backend.url_argument, allow, backend.body, backend.query, backend.headers)
        given = {
            name: v.replace("PORT", str(upstream.port)) if isinstance(v, str) else v for name, v in arguments.items()
        }
        await HttpRunner(new_net()).run(work(at, given))
        assert len(upstream.requests) == 1
        return upstream.requests[0].decode()


@pytest.mark.parametrize(
    ("url", "query", "arguments", "target"),
    [
        ("/repos/{repo}/issues", {}, {"repo": "a/b"}, "/repos/a%2Fb/issues"),
        ("/", {"q": "{q}", "n": "{n}"}, {"q": "a&n=2", "n": 1}, "/?q=a%26n%3D2&n=1"),
        ("/", {"q": "{q}", "n": "{n}"}, {"n": 1}, "/?n=1"),
        ("/", {"q": "{q}"}, {}, "/"),
        ("/?fixed=1", {"q": "{q}"}, {"q": "x"}, "/?fixed=1&q=x"),
        ("/?a={q}&b={r}", {}, {"q": "", "r": "."}, "/?a=&b=."),
        ("/{q}.json", {}, {"q": "."}, "/..json"),
        ("/plain", {}, {"unused": "x"}, "/plain"),
        ("/", {"a b": "c d"}, {}, "/?a%20b=c%20d"),
    ],
)
def test_arguments_fill_the_url(url: str, query: Mapping[str, str], arguments: Mapping[str, Json], target: str) -> None:
    """Path and query values are encoded; a parameter whose argument was not given is left out."""
    backend = HttpBackend("GET", f"http://127.0.0.1:PORT{url}", query=query)
    assert uvloop.run(_sent(backend, arguments)).startswith(f"GET {target} HTTP/1.1\r\n")


def test_arguments_fill_headers_and_body() -> None:
    """The JSON body keeps types, has its content type, and integers beyond 64 bits stay exact."""
    backend = HttpBackend(
        "POST",
        "http://127.0.0.1:PORT/",
        body={"title": "{t}", "n": "{n}", "gone": "{x}"},
        headers={"X-Tag": "tag {t}", "X-Gone": "{x}"},
    )
    head, _, body = uvloop.run(_sent(backend, {"t": "hi", "n": 2**70})).partition("\r\n\r\n")
    assert json.loads(body) == {"title": "hi", "n": 2**70}
    assert "\r\nx-tag: tag hi\r\ncontent-type: application/json\r\n" in head
    assert "x-gone" not in head


def test_the_url_may_be_an_argument_on_the_allow_list() -> None:
    """The parsed URL is what is matched and what is sent."""
    backend = HttpBackend("GET", url_argument="url", allow=("GET http://127.0.0.1:PORT/docs/**",))
    assert uvloop.run(_sent(backend, {"url": "HTTP://0x7f.1:PORT/docs/%61?b"})).startswith("GET /docs/a?b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("backend", "arguments", "code"),
    [
        (HttpBackend("GET", "http://127.0.0.1:9/{a}"), {"a": ".."}, "egress_denied"),
        (HttpBackend("GET", "http://127.0.0.1:9/{a}/x"), {"a": "../y"}, "egress_denied"),
        (HttpBackend("GET", "http://127.0.0.1:9/{a}/{b}"), {"a": ".", "b": "x"}, "egress_denied"),
        (HttpBackend("GET", "http://127.0.0.1:9/{a}"), {"a": "x\r\ny"}, "egress_denied"),
        (HttpBackend("GET", "http://127.0.0.1:9/{a}"), {}, "invalid_arguments"),
        (HttpBackend("GET", "http://127.0.0.1:9/{a}"), {"a": ["x"]}, "invalid_arguments"),
        (HttpBackend("GET", "http://127.0.0.1:9/", headers={"x": "{a}"}), {"a": "1\r\ny: 2"}, "invalid_arguments"),
        (HttpBackend("GET", "http://127.0.0.1:9/", headers={"host": "{a}"}), {"a": "evil"}, "egress_denied"),
        (HttpBackend("GET", "http://{a}:9/"), {"a": "127.0.0.1"}, "egress_denied"),
        (HttpBackend("GET", "http://127.0.0.1{a}/"), {"a": ":9"}, "egress_denied"),
        (HttpBackend("GET", url_argument="u", allow=("GET http://127.0.0.1:9/",), query={"q": "1"}),
         {"u": "http://127.0.0.1:9/#x"}, "egress_denied"),
        (HttpBackend("GET", "{a}"), {"a": "http://127.0.0.1:9/"}, "egress_denied"),
        (HttpBackend("GET", "http:{a}"), {"a": "//127.0.0.1:9/"}, "egress_denied"),
        (HttpBackend("GET"), {}, "egress_denied"),
        (HttpBackend("GET", url_argument="url"), {"url": "http://127.0.0.1:9/"}, "egress_denied"),
        (HttpBackend("GET", url_argument="url", allow=("GET x",)), {"url": "http://127.0.0.1:9/"}, "egress_denied"),
        (HttpBackend("GET", url_argument="url", allow=("GET http://127.0.0.1:9/",)), {"url": 1}, "invalid_arguments"),
        (HttpBackend("GET", url_argument="url", allow=("GET http://127.0.0.1:9/",)), {}, "invalid_arguments"),
        (HttpBackend("POST", url_argument="url", allow=("GET http://127.0.0.1:9/",)), {"url": "http://127.0.0.1:9/"},
         "egress_denied"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(backend: HttpBackend, arguments: Mapping[str, Json], code: str) -> None:
    """Nothing is dialled for arguments that would change the place, or for a spec that leaves it open."""
    with pytest.raises(Refusal) as refused:
        uvloop.run(HttpRunner(new_net()).run(work(backend, arguments)))
    assert refused.value.problem.code == code


_JSON = "application/json"
ANSWERS = [
    (http(b'{"a": [1.0]}', kind=_JSON), '{"a": [1.0]}', {"a": [1.0]}, _JSON, None),
    (http(b'{"a": 1}', kind="application/hal+json; charset=UTF-8"), '{"a": 1}', {"a": 1}, "application/hal+json", None),
    (http(b"[1]", kind=_JSON), "[1]", None, _JSON, None),
    (http(b'{"a": 1, "a": 2}', kind=_JSON), '{"a": 1, "a": 2}', None, _JSON, None),
    (http(b'{"a": NaN}', kind=_JSON), '{"a": NaN}', None, _JSON, None),
    (http(b'{"a": 1}'), '{"a": 1}', None, "text/plain", None),
    (http("<p>é</p>".encode(), kind="text/html"), "<p>é</p>", None, "text/html", None),
    (http(b"", kind=""), "", None, "text/plain", None),
    (b"HTTP/1.1 204 No Content\r\n\r\n", "", None, "text/plain", None),
    (http(b"no", "404 Not Found"), "no", None, "text/plain", "tool_error"),
    (http(b'{"e": 1}', "422 Unprocessable", _JSON), '{"e": 1}', None, _JSON, "tool_error"),
    (http(b"moved", "301 Moved", extra="location: http://127.0.0.1:1/\r\n"), "moved", None, "text/plain", "tool_error"),
    (http(b"\xff\xfe", "400 Bad"), "", None, "text/plain", "tool_error"),
    (http(b"GIF89a", "404 Not Found", "image/gif"), "", None, "image/gif", "tool_error"),
    (http(b"broken", "500 Oops"), "broken", None, "text/plain", "upstream_error"),
    (http(b"busy", "503 Busy"), "busy", None, "text/plain", "upstream_error"),
]


@pytest.mark.parametrize(("reply", "text", "structured", "kind", "code"), ANSWERS)
def test_an_answer_becomes_an_output(reply: bytes, text: str, structured: Json, kind: str, code: str | None) -> None:
    """2xx is the output, a strict JSON object also as structure; 3xx and 4xx are `tool_error`, 5xx `upstream_error`."""

    async def call() -> None:
        async with Upstream(reply) as upstream:
            backend = HttpBackend("GET", f"http://127.0.0.1:{upstream.port}/")
            output = await HttpRunner(new_net()).run(work(backend, {}))
            found = None if output.problem is None else output.problem.code
            assert (output.text, output.structured, output.content_type, found) == (text, structured, kind, code)
            assert output.origin == "127.0.0.1"
            assert len(upstream.requests) == 1

    uvloop.run(call())


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (http(b"\xff\xfea"), "output_invalid"),
        (http(b"caf\xe9", kind="text/plain; charset=iso-8859-1"), "output_invalid"),
        (http("é".encode("utf-16"), kind="text/plain; charset=utf-16"), "output_invalid"),
        (http(b"GIF89a", kind="image/gif"), "output_invalid"),
        (http(b"PK", kind="application/octet-stream"), "output_invalid"),
        (http(b"x", kind=""), "output_invalid"),
        (http(b"x" * (2 * 1024 * 1024 + 1)), "output_too_large"),
    ],
)
def test_an_answer_that_is_no_text_is_a_failure(reply: bytes, code: str) -> None:
    """Other charsets, bytes that are no UTF-8, binary types and more than 2 MiB are refused after the fact."""

    async def call() -> None:
        async with Upstream(reply) as upstream:
            backend = HttpBackend("GET", f"http://127.0.0.1:{upstream.port}/")
            with pytest.raises(Failure) as failed:
                await HttpRunner(new_net()).run(work(backend, {}))
            assert failed.value.problem.code == code

    uvloop.run(call())


def test_two_mebibytes_are_taken() -> None:
    """The limit itself is not over it."""

    async def call() -> None:
        async with Upstream(http(b"x" * (2 * 1024 * 1024))) as upstream:
            backend = HttpBackend("GET", f"http://127.0.0.1:{upstream.port}/")
            assert len((await HttpRunner(new_net()).run(work(backend, {}))).text) == 2 * 1024 * 1024

    uvloop.run(call())


def test_the_deadline_of_the_work_holds() -> None:
    """An upstream that says nothing is a `timeout`."""

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def call() -> None:
        async with Upstream(silent) as upstream:
            backend = HttpBackend("GET", f"http://127.0.0.1:{upstream.port}/")
            with pytest.raises(Failure) as failed:
                await HttpRunner(new_net()).run(work(backend, {}, seconds=0.2))
            assert failed.value.problem.code == "timeout"
            assert failed.value.problem.advice == "It may have happened all the same; check first."

    uvloop.run(call())


def test_a_tools_secret_goes_to_its_host_only() -> None:
    """The secret is in the upstream's header and not in the output; a secret for elsewhere refuses the call."""

    async def call() -> None:
        async with Upstream() as upstream:
            backend = HttpBackend("GET", f"http://127.0.0.1:{upstream.port}/")
            runner = HttpRunner(new_net(token="s" * 20))
            here = SecretUse("token", "env:T", ("127.0.0.1",), "Authorization", "Bearer {}")
            there = SecretUse("token", "env:T", ("api.test", "*.127.0.0.1"), "Authorization", "Bearer {}")
            output = await runner.run(work(backend, {}, here))
            assert "s" * 20 not in repr(output)
            assert b"\r\nauthorization: Bearer ssssssssssssssssssss\r\n" in upstream.requests[0]
            with pytest.raises(Refusal) as refused:
                await runner.run(work(backend, {}, there))
            assert refused.value.problem.code == "egress_denied"
            assert len(upstream.requests) == 1

    uvloop.run(call())


def test_a_reloaded_tool_is_run_as_it_now_stands() -> None:
    """A plan that was parsed for an earlier version of a tool is not used for the next."""

    async def call() -> None:
        async with Upstream() as upstream:
            runner, at = HttpRunner(new_net()), f"http://127.0.0.1:{upstream.port}"
            for path in ("/old", "/new"):
                await runner.run(work(HttpBackend("GET", at + path), {}))
            assert [request.split()[1] for request in upstream.requests] == [b"/old", b"/new"]

    uvloop.run(call())
