"""Tools and outcomes as MCP clients see them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors import mcp_shapes as shapes
from gateway.doors.jsonrpc import encode
from gateway.loading import load_files
from gateway.model import Outcome, Usage, Verdict
from gateway.problems import problem
from gateway.tool import Json, Tool
from tests.kit import ECHO, PERMIT

DONE = Outcome("c_1", "echo", "done", "said", None, None, Verdict("allow", frozenset({"b", "a"})), Usage(), None)


def tool(**changes: object) -> Tool:
    loaded = load_files({"echo.yaml": ECHO.encode()}, {"lab.yaml": PERMIT.encode()})
    return replace(loaded.catalogue.all()[0], **changes)  # type: ignore[arg-type]  # by keyword


@pytest.mark.parametrize(
    ("effects", "hints"),
    [
        ({"read"}, (True, False, False)),
        ({"exec"}, (True, False, False)),
        ({"write"}, (False, False, False)),
        ({"write", "destructive"}, (False, True, False)),
        ({"read", "egress"}, (True, False, True)),
    ],
)
def test_hints_say_what_was_declared(effects: set[str], hints: tuple[bool, bool, bool]) -> None:
    """Read-only without write or destructive; the open world with egress; idempotence as the spec says."""
    given = shapes.hints(tool(effects=frozenset(effects), idempotent=True))
    assert (given["readOnlyHint"], given["destructiveHint"], given["openWorldHint"]) == hints
    assert given["idempotentHint"] is True


def test_an_output_schema_is_listed() -> None:
    """As the operator wrote it, next to the title."""
    schema: dict[str, Json] = {"type": "object"}
    shown = shapes.definition(tool(output_schema=schema, title="Echo"))
    assert (shown["outputSchema"], shown["title"]) == (schema, "Echo")


@pytest.mark.parametrize("value", [[1, 2], "text", 3, False])
def test_only_modern_clients_get_structured_content_that_is_no_object(value: Json) -> None:
    """Until 2025-11-25 structured content is an object."""
    outcome = replace(DONE, structured=value)
    assert shapes.result(outcome, None, modern=True)["structuredContent"] == value
    assert "structuredContent" not in shapes.result(outcome, None, modern=False)


def test_structured_content_is_a_text_too() -> None:
    """Clients that show text only see what there is."""
    shown = shapes.result(replace(DONE, text="", structured={"n": 1}), None, modern=True)
    assert shown["content"] == [{"type": "text", "text": '{"n":1}'}]


def test_a_cut_result_says_so() -> None:
    """`truncated` stands in `_meta`, and only then; labels are sorted."""
    meta = shapes.as_object(shapes.result(replace(DONE, truncated=True), None, modern=False)["_meta"])
    assert meta["dev.toolgate/truncated"] is True
    assert meta["dev.toolgate/verdict"] == {"action": "allow", "labels": ["a", "b"], "findings": []}
    assert "dev.toolgate/truncated" not in shapes.as_object(shapes.result(DONE, None, modern=False)["_meta"])


def test_a_failed_tool_keeps_its_words_but_not_its_structured_content() -> None:
    """A client that checks structured content against the output schema must not find a failure's."""
    failed = replace(DONE, status="failed", structured={"x": 1}, problem=problem("timeout", "Too slow."))
    shown = shapes.result(failed, "ab", modern=True)
    text = str(shown["content"])
    assert "said" in text
    assert "Too slow." in text
    assert "structuredContent" not in shown
    assert shapes.as_object(shapes.as_object(shown["_meta"])["dev.toolgate/problem"])["trace_id"] == "ab"


@given(st.integers(1, 7), st.integers(0, 20))
def test_pages_show_every_tool_once(size: int, count: int) -> None:
    """Whatever the size, following the cursors gives all the names in order."""
    tools = [replace(ONE, name=f"t{n:02}") for n in range(count)]
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        shown, more = shapes.page(tools, after, size)
        seen += [t.name for t in shown]
        after = None if more is None else shapes.from_cursor(shapes.to_cursor(more))
        assert more is None or after == more
    assert seen == [t.name for t in tools]


def test_integers_beyond_64_bits_are_written() -> None:
    """A tool may give them, and JSON has them."""
    assert encode({"n": 10**30}) == b'{"n":1000000000000000000000000000000}'


ONE = tool()
