"""Settling a call in doubt and erasing content, over a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.audit.content import INLINE
from gateway.audit.query import in_doubt, records, show
from gateway.audit.writer import Writer
from gateway.ledger_ports import Whose
from gateway.model import Refusal
from gateway.ports import Line
from gateway.upkeep import LedgerUpkeep
from tests.gateway.audit.disks import intent, ledger, outcome, verified

WHO = {"authn": "local", "uid": 1000}


def run(home: Path, work: Callable[[Writer, LedgerUpkeep], Awaitable[None]]) -> None:
    """Runs a test over the ledger of a home."""

    async def opened() -> None:
        async with ledger(home) as writer:
            await work(writer, LedgerUpkeep(home, writer))

    asyncio.run(opened())


def doubtful(home: Path) -> None:
    """Leaves call `c1` in doubt: a ledger whose last record is an intent is opened again."""

    async def begin(writer: Writer, _: LedgerUpkeep) -> None:
        await writer.append(intent("c1"))
        await writer.append(intent("c2"))
        await writer.append(outcome("c2"))

    run(home, begin)
    run(home, lambda writer, upkeep: asyncio.sleep(0))


def said(uid: str, call_id: str, text: str = "words", **who: str) -> Line:
    """An intent with content, of a session named `s`."""
    principal = {"agent": who.get("agent", "dev"), "user": who.get("user")}
    tenant = who.get("tenant", "t1")
    fields = {"call_id": call_id, "session_id": "s", "tenant": tenant, "principal": principal}
    return Line("call.refused", fields, {"text": text}, uid, tenant)


def content(home: Path, call_id: str) -> object:
    """What `audit show` gives of the only record of a call."""
    (shown,) = show(home, call_id)
    return shown.unreadable or shown.content


@pytest.mark.parametrize("ended", ["done", "not-done"])
def test_a_call_in_doubt_is_settled_by_a_record_of_its_own(tmp_path: Path, ended: str) -> None:
    """It says as what, why and by whom, names the intent, and stays said over a restart."""
    doubtful(tmp_path)
    assert [record["call_id"] for record in in_doubt(tmp_path)] == ["c1"]

    async def settle(_: Writer, upkeep: LedgerUpkeep) -> None:
        place = await upkeep.resolve("c1", "done" if ended == "done" else "not-done", "Looked it up.", WHO, "t1")
        assert place.shard == "w1"

    run(tmp_path, settle)
    run(tmp_path, lambda writer, upkeep: asyncio.sleep(0))
    assert in_doubt(tmp_path) == []
    (first,) = [record["seq"] for record in records(tmp_path) if record["type"] == "call.intent"][:1]
    (resolved,) = [record for record in records(tmp_path) if record["type"] == "call.resolved"]
    wanted = {"call_id": "c1", "as": ended, "why": "Looked it up.", "who": WHO, "intent": first, "session_id": "s"}
    assert {name: resolved[name] for name in wanted} == wanted
    assert resolved["tenant"] == "t1"
    verified(tmp_path)


@pytest.mark.parametrize(("call_id", "tenant"), [("c2", None), ("c9", None), ("c1", "other")])
def test_what_is_not_in_doubt_cannot_be_settled(tmp_path: Path, call_id: str, tenant: str | None) -> None:
    """Neither a call with an outcome, nor one that never was, nor another tenant's: and nothing is written."""
    doubtful(tmp_path)

    async def settle(_: Writer, upkeep: LedgerUpkeep) -> None:
        with pytest.raises(Refusal, match="not_found"):
            await upkeep.resolve(call_id, "done", "No reason.", WHO, tenant)

    run(tmp_path, settle)
    assert not [record for record in records(tmp_path) if record["type"] == "call.resolved"]
    assert [record["call_id"] for record in in_doubt(tmp_path)] == ["c1"]


def test_a_call_is_settled_once(tmp_path: Path) -> None:
    """Of two who say so at once, one is told that it is not in doubt."""
    doubtful(tmp_path)

    async def settle(_: Writer, upkeep: LedgerUpkeep) -> None:
        both = (upkeep.resolve("c1", "done", "A.", WHO), upkeep.resolve("c1", "not-done", "B.", WHO))
        results = await asyncio.gather(*both, return_exceptions=True)
        assert [isinstance(result, Refusal) for result in results] == [False, True]

    run(tmp_path, settle)
    assert [record["as"] for record in records(tmp_path) if record["type"] == "call.resolved"] == ["done"]


def test_an_erased_session_is_unreadable_and_its_blobs_are_gone(tmp_path: Path) -> None:
    """Everything it said before; what it says later has another key, and other sessions keep theirs."""

    async def erase(writer: Writer, upkeep: LedgerUpkeep) -> None:
        await writer.append(said("u1", "small"))
        await writer.append(said("u1", "big", "x" * (INLINE + 1)))
        await writer.append(said("u2", "other", "x" * (INLINE + 1), agent="ops"))
        done = await upkeep.erase(Whose("u1"), "She asked for it.", WHO)
        assert (done.sessions, done.keys, done.blobs) == (1, 1, 1)
        await writer.append(said("u1", "later", "x" * (INLINE + 1)))
        assert writer.contents.cached("u1") is not None

    run(tmp_path, erase)
    assert content(tmp_path, "small") == content(tmp_path, "big") == "its session key was erased"
    assert content(tmp_path, "other") == content(tmp_path, "later") == {"text": "x" * (INLINE + 1)}
    assert len(list((tmp_path / "audit" / "blobs").iterdir())) == 2
    (erased,) = [record for record in records(tmp_path) if record["type"] == "payload.erased"]
    assert (erased["sessions"], erased["why"], erased["who"], erased["keys"]) == (["u1"], "She asked for it.", WHO, 1)
    verified(tmp_path)


def test_erasing_again_takes_what_was_said_since(tmp_path: Path) -> None:
    """A session that goes on is erased as often as one wants."""

    async def erase(writer: Writer, upkeep: LedgerUpkeep) -> None:
        await writer.append(said("u1", "c1"))
        await upkeep.erase(Whose("u1"), "Once.", WHO)
        await writer.append(said("u1", "c2", "x" * (INLINE + 1)))
        done = await upkeep.erase(Whose("u1"), "Twice.", WHO)
        assert (done.sessions, done.keys, done.blobs) == (1, 1, 1)
        done = await upkeep.erase(Whose("u1"), "Nothing is left.", WHO)
        assert (done.sessions, done.keys, done.blobs) == (1, 0, 0)

    run(tmp_path, erase)
    assert content(tmp_path, "c1") == content(tmp_path, "c2") == "its session key was erased"


def test_a_tenant_is_erased_with_its_own_key(tmp_path: Path) -> None:
    """All its sessions, and the key of its digests: what they were of can not even be guessed any more."""
    digests = []

    async def erase(writer: Writer, upkeep: LedgerUpkeep) -> None:
        digests.append(writer.digest("t1", b"4711"))
        for number in range(3):
            await writer.append(said(f"u{number}", f"c{number}", agent=f"a{number}"))
        await writer.append(said("u9", "c9", tenant="t2"))
        done = await upkeep.erase(Whose(tenant="t1"), "The contract ended.", WHO)
        assert (done.sessions, done.keys) == (3, 3)
        digests.append(writer.digest("t1", b"4711"))
        await writer.append(said("u0", "again"))

    run(tmp_path, erase)
    assert {content(tmp_path, f"c{number}") for number in range(3)} == {"its session key was erased"}
    assert content(tmp_path, "c9") == content(tmp_path, "again") == {"text": "words"}
    assert digests[0] != digests[1]
    verified(tmp_path)


def test_whose_session_is_meant_has_to_be_said_where_several_have_one(tmp_path: Path) -> None:
    """Nothing is erased by mistake; with agent or user it is one caller's, and another's stays readable."""

    async def erase(writer: Writer, upkeep: LedgerUpkeep) -> None:
        await writer.append(said("u1", "c1", user="ann"))
        await writer.append(said("u2", "c2", user="bob"))
        with pytest.raises(Refusal) as refused:
            await upkeep.erase(Whose("s"), "Which?", WHO)
        assert refused.value.problem.code == "malformed"
        assert "tenant t1, agent dev, user ann; tenant t1, agent dev, user bob" in refused.value.problem.detail
        await upkeep.erase(Whose("s", user="ann"), "Hers.", WHO)
        with pytest.raises(Refusal, match="not_found"):
            await upkeep.erase(Whose("s", user="carl"), "Nobody's.", WHO)

    run(tmp_path, erase)
    assert content(tmp_path, "c1") == "its session key was erased"
    assert content(tmp_path, "c2") == {"text": "words"}


def test_a_person_is_erased_over_all_sessions(tmp_path: Path) -> None:
    """With a user alone, everything that was said on that person's behalf."""

    async def erase(writer: Writer, upkeep: LedgerUpkeep) -> None:
        for number, user in enumerate(("ann", "bob", "ann")):
            await writer.append(said(f"u{number}", f"c{number}", user=user, agent=f"a{number}"))
        assert (await upkeep.erase(Whose(user="ann"), "She asked for it.", WHO)).keys == 2

    run(tmp_path, erase)
    assert [show(tmp_path, f"c{number}")[0].content for number in range(3)] == [None, {"text": "words"}, None]


def test_a_call_under_way_while_its_session_is_erased_is_on_record_all_the_same(tmp_path: Path) -> None:
    """Many calls write while sessions are erased: none is refused, and each record opens or is said to be erased."""

    async def erase(writer: Writer, upkeep: LedgerUpkeep) -> None:
        async def talk(number: int) -> None:
            for turn in range(20):
                await writer.append(said(f"u{number}", f"c{number}-{turn}"))

        async def rub() -> None:
            for _ in range(5):
                for number in range(4):
                    await upkeep.erase(Whose(f"u{number}"), "Again.", WHO)

        for number in range(4):
            await writer.append(said(f"u{number}", f"c{number}-first"))
        await asyncio.gather(*(talk(number) for number in range(4)), rub())
        for number in range(4):
            await writer.append(said(f"u{number}", f"c{number}-last"))

    run(tmp_path, erase)
    for number in range(4):
        assert {str(content(tmp_path, f"c{number}-{turn}")) for turn in range(20)} <= {
            "its session key was erased",
            "{'text': 'words'}",
        }
        assert content(tmp_path, f"c{number}-last") == {"text": "words"}
    verified(tmp_path)
