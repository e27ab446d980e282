"""Sessions over REST: whose they are, what they may use up, what stands above them, how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.model import Principal, RawOutput
from gateway.ports import Line
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.kit import DEV, ECHO, Lab, Reply

QUICK = ECHO.replace("100/1m", "100000/1s")
COSTLY = QUICK.replace("effects: [read]", "effects: [read]\ncost: {per_call: 0.1}\nlabels: {output: [pii]}")
SPEAKER = replace(DEV, scopes=frozenset({"agent", "session:request"}), token_id="k_front")
WHO = {
    "front": SPEAKER,
    "ann": replace(DEV, user="ann"),
    "bot": Principal("bot", "default", scopes=frozenset({"agent"})),
    "ops": Principal("ops", "default", scopes=frozenset({"operator"}), token_id="k_ops"),
    "eyes": Principal("eyes", "default", scopes=frozenset({"auditor"})),
    "stranger": Principal("dev", "other", scopes=frozenset({"agent"})),
    "strange-ops": Principal("ops", "other", scopes=frozenset({"operator"})),
    "bound": replace(DEV, session="chat-7"),
}


@dataclass
class Slow:
    """A backend that answers when it is let, and counts what runs."""

    gate: asyncio.Event
    begun: int = 0

    async def run(self, work: Work) -> RawOutput:
        self.begun += 1
        await self.gate.wait()
        return RawOutput("ok")


def lab_of(spec: str = QUICK) -> Lab:
    """A lab that knows everybody above."""
    lab = Lab.of({"echo.yaml": spec})
    lab.trial.authority.principals.update(WHO)
    return lab


async def ask(lab: Lab, method: str, path: str, by: str = "dev", body: Any = None) -> Reply:
    """One request below `/v1/sessions`."""
    return await lab.http(method, f"/v1/sessions{path}", b"" if body is None else json.dumps(body).encode(), by)


async def opened(lab: Lab, by: str = "dev", **asked: Any) -> Any:
    """A new session, as it is shown."""
    reply = await ask(lab, "POST", "", by, asked)
    assert reply.status == 201, reply.body
    return reply.json


async def code(lab: Lab, session: str, text: str = "7") -> str:
    """How a call in a session ends."""
    outcome = await lab.call("echo", {"text": text}, session=session)
    return outcome.problem.code if outcome.problem else outcome.status


async def until(so: Callable[[], bool]) -> None:
    """Lets others go on until it is so."""
    for _ in range(100_000):
        if so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never was")


def records(lab: Lab, kind: str) -> list[Line]:
    """The records of one type."""
    return [line for line in lab.trial.ledger.lines if line.type == kind]


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


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_ten_times_as_many_concurrent_calls_exactly_the_budget_is_admitted() -> None:
    """Those under way count; with the session above spent, a fresh one below it has nothing left either."""

    async def tried() -> None:
        lab = lab_of()
        backend = Slow(asyncio.Event())
        lab.gate = replace(lab.gate, runners={HttpBackend: backend})
        top = await opened(lab, budget={"calls": 10})
        below = [await opened(lab, parent=top["id"], budget={"calls": 7}) for _ in range(2)]
        names = [top["id"], *(each["id"] for each in below)]
        calls = [asyncio.create_task(code(lab, names[number % 3])) for number in range(100)]
        await until(lambda: sum(call.done() for call in calls) >= 90)
        backend.gate.set()
        ended = await asyncio.gather(*calls)
        assert (backend.begun, ended.count("done"), ended.count("budget_exhausted")) == (10, 10, 90)
        fresh = await opened(lab, parent=top["id"])
        refused = await lab.rest("echo", {"text": "7"}, **{"Toolgate-Session": fresh["id"]})
        assert (refused.status, refused.json["code"], refused.json["retryable"]) == (403, "budget_exhausted", False)
        assert "of a session above this one is used up: it is for 10 calls" in refused.json["detail"]
        shown = (await ask(lab, "GET", f"/{top['id']}")).json
        assert (shown["budget"], shown["used"]) == ({"calls": 10}, {"calls": 10, "cost": 0})

    asyncio.run(tried())


def test_a_budget_of_cost_is_for_that_many_calls_and_refused_ones_cost_nothing() -> None:
    """Three calls of 0.1 fit into 0.3; a call that policy or a rate refuses, or that was never sent, gives it back."""

    async def tried() -> None:
        lab = lab_of(COSTLY)
        made = (await opened(lab, budget={"cost": 0.3}))["id"]
        assert await code(lab, made, "war") == "forbidden"
        assert [await code(lab, made) for _ in range(4)] == ["done", "done", "done", "budget_exhausted"]
        short = lab_of(QUICK.replace("100000/1s", "1/1m"))
        made = (await opened(short, budget={"calls": 2}))["id"]
        assert [await code(short, made) for _ in range(3)] == ["done", "rate_limited", "rate_limited"]
        assert (await ask(short, "GET", f"/{made}")).json["used"] == {"calls": 1, "cost": 0}

    asyncio.run(tried())


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"tokens": 5}, "'tokens' is not supported yet, only calls and cost are"),
        ({"calls": 1.5}, "calls is a whole number, 0 or more"),
        ({"calls": -1}, "calls is a whole number, 0 or more"),
        ({"cost": -0.1}, "cost is a number, 0 or more"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(budget: Mapping[str, float], said: str) -> None:
    """In a sentence that says which part of it."""
    reply = asyncio.run(ask(lab_of(), "POST", "", "dev", {"budget": budget}))
    assert (reply.status, reply.json["code"], said in reply.json["detail"]) == (400, "malformed", True)


# ── how they end ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_call_is_admitted_once_closing_has_returned() -> None:
    """A thousand calls on their way, the session closed in between: what has not begun by then never does."""

    async def tried() -> None:
        lab = lab_of()
        backend = Slow(asyncio.Event())
        lab.gate = replace(lab.gate, runners={HttpBackend: backend})
        backend.gate.set()
        made = (await opened(lab))["id"]

        async def late(number: int) -> str:
            for _ in range(number % 50):
                await asyncio.sleep(0)
            return await code(lab, made)

        calls = [asyncio.create_task(late(number)) for number in range(1000)]
        await until(lambda: backend.begun >= 100)
        assert (await ask(lab, "DELETE", f"/{made}")).status == 200
        admitted = backend.begun
        ended = await asyncio.gather(*calls)
        assert 0 < admitted < 1000
        assert (backend.begun, set(ended)) == (admitted, {"done", "session_closed"})
        assert ended.count("done") == admitted

    asyncio.run(tried())


def test_first_use_and_expiry_are_on_record_once() -> None:
    """A named session is opened by its first call; nobody has to ask for its end."""

    async def tried() -> None:
        lab = lab_of()
        assert await asyncio.gather(*(code(lab, "chat-1") for _ in range(20))) == ["done"] * 20
        (begun,) = records(lab, "session.opened")
        assert lab.trial.ledger.lines[0] == begun
        said = {name: begun.fields[name] for name in ("session_id", "labels", "budget", "ttl", "parent", "tenant")}
        assert said == {
            "session_id": "chat-1",
            "labels": [],
            "budget": {},
            "ttl": 86400,
            "parent": None,
            "tenant": "default",
        }
        assert begun.fields["principal"] == {"agent": "dev", "user": None}
        await lab.gate.record_sessions()
        lab.trial.clock.at += 86400
        await lab.gate.record_sessions()
        await lab.gate.record_sessions()
        assert await code(lab, "default") == "done"
        (ended,) = records(lab, "session.closed")
        assert (ended.fields["why"], ended.fields["calls"], ended.fields["uid"]) == ("expired", 20, begun.fields["uid"])

    asyncio.run(tried())
