"""Content that has expired is erased by itself: of sessions that ended long ago, and of no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from gateway.audit.query import records, show
from gateway.audit.writer import Writer
from gateway.ledger_ports import Erased
from gateway.model import Session
from gateway.ports import Line
from gateway.retention import GATEWAY, expire_always, keeping
from gateway.settings import BadSettings, Retain, load_settings
from gateway.stores.sqlite import State, sessions_in_use
from gateway.stores.sqlite_sessions import SqliteSessions
from gateway.upkeep import Keeping, LedgerUpkeep
from tests.gateway.audit.archives import archive, large
from tests.gateway.audit.disks import ledger, until, verified

DAY = 24 * 3600.0


def said(uid: str, call_id: str) -> Line:
    """A record with content."""
    return Line("call.refused", {"call_id": call_id, "session_id": uid, "tenant": "t1"}, {"text": "words"}, uid, "t1")


def write(home: Path, *lines: Line, days: float = 0) -> None:
    """Writes records, so many days from now."""

    async def opened() -> None:
        async with ledger(home, clock=lambda: time.time() + days * DAY) as writer:
            for line in lines:
                await writer.append(line)

    asyncio.run(opened())


def expire(home: Path, *, age: float, now: float, in_use: Collection[str] = ()) -> Erased | None:
    """Looks once, `now` days from now, for what is older than `age` days."""

    async def opened() -> Erased | None:
        async with ledger(home) as writer:
            kept = Keeping(age * DAY, lambda: in_use, lambda: time.time() + now * DAY)
            return await LedgerUpkeep(home, writer, kept).expire(GATEWAY)

    return asyncio.run(opened())


def readable(home: Path, call_id: str) -> bool:
    """Whether the content of its only record can be read."""
    (shown,) = show(home, call_id)
    return shown.unreadable is None


def test_what_is_old_is_erased_and_what_is_not_is_kept(tmp_path: Path) -> None:
    """One was last heard of long ago, one lately, one is still open: the first goes, on record, with its blob."""
    write(tmp_path, said("u_old", "c1"), large("u_old", "c2"), said("u_late", "c3"), said("u_open", "c4"))
    write(tmp_path, said("u_late", "c5"), days=3)
    done = expire(tmp_path, age=5, now=7, in_use={"u_open"})
    assert done is not None
    assert (done.sessions, done.keys, done.blobs) == (1, 1, 1)
    assert [readable(tmp_path, call) for call in ("c1", "c2", "c3", "c4", "c5")] == [False, False, True, True, True]
    (record,) = [record for record in records(tmp_path) if record["type"] == "payload.erased"]
    wanted = {"sessions": ["u_old"], "keys": 1, "why": "retention", "who": {"authn": "gateway"}}
    assert {name: record[name] for name in wanted} == wanted
    assert list((tmp_path / "audit" / "blobs").iterdir()) == []
    verified(tmp_path)
    assert expire(tmp_path, age=5, now=7, in_use={"u_open"}) is None
    assert expire(tmp_path, age=5, now=9, in_use={"u_open"}) is not None
    assert [readable(tmp_path, call) for call in ("c3", "c4", "c5")] == [False, True, False]


def test_nothing_is_erased_before_its_time_or_without_the_setting(tmp_path: Path) -> None:
    """Then no record is written either."""
    write(tmp_path, said("u_1", "c1"))
    assert expire(tmp_path, age=5, now=4.9) is None

    async def unset(writer: Writer) -> Erased | None:
        return await LedgerUpkeep(tmp_path, writer).expire(GATEWAY)

    async def opened() -> None:
        async with ledger(tmp_path) as writer:
            assert await unset(writer) is None

    asyncio.run(opened())
    assert readable(tmp_path, "c1")
    assert [record["type"] for record in records(tmp_path) if record["type"] == "payload.erased"] == []


def test_a_session_in_the_archive_counts_by_the_end_of_its_segment(tmp_path: Path) -> None:
    """Its lines are not here to be looked at: it is kept for as long as the youngest of them may demand."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(home, said("u_1", "c1"))
    write(home, Line("call.refused", {"call_id": "c2"}), days=3)
    assert archive(home, elsewhere, before=time.time() + 9 * DAY) is not None
    assert expire(home, age=5, now=7) is None
    done = expire(home, age=5, now=9)
    assert done is not None
    assert (done.sessions, done.keys) == (1, 1)


def test_sessions_in_use_are_those_that_are_open(tmp_path: Path) -> None:
    """Neither closed nor past their time, as the file that all processes share says it."""
    with closing(State(tmp_path / "state.db")) as state:
        now = time.time()

        async def opened() -> None:
            sessions = SqliteSessions(state)
            for name, ends in (("open", now + 60), ("closed", now + 60), ("past", now - 1)):
                await sessions.open(Session(name, f"u_{name}", "dev", now - 120, ends))
            await sessions.close("dev", "closed")

        asyncio.run(opened())
        kept = keeping(Retain(content="2d"), partial(sessions_in_use, state))
        assert kept is not None
        assert (kept.age, kept.in_use()) == (2 * DAY, {"u_open"})
        assert keeping(Retain(), partial(sessions_in_use, state)) is None


def test_the_loop_erases_at_once_and_needs_a_setting(tmp_path: Path) -> None:
    """It looks when it begins; without an age it ends."""
    write(tmp_path, said("u_1", "c1"))

    async def opened() -> None:
        async with ledger(tmp_path) as writer:
            kept = Keeping(DAY, lambda: (), lambda: time.time() + 2 * DAY)
            upkeep = LedgerUpkeep(tmp_path, writer, kept)
            await expire_always(upkeep, Retain())
            assert readable(tmp_path, "c1")
            loop = asyncio.create_task(expire_always(upkeep, Retain(content="1d")))
            await until(lambda: not readable(tmp_path, "c1"))
            loop.cancel()

    asyncio.run(opened())


@pytest.mark.parametrize(("content", "said"), [("23h", "at least 1d"), ("soon", "is written"), ("0d", "is written")])
def test_an_age_that_cannot_be_is_refused(content: str, said: str) -> None:
    """Less than a day would take from policy what it reads back at a start."""
    with pytest.raises(BadSettings, match=f"audit.retain.content: .*{said}"):
        load_settings(None, {}, {"audit.retain.content": content})
    assert load_settings(None, {}, {"audit.retain.content": "30d"}).audit.retain.content_age == 30 * DAY
    assert load_settings(None, {}, {}).audit.retain.content_age is None
