"""`GET /v1/audit`: pages of records, for those who may read, of their own tenant."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.audit.query import records
from gateway.audit.search import Search
from gateway.audit.writer import Writer
from gateway.doors.admin import admin_app
from gateway.doors.edge import Edge
from gateway.doors.mcp import McpDoor
from gateway.doors.rest import CallRoute
from gateway.model import Principal
from tests.gateway.audit.disks import SMALL, ledger
from tests.kit import Lab, Reply

OPERATOR = Principal("ops", "default", scopes=frozenset({"operator"}), token_id="k_ops")
AUDITOR = Principal("eyes", "default", scopes=frozenset({"auditor"}), token_id="k_eyes")
STRANGER = Principal("eyes", "other", scopes=frozenset({"auditor"}), token_id="k_other")
BOT = Principal("dev", "other", scopes=frozenset({"agent"}), token_id="k_bot")


class Told:
    """A lab whose ledger is on disk, with a call of agent dev done, one refused, and one of another tenant."""

    def __init__(self, lab: Lab, ledger: Writer) -> None:
        self.lab, self.ledger = lab, ledger

    async def get(self, query: str = "", by: str | None = "eyes") -> Reply:
        """One page."""
        return await self.lab.http("GET", f"/v1/audit{query}", b"", by)

    async def types(self, query: str, by: str = "eyes") -> list[str]:
        """The types of the records of a page."""
        reply = await self.get(query, by)
        assert reply.status == 200, reply.body
        return [each["record"]["type"] for each in reply.json["records"]]


def told(home: Path, test: Any) -> None:
    """Runs a test of such a lab."""

    async def run() -> None:
        async with ledger(home, tuning=SMALL) as writer:
            with closing(Search(home)) as past:
                lab = Lab.of()
                who = {"ops": OPERATOR, "eyes": AUDITOR, "stranger": STRANGER, "bot": BOT}
                lab.trial.authority.principals.update(who)
                gate = lab.gate = dataclasses.replace(lab.gate, ledger=writer)
                admin = admin_app(gate, lambda: {"audit": "ok"}, past=past)
                lab.app = Edge(CallRoute(gate), McpDoor(gate, __version__), admin, frozenset({Lab.HOST}))
                await lab.call("echo", {"text": "hello"})
                await lab.call("echo", {"text": "war"})
                await lab.call("echo", {"text": "hello"}, by="bot")
                checking: Coroutine[Any, Any, None] = test(Told(lab, writer))
                await checking

    asyncio.run(run())


def test_an_auditor_reads_the_records_of_its_tenant(tmp_path: Path) -> None:
    """By hybrid logical clock, without content; nothing of another tenant, nor what belongs to none."""

    async def test(made: Told) -> None:
        assert await made.types("") == ["session.opened", "call.intent", "call.outcome", "call.refused"]
        assert await made.types("?reverse=true&limit=2") == ["call.refused", "call.outcome"]
        found = (await made.get("?code=forbidden")).json
        assert found["next_cursor"] is None
        assert found["records"][0].keys() == {"record"}
        record = found["records"][0]["record"]
        assert (record["tool"]["name"], record["outcome"]["code"]) == ("echo", "forbidden")
        assert "content" not in record
        assert await made.types("", "stranger") == ["session.opened", "call.intent", "call.outcome"]
        assert await made.types("?tenant=other&type=call.*", "stranger") == ["call.intent", "call.outcome"]
        assert (await made.get("?tenant=other")).json["code"] == "insufficient_scope"

    told(tmp_path, test)


@pytest.mark.parametrize(
    ("query", "types"),
    [
        ("?agent=dev&tool=echo&type=call.*&status=done", ["call.outcome"]),
        ("?rule=no-war", ["call.refused"]),
        ("?rule=echo-ok&effect=permit", ["call.intent"]),
        ("?session=default&status=refused&since=1h", ["call.refused"]),
        ("?until=2020-01-01T00:00:00Z", []),
        ("?since=2999-01-01T00:00:00Z", []),
        ("?user=ada", []),
        ("?call=c_none", []),
    ],
)
def test_filters_are_those_of_the_command_line(tmp_path: Path, query: str, types: list[str]) -> None:
    """Every record of the answer has every value that was given."""

    async def test(made: Told) -> None:
        assert await made.types(query) == types

    told(tmp_path, test)


def test_pages_follow_each_other(tmp_path: Path) -> None:
    """`next_cursor` is where the next page begins, and null at the end."""

    async def test(made: Told) -> None:
        got, cursor = list[Any](), ""
        while True:
            page = (await made.get(f"?limit=1{cursor}")).json
            got += [each["record"]["seq"] for each in page["records"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert len(got) == 4
        assert got == sorted(got)

    told(tmp_path, test)


def test_content_is_handed_out_once_that_is_on_record(tmp_path: Path) -> None:
    """Arguments and results in the clear, and a record of who read which records, and how many."""

    async def test(made: Told) -> None:
        page = (await made.get("?content=true&type=call.*", "ops")).json
        contents = [each["content"] for each in page["records"]]
        assert contents[0]["arguments"] == {"text": "hello", "loud": False}
        assert contents[2]["arguments"]["text"] == "war"
        read = list(records(tmp_path))[-1]
        assert (read["type"], read["tenant"], read["count"]) == ("admin.read", "default", 3)
        assert read["filter"] == {"tenant": "default", "type": "call.*"}
        assert read["principal"] == {"agent": "ops", "user": None, "authn": "api_key", "token_id": "k_ops"}
        assert await made.types("?type=admin.*&agent=ops") == ["admin.read"]

    told(tmp_path, test)


def test_content_is_withheld_while_nothing_can_be_recorded(tmp_path: Path) -> None:
    """A reading that would be on no record does not happen; records without content can still be read."""

    async def test(made: Told) -> None:
        await made.ledger.close()
        refused = await made.get("?content=true")
        assert (refused.status, refused.json["code"]) == (503, "audit_unavailable")
        assert b"hello" not in refused.body
        assert len(await made.types("")) == 4

    told(tmp_path, test)


def test_agents_and_nobody_read_nothing(tmp_path: Path) -> None:
    """403 for a key of another scope, 401 without one, whatever else is wrong with the request."""

    async def test(made: Told) -> None:
        for query in ("", "?limit=x"):
            agent, nobody = await made.get(query, "dev"), await made.get(query, None)
            assert (agent.status, agent.json["code"]) == (403, "insufficient_scope")
            assert (nobody.status, nobody.json["code"]) == (401, "unauthenticated")

    told(tmp_path, test)


@pytest.mark.parametrize(
    "query",
    ["?limit=0", "?limit=501", "?sesion=x", "?since=yesterday", "?since=2026-01-01T00:00:00", "?cursor=x", "?call="],
)
def test_a_query_that_cannot_be_meant_is_refused(tmp_path: Path, query: str) -> None:
    """A parameter that is unknown or out of range is never left out of the filter."""

    async def test(made: Told) -> None:
        reply = await made.get(query)
        assert (reply.status, reply.json["code"]) == (400, "malformed")

    told(tmp_path, test)


def test_an_auditor_changes_nothing(tmp_path: Path) -> None:
    """It neither calls tools nor opens or closes sessions, also those of an agent of its name."""

    async def test(made: Told) -> None:
        replies = [
            await made.lab.rest("echo", {"text": "hello"}, "eyes"),
            await made.lab.http("POST", "/v1/sessions", b"{}", "eyes"),
            await made.lab.http("DELETE", "/v1/sessions/default", b"", "eyes"),
            await made.lab.http("POST", "/v1/policy:explain", b"{}", "eyes"),
        ]
        assert {(reply.status, reply.json["code"]) for reply in replies} == {(403, "insufficient_scope")}

    told(tmp_path, test)


def test_the_route_is_described_to_those_who_may_read(tmp_path: Path) -> None:
    """OpenAPI: each parameter by name; an agent's page does not have it."""

    async def test(made: Told) -> None:
        page = (await made.lab.http("GET", "/v1/openapi.json", b"", "eyes")).json
        names = {each["name"] for each in page["paths"]["/v1/audit"]["get"]["parameters"]}
        assert {"call", "session", "since", "limit", "cursor", "content"} <= names
        agent = (await made.lab.http("GET", "/v1/openapi.json", b"", "dev")).json
        assert "/v1/audit" not in agent["paths"]

    told(tmp_path, test)
