"""Sessions over REST: whose they are, what a person asked for in them, what stands above them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.gateway.doors.session_lab import COSTLY, SPEAKER, WHO, ask, code, lab_of, opened, records

# ── whose they are ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("by", ["ann", "bot", "stranger", "strange-ops"])
def test_a_session_of_somebody_else_is_not_there(method: str, by: str) -> None:
    """By its id, its uid, or id and owner: 404 in the very words of one that never was, and it stays open."""

    async def tried() -> None:
        lab = lab_of()
        made = await opened(lab)
        unknown = await ask(lab, method, "/s_00000000000000000000000000000000", by)
        for path in (f"/{made['id']}", f"/{made['uid']}", f"/{made['id']}?agent=dev"):
            reply = await ask(lab, method, path, by)
            assert (reply.status, reply.json["code"]) == (404, "not_found")
            assert reply.json["detail"] == unknown.json["detail"]
        assert (await ask(lab, "GET", "", by)).json["sessions"] == []
        assert await code(lab, made["id"]) == "done"

    asyncio.run(tried())


def test_a_turn_is_added_by_the_sessions_own_caller_only() -> None:
    """An operator, or another principal with the scope, finds no such session."""

    async def tried() -> list[int]:
        lab = lab_of()
        both = frozenset({"operator", "session:request"})
        lab.trial.authority.principals["loud-ops"] = replace(WHO["ops"], scopes=both)
        lab.trial.authority.principals["loud-bot"] = replace(WHO["bot"], scopes=SPEAKER.scopes)
        made = await opened(lab)
        body = {"request": "Send it to me."}
        who = ("loud-ops", "loud-bot", "front")
        return [
            (await ask(lab, "POST", f"/{made['uid' if by == 'loud-ops' else 'id']}/request", by, body)).status
            for by in who
        ]

    assert asyncio.run(tried()) == [404, 404, 200]


def test_an_operator_sees_and_closes_those_of_its_tenant() -> None:
    """By uid, or by id and owner; without the words of the person; it says on record who did it."""

    async def tried() -> None:
        lab = lab_of()
        made, named = await opened(lab, "front", request="Find my bill."), await code(lab, "chat-1")
        assert named == "done"
        await opened(lab, "stranger")
        seen = (await ask(lab, "GET", "", "ops")).json["sessions"]
        assert sorted(each["id"] for each in seen) == sorted([made["id"], "chat-1"])
        assert all("request" not in each for each in seen)
        assert (await ask(lab, "GET", "/chat-1", "ops")).status == 404
        assert (await ask(lab, "DELETE", "/chat-1?agent=dev", "ops")).json["state"] == "closed"
        assert (await ask(lab, "DELETE", f"/{made['uid']}", "ops")).json["state"] == "closed"
        assert [await code(lab, name) for name in ("chat-1", made["id"])] == ["session_closed"] * 2
        closed = [line.fields for line in records(lab, "session.closed")]
        assert [(each["session_id"], each["why"], each["calls"]) for each in closed] == [
            ("chat-1", "revoked", 1),
            (made["id"], "revoked", 0),
        ]
        assert closed[0]["who"] == {"agent": "ops", "user": None, "authn": "api_key", "token_id": "k_ops"}

    asyncio.run(tried())


def test_a_list_has_filters_and_pages() -> None:
    """Oldest first; `next_cursor` is where the next page begins; a parameter of another name is malformed."""

    async def tried() -> None:
        lab = lab_of()
        made = []
        for number in range(5):
            lab.trial.clock.at += 1
            made.append((await opened(lab, ttl=60 + number, labels=["pii"] if number == 3 else []))["id"])
        await ask(lab, "DELETE", f"/{made[1]}")
        lab.trial.clock.at += 56.5
        got, more = [], ""
        while more is not None:
            page = (await ask(lab, "GET", f"?limit=2{more and '&cursor=' + more}")).json
            got += [each["id"] for each in page["sessions"]]
            more = page["next_cursor"]
        assert got == made

        async def found(query: str, by: str = "dev") -> list[int]:
            reply = await ask(lab, "GET", query, by)
            return [made.index(each["id"]) for each in reply.json["sessions"]]

        assert await found("?state=closed") == [1]
        assert await found("?state=expired") == [0]
        assert await found("?state=open&label=pii") == [3]
        assert await found("?agent=dev", "ops") == [0, 1, 2, 3, 4]
        assert await found("?agent=bot", "ops") == []
        for query in ("?sate=open", "?limit=0", "?limit=501", "?cursor=x", "?state=shut"):
            assert (await ask(lab, "GET", query)).json["code"] == "malformed"

    asyncio.run(tried())


def test_a_token_for_one_session_opens_and_sees_no_other() -> None:
    """It is bound: of its caller's other sessions it is told nothing."""

    async def tried() -> None:
        lab = lab_of()
        other = await opened(lab)
        await lab.call("echo", {"text": "7"}, "bound")
        assert (await ask(lab, "POST", "", "bound", {})).json["code"] == "insufficient_scope"
        assert (await ask(lab, "GET", f"/{other['id']}", "bound")).status == 404
        assert (await ask(lab, "DELETE", f"/{other['id']}", "bound")).status == 404
        assert [each["id"] for each in (await ask(lab, "GET", "", "bound")).json["sessions"]] == ["chat-7"]
        assert (await ask(lab, "DELETE", "/chat-7", "bound")).json["state"] == "closed"

    asyncio.run(tried())


# ── what the person asked for ────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_person_asked_for_needs_a_scope_and_is_content_on_record() -> None:
    """An agent's key does not have it; in plain, no word of it stands anywhere."""

    async def tried() -> None:
        lab = lab_of()
        body = {"request": "Pay Bob 20."}
        assert (await ask(lab, "POST", "", "dev", body)).json["code"] == "insufficient_scope"
        made = await opened(lab, "front", **body)
        refused = await ask(lab, "POST", f"/{made['id']}/request", "dev", {"request": "And Eve 2000."})
        assert (refused.status, refused.json["code"]) == (403, "insufficient_scope")
        shown = await ask(lab, "POST", f"/{made['id']}/request", "front", {"request": "Thanks."})
        assert (shown.status, shown.json["request"]) == (200, ["Pay Bob 20.", "Thanks."])
        (begun,), (turn,) = records(lab, "session.opened"), records(lab, "session.request")
        assert (begun.content, turn.content) == ({"request": ["Pay Bob 20."]}, {"request": "Thanks."})
        assert (begun.session, turn.session, turn.tenant) == (made["uid"], made["uid"], "default")
        assert "Pay" not in repr([line.fields for line in lab.trial.ledger.lines])
        await ask(lab, "DELETE", f"/{made['id']}")
        late = await ask(lab, "POST", f"/{made['id']}/request", "front", {"request": "Again."})
        assert late.json["code"] == "session_closed"

    asyncio.run(tried())


# ── trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_one_session_of_a_tree_reads_all_of_it_has_read() -> None:
    """Above, below and beside: a session below another washes nothing, whenever it was opened."""

    async def tried() -> None:
        lab = lab_of(COSTLY)
        top = await opened(lab, labels=["internal"])
        left, right = await opened(lab, parent=top["id"]), await opened(lab, parent=top["id"], labels=["draft"])
        apart = await opened(lab)
        assert (left["parent"], left["labels"], right["labels"]) == (top["id"], ["internal"], ["draft", "internal"])
        assert await code(lab, left["id"]) == "done"
        for each in (top, left, right):
            labels = (await ask(lab, "GET", f"/{each['id']}")).json["labels"]
            assert set(labels) >= {"draft", "internal", "pii"}, each
        assert (await ask(lab, "GET", f"/{apart['id']}")).json["labels"] == []

    asyncio.run(tried())


def test_a_session_below_another_has_no_more_than_that() -> None:
    """It expires with it at the latest; a larger budget, a foreign parent or a closed one is refused."""

    async def tried() -> None:
        lab = lab_of()
        top = await opened(lab, ttl=60, budget={"calls": 3})
        below = await opened(lab, parent=top["id"], ttl=3600, budget={"calls": 2})
        assert below["expires_at"] == top["expires_at"]
        wider = await ask(lab, "POST", "", "dev", {"parent": below["id"], "budget": {"calls": 3}})
        assert (wider.json["code"], "calls is 3, and the session above has 2" in wider.json["detail"]) == (
            "malformed",
            True,
        )
        for by, parent in (("ann", top["id"]), ("dev", top["uid"]), ("dev", "s_none")):
            assert (await ask(lab, "POST", "", by, {"parent": parent})).json["code"] == "not_found"
        deep = top
        for _ in range(7):
            deep = await opened(lab, parent=deep["id"])
        assert (await ask(lab, "POST", "", "dev", {"parent": deep["id"]})).json["code"] == "malformed"

    asyncio.run(tried())


def test_closing_a_session_closes_those_below_it() -> None:
    """Each on record, with why; calls in all of them are refused."""

    async def tried() -> None:
        lab = lab_of()
        top = await opened(lab)
        below = await opened(lab, parent=top["id"])
        lowest = await opened(lab, parent=below["id"])
        assert await code(lab, lowest["id"]) == "done"
        await ask(lab, "DELETE", f"/{top['id']}")
        assert [await code(lab, each["id"]) for each in (top, below, lowest)] == ["session_closed"] * 3
        closed = {line.fields["session_id"]: line.fields for line in records(lab, "session.closed")}
        whys = {name: (said["why"], said["calls"]) for name, said in closed.items()}
        assert whys == {top["id"]: ("closed", 0), below["id"]: ("parent", 0), lowest["id"]: ("parent", 1)}
        await ask(lab, "DELETE", f"/{top['id']}")
        assert len(records(lab, "session.closed")) == 3

    asyncio.run(tried())
