"""Approvals over REST: whom they are shown to, how, and what becomes of an answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from gateway.model import Principal
from tests.kit import Lab, Reply

POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: say, effect: permit, match: {tools: [echo]}, with: {approval: {by: ["user:ann"], ttl: 10m}}}
"""
PEOPLE = {
    "ann": Principal("desk", "default", "ann", scopes=frozenset({"approver"}), token_id="k_ann"),
    "ops": Principal("desk", "default", "carl", scopes=frozenset({"operator"}), token_id="k_ops"),
    "theirs": Principal("desk", "other", "ann", scopes=frozenset({"operator"}), token_id="k_theirs"),
    "eyes": Principal("desk", "default", "eve", scopes=frozenset({"auditor"}), token_id="k_eyes"),
    "twin": Principal("twin", "default", "bob", scopes=frozenset({"agent"}), token_id="k_twin"),
}


def lab_of() -> Lab:
    """A lab in which `dev` acts for bob, and `ann` has to say yes."""
    lab = Lab.of(policies={"lab.yaml": POLICY})
    principals = lab.trial.authority.principals
    principals.update(PEOPLE, dev=replace(principals["dev"], user="bob"))
    return lab


async def ask(lab: Lab, by: str, path: str = "", body: Any = None) -> Reply:
    """One request below /v1/approvals."""
    sent = b"" if body is None else json.dumps(body).encode()
    return await lab.http("GET" if body is None else "POST", f"/v1/approvals{path}", sent, by)


async def parked(lab: Lab, text: str = "hi") -> Any:
    """The answer to a call that waits."""
    reply = await lab.rest("echo", {"text": text})
    assert (reply.status, reply.headers["location"]) == (202, f"/v1/calls/{reply.json['call_id']}")
    return reply.json


def test_a_caller_sees_how_its_call_stands_and_no_names() -> None:
    """Under its own call: the id, the state and the time; after the call itself nobody else, and never who answers."""

    async def run() -> None:
        lab = lab_of()
        said = await parked(lab)
        approval, path = said["problem"]["approval"], f"/v1/calls/{said['call_id']}"
        for state in ("pending", "granted", "used"):
            own = (await lab.http("GET", path)).json
            assert own["approval"] == {"id": approval, "state": state, "expires_at": lab.trial.clock.now() + 600}
            assert own["status"] == "parked"
            assert "ann" not in json.dumps(own).replace("any", "").replace("cannot", "")
            if state == "pending":
                await ask(lab, "ann", f"/{approval}/approve", {})
            elif state == "granted":
                done = await lab.rest("echo", {"text": "hi"})
                assert (done.status, "approval" in done.json) == (200, False)
        assert (await lab.http("GET", path, by="twin")).status == 404

    asyncio.run(run())


def test_who_may_look() -> None:
    """Operators and approvers of the tenant; of another tenant it is not there, in the words of one that never was."""

    async def run() -> None:
        lab = lab_of()
        approval = (await parked(lab))["problem"]["approval"]
        none = (await ask(lab, "theirs", "/a_00000000000000000000000000000000")).json
        for path, body in (("", None), ("/approve", {}), ("/deny", {"why": "x"})):
            theirs = await ask(lab, "theirs", f"/{approval}{path}", body)
            assert (theirs.status, theirs.json) == (404, none)
            for by in ("dev", "twin", "eyes"):
                refused = await ask(lab, by, f"/{approval}{path}", body)
                assert (refused.status, refused.json["code"]) == (403, "insufficient_scope")
        assert (await ask(lab, "theirs")).json["approvals"] == []
        assert [(await ask(lab, by)).status for by in ("dev", "eyes", "ops", "ann")] == [403, 403, 200, 200]
        assert (await ask(lab, "ann", f"/{approval}")).json["state"] == "pending"

    asyncio.run(run())


def test_what_is_shown_is_safe_and_says_whose_it_is_to_answer() -> None:
    """Arguments as escaped text beside their digest; the rules, and which of them are for this person."""

    async def run() -> None:
        lab = lab_of()
        approval = (await parked(lab, "a\u202eb\x07"))["problem"]["approval"]
        shown = (await ask(lab, "ann", f"/{approval}")).json
        assert shown["shown"] == '{\n  "loud": false,\n  "text": "a\\u{202e}b\\u{7}"\n}'
        assert shown["arguments_digest"].startswith("sha256:")
        assert shown["needs"] == [{"rule": "say", "by": ["user:ann"], "open": True}]
        assert (shown["agent"], shown["user"], shown["yours"]) == ("dev", "bob", ["say"])
        assert (await ask(lab, "ops", f"/{approval}")).json["yours"] == []
        after = (await ask(lab, "ann", f"/{approval}/deny", {"why": "no\u202e"})).json
        assert (after["state"], after["yours"], after["needs"][0]["open"]) == ("denied", [], True)
        (answer,) = after["answers"]
        assert (answer["person"], answer["yes"], answer["via"], answer["why"]) == ("ann", False, "rest", "no\\u{202e}")

    asyncio.run(run())


def test_a_list_comes_in_pages_and_by_state() -> None:
    """Oldest first, each once; a cursor that was not given out is refused, and so is a word that is no state."""

    async def run() -> None:
        lab = lab_of()
        ids = []
        for n in range(5):
            lab.trial.clock.at += 1
            ids.append((await parked(lab, str(n)))["problem"]["approval"])
        await ask(lab, "ann", f"/{ids[1]}/approve", {})
        seen, cursor = [], ""
        while True:
            page = (await ask(lab, "ops", f"?state=pending&limit=3{cursor}")).json
            seen += [each["id"] for each in page["approvals"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == [ids[0], *ids[2:]]
        assert [each["id"] for each in (await ask(lab, "ops", "?state=granted")).json["approvals"]] == [ids[1]]
        lab.trial.clock.at += 600
        assert len((await ask(lab, "ops", "?state=expired")).json["approvals"]) == 5
        for wrong in ("?cursor=x", "?state=open", "?limit=0", "?tenant=other"):
            assert (await ask(lab, "ops", wrong)).status == 400

    asyncio.run(run())


def test_an_answer_is_one_shape_and_nothing_else() -> None:
    """A reason that is a text of at most 300 characters, or nothing."""

    async def run() -> None:
        lab = lab_of()
        approval = (await parked(lab))["problem"]["approval"]
        for body in ({"why": 1}, {"why": "x" * 301}, {"yes": True}, []):
            assert (await ask(lab, "ann", f"/{approval}/approve", body)).status == 400
        assert (await ask(lab, "ann", f"/{approval}/approve", {})).json["state"] == "granted"
        again = await ask(lab, "ann", f"/{approval}/approve", {})
        assert (again.status, again.json["code"]) == (403, "approval_expired")

    asyncio.run(run())


def test_the_routes_are_described_to_those_who_may_answer() -> None:
    """OpenAPI: the four operations with what they take; an agent's page, and an auditor's, has none of them."""

    async def run() -> None:
        lab = lab_of()
        for by in ("ann", "ops"):
            paths = (await lab.http("GET", "/v1/openapi.json", b"", by)).json["paths"]
            listing = paths["/v1/approvals"]["get"]
            assert [each["name"] for each in listing["parameters"]] == ["state", "tool", "limit", "cursor"]
            assert "get" in paths["/v1/approvals/{approval_id}"]
            for verb in ("approve", "deny"):
                body = paths[f"/v1/approvals/{{approval_id}}/{verb}"]["post"]["requestBody"]
                assert set(body["content"]["application/json"]["schema"]["properties"]) == {"why"}
        for by in ("dev", "eyes"):
            paths = (await lab.http("GET", "/v1/openapi.json", b"", by)).json["paths"]
            assert not [each for each in paths if "approvals" in each]

    asyncio.run(run())
