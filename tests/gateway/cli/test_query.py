"""`toolgate audit query`: filters in, records out, in text and as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.ports import Line
from gateway.stores.sqlite import State
from tests.gateway.audit.disks import intent, ledger, write_calls
from tests.gateway.cli.project import run

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The command over a home with three calls of tenant t1, the last of agent dev, refused."""

    async def write() -> None:
        async with ledger(tmp_path) as writer:
            await write_calls(writer, 2)
            said = {"principal": {"agent": "dev"}, "outcome": {"status": "refused", "code": "forbidden"}}
            await writer.append(Line("call.refused", dict(intent("c9").fields) | said))

    State(tmp_path / "state.db").close()
    asyncio.run(write())
    return lambda *given: run(capsys, "audit", "query", "--home", tmp_path, *given)


def test_records_are_lines_oldest_first(ask: Ask) -> None:
    """One line each; `--reverse` turns them round; what follows is said beside the records, not among them."""
    code, out, err = ask("--type", "call.*")
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 5)
    assert "call.refused  dev echo refused forbidden c9" in lines[-1]
    assert ask("--type", "call.*", "--reverse")[1].splitlines() == lines[::-1]
    first = ask("--type", "call.*", "--limit", "2")
    assert first[1].splitlines() == lines[:2]
    cursor = first[2].split()[-1]
    assert ask("--type", "call.*", "--after", cursor)[1].splitlines() == lines[2:]


def test_filters_narrow_together(ask: Ask) -> None:
    """A record has every value that was given; none is a finding."""
    assert ask("--agent", "dev", "--code", "forbidden", "--since", "1h")[0] == 0
    assert ask("--agent", "dev", "--code", "no_permit") == (1, "no such record\n", "")
    assert ask("--until", "1h")[0] == 1


def test_json_is_a_page(ask: Ask) -> None:
    """The same form as the answer of `GET /v1/audit`, with content only where it is asked for."""
    page = json.loads(ask("--call", "c1", "--json")[1])
    assert [each["record"]["type"] for each in page["records"]] == ["call.intent", "call.outcome"]
    assert page["next_cursor"] is None
    assert all(each.keys() == {"record"} and "content" not in each["record"] for each in page["records"])
    shown = json.loads(ask("--call", "c1", "--json", "--content", "--limit", "1")[1])
    assert shown["records"][0]["content"] == {"arguments": {"text": "asked by c1"}}
    assert shown["next_cursor"]


def test_content_stands_under_its_record(ask: Ask) -> None:
    """In the clear, indented, also without JSON."""
    out = ask("--call", "c1", "--content")[1]
    assert '        "text": "asked by c1"\n' in out


@pytest.mark.parametrize(
    "given", [("--since", "yesterday"), ("--limit", "0"), ("--after", "x"), ("--agent", "\x00"), ("--agent", "\udcff")]
)
def test_what_cannot_be_read_is_said(ask: Ask, given: tuple[str, str]) -> None:
    """Exit 2 and the option's name, before anything is read."""
    code, out, err = ask(*given)
    assert (code, out) == (2, "")
    assert err.startswith(f"toolgate: {given[0]}: ")
