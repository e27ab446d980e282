"""What the MCP runner makes of answers: nothing a server says is trusted."""

from __future__ import annotations

import pytest

from gateway.model import Failure, RawOutput
from gateway.tool import Json
from tests.gateway.runners.mcp_bench import Bench, refused, run
from tests.gateway.runners.mcp_server import McpServer, said


def test_what_a_tool_gives() -> None:
    """Text blocks are joined, structured content is kept, everything else is named but not passed on."""
    content = [
        {"type": "text", "text": "a"},
        {"type": "image", "data": "AAAA"},
        {"type": "<b>"},
        3,
        {"type": "text", "text": "b"},
    ]

    async def scene(b: Bench) -> RawOutput:
        return await b.call()

    server = McpServer()
    server.on_call = lambda _: {"result": {"content": content, "structuredContent": {"n": 1}}}
    output = run(server, scene)
    assert output.text.split("\n") == [
        "a",
        "[content of type image is not passed on]",
        "[content of type unknown is not passed on]",
        "[content of type unknown is not passed on]",
        "b",
    ]
    assert (output.structured, output.problem, output.origin) == ({"n": 1}, None, "127.0.0.1")


@pytest.mark.parametrize(
    ("reply", "code", "text"),
    [
        ({"result": said("no such city", isError=True)}, "tool_error", "no such city"),
        ({"error": {"code": -32602, "message": "text is required"}}, "tool_error", "text is required"),
        ({"error": {"code": -32603, "message": "boom"}}, "upstream_error", "boom"),
    ],
)
def test_a_tool_that_fails(reply: dict[str, Json], code: str, text: str) -> None:
    """`isError` and JSON-RPC errors are failures, and what the server said is kept as untrusted text."""

    async def scene(b: Bench) -> RawOutput:
        return await b.call()

    server = McpServer()
    server.on_call = lambda _: reply
    output = run(server, scene)
    assert output.problem is not None
    assert (output.problem.code, output.text) == (code, text)


JSON = "application/json"
SSE = "text/event-stream"


@pytest.mark.parametrize(
    ("status", "kind", "body", "code"),
    [
        (200, JSON, b'{"jsonrpc":"2.0","id":3,"id":3,"result":{}}', "output_invalid"),
        (200, JSON, b'{"jsonrpc":"2.0","id":3,"result":{"x":NaN}}', "output_invalid"),
        (200, JSON, b'{"jsonrpc":"2.0","id":99,"result":{}}', "output_invalid"),
        (200, JSON, b'{"jsonrpc":"2.0","id":3}', "output_invalid"),
        (200, JSON, b'{"jsonrpc":"2.0","id":3,"result":{"content":"text"}}', "output_invalid"),
        (200, JSON, b"[" * 5000, "output_invalid"),
        (200, "text/html", b"<p>", "output_invalid"),
        (200, JSON, b'{"jsonrpc":"2.0","id":3,"result":{"content":[]}}' + b" " * (3 << 20), "output_too_large"),
        (200, JSON, b'{"jsonrpc":"2.0","id":3,"result":{"resultType":"input_required"}}', "upstream_error"),
        (200, SSE, b'data: {"jsonrpc":"2.0","id":"x","method":"sampling/createMessage"}\n\n', "upstream_error"),
        (200, SSE, b": nothing\n\n", "upstream_error"),
        (200, SSE, b"data: {\n\n", "output_invalid"),
        (500, "text/plain", b"oops", "upstream_error"),
        (307, "text/plain", b"", "upstream_error"),
    ],
)
def test_an_answer_that_is_none_is_a_typed_failure(status: int, kind: str, body: bytes, code: str) -> None:
    """Whatever a server answers to a call, it is a Failure of the table: the call may have run."""

    async def scene(b: Bench) -> None:
        b.server.raw["tools/call"] = (status, kind, body)
        with pytest.raises(Failure) as error:
            await b.call()
        assert refused(error) == code

    run(McpServer(), scene)
