"""One contract for every store of keys, sessions and pins."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.audit.content import Contents
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore
from gateway.identity.keys import new_key
from gateway.model import Refusal, Session
from gateway.ports import Keys, Pins, Sessions
from gateway.stores.memory import MemoryKeys, MemoryPins
from gateway.stores.sessions import MemorySessions
from gateway.stores.sqlite import SqliteKeys, SqlitePins, State
from gateway.stores.sqlite_sessions import SqliteSessions


@dataclass
class Stores:
    """The three stores of one kind; `again` opens them anew, as after a restart (None where nothing survives)."""

    keys: Keys
    sessions: Sessions
    pins: Pins
    again: Callable[[], Stores] | None = None


@pytest.fixture(params=["memory", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    """The stores, once in memory and once in SQLite."""
    if request.param == "memory":
        yield Stores(MemoryKeys(), MemorySessions(most=3), MemoryPins())
        return
    with closing(State(tmp_path / "state.db")) as state, closing(State(tmp_path / "state.db")) as other:

        def opened(db: State) -> Stores:
            return Stores(SqliteKeys(db), SqliteSessions(db, most=3), SqlitePins(db), lambda: opened(other))

        yield opened(state)


def session(name: str = "s_1", owner: str = "t\x1fa\x1f", uid: str = "u_1") -> Session:
    """An open session of ten seconds."""
    return Session(name, uid, owner, 100.0, 110.0)


def test_a_key_is_found_by_its_digest_until_it_is_revoked(stores: Stores) -> None:
    """Revoking marks the key and leaves it listed."""
    secret, key = new_key("dev", "default", "agent", 100.0)
    asyncio.run(stores.keys.add(key))
    assert stores.keys.find(key.digest) == key
    assert secret not in repr(stores.keys.all())
    assert asyncio.run(stores.keys.revoke(key.id, 105.0))
    found = stores.keys.find(key.digest)
    assert found is not None
    assert found.revoked_at == 105.0
    assert not asyncio.run(stores.keys.revoke("k_unknown", 105.0))


def test_sessions_of_one_owner_are_unknown_to_another(stores: Stores) -> None:
    """The owner is part of the name."""
    mine = asyncio.run(stores.sessions.open(session()))
    assert stores.sessions.find(mine.owner, mine.id) == mine
    assert stores.sessions.find("t\x1fother\x1f", mine.id) is None
    assert asyncio.run(stores.sessions.close("t\x1fother\x1f", mine.id)) is None


def test_opening_a_name_again_gives_the_session_that_is_open(stores: Stores) -> None:
    """Two requests racing to open one name share one session; an expired one is replaced."""
    first = asyncio.run(stores.sessions.open(session(uid="u_1")))
    assert asyncio.run(stores.sessions.open(session(uid="u_2"))).uid == first.uid
    later = Session("s_1", "u_3", first.owner, 111.0, 120.0)
    assert asyncio.run(stores.sessions.open(later)).uid == "u_3"


def test_one_caller_keeps_so_many_sessions_and_no_more(stores: Stores) -> None:
    """Names are free to invent; expired sessions make room, for good, and other callers have room of their own."""

    async def opened(*sessions: Session) -> None:
        for each in sessions:
            await stores.sessions.open(each)

    asyncio.run(opened(*(session(f"n{n}", uid=f"u_{n}") for n in range(3))))
    with pytest.raises(Refusal) as refused:
        asyncio.run(opened(session("n3", uid="u_3")))
    assert (refused.value.problem.code, refused.value.problem.retry_after_ms) == ("rate_limited", 10_000)
    asyncio.run(opened(session("n2", uid="u_9"), session("n3", "t\x1fother\x1f", "u_8")))
    asyncio.run(opened(Session("n4", "u_4", "t\x1fa\x1f", 110.0, 120.0)))
    kept = (stores.again() if stores.again else stores).sessions.all()
    assert sorted(each.id for each in kept) == ["n3", "n4"]


def test_labels_only_grow_and_calls_add_up(stores: Stores) -> None:
    """What a session has seen is never taken back."""
    opened = asyncio.run(stores.sessions.open(session()))
    asyncio.run(stores.sessions.spend(opened, frozenset({"untrusted"}), 0.5))
    asyncio.run(stores.sessions.spend(opened, frozenset({"pii"}), 0.25))
    asyncio.run(stores.sessions.spend(opened, frozenset(), 0.25))
    found = stores.sessions.find(opened.owner, opened.id)
    assert found is not None
    assert (found.labels, found.calls, found.cost) == (frozenset({"untrusted", "pii"}), 3, 1.0)


def test_trees_survive_a_restart(stores: Stores) -> None:
    """Budgets; labels of the whole tree; who is below whom; what is closed with what is above it."""
    top = asyncio.run(stores.sessions.open(replace(session(), budget={"calls": 3, "cost": 1.0})))
    below = asyncio.run(stores.sessions.open(replace(session("s_2", uid="u_2"), parent="u_1")))
    for number in range(3):
        asyncio.run(stores.sessions.spend(below, frozenset({f"l{number}"}), 0.25))
    if stores.again is not None:
        assert isinstance(stores.sessions, SqliteSessions)
        asyncio.run(stores.sessions.flush())
        stores = stores.again()
    sessions = stores.sessions
    above = sessions.line("u_2")
    assert [(each.uid, each.calls, sorted(each.labels)) for each in above] == [
        ("u_2", 3, ["l0", "l1", "l2"]),
        ("u_1", 0, ["l0", "l1", "l2"]),
    ]
    assert above[1].budget == {"calls": 3, "cost": 1.0}
    asyncio.run(sessions.close(top.owner, top.id))
    assert not sessions.is_open(below)


def test_that_a_session_ended_is_told_once(stores: Stores) -> None:
    """Who asks first is told, anybody again only when that was put back; after a restart what is not on record yet."""

    def told(now: float = 105.0) -> list[tuple[str, str]]:
        return [(each.session.id, each.why) for each in stores.sessions.changes(now)]

    for number in range(3):
        asyncio.run(stores.sessions.open(session(f"s_{number}", uid=f"u_{number}")))
    asyncio.run(stores.sessions.close("t\x1fa\x1f", "s_0", "revoked", {"authn": "local"}))
    changes = stores.sessions.changes(105.0)
    assert [(each.session.id, each.why, each.who) for each in changes] == [("s_0", "revoked", {"authn": "local"})]
    assert told() == []
    stores.sessions.put_back(changes)
    assert told() == [("s_0", "revoked")]
    if stores.again is not None:
        stores = stores.again()
        assert told() == [("s_0", "revoked")]
    asyncio.run(stores.sessions.recorded(changes))
    assert sorted(told(110.0)) == [("s_1", "expired"), ("s_2", "expired")]
    asyncio.run(stores.sessions.close("t\x1fa\x1f", "s_1"))
    assert told(111.0) == []


def test_a_key_that_is_replaced_expires_and_never_later_than_it_did(stores: Stores) -> None:
    """And one that was revoked stays so."""
    _, key = new_key("dev", "default", "agent session:request", 100.0, expires_at=200.0)
    asyncio.run(stores.keys.add(key))
    for at, until in ((300.0, 200.0), (150.0, 150.0)):
        assert asyncio.run(stores.keys.expire(key.id, at))
        found = stores.keys.find(key.digest)
        assert found is not None
        assert (found.expires_at, found.scopes) == (until, {"agent", "session:request"})
    asyncio.run(stores.keys.revoke(key.id, 120.0))
    assert not asyncio.run(stores.keys.expire(key.id, 110.0))
    assert not asyncio.run(stores.keys.expire("k_none", 110.0))


def test_a_closed_session_stays_closed(stores: Stores) -> None:
    """Closing keeps the session, so that its id is never given to another."""
    opened = asyncio.run(stores.sessions.open(session()))
    closed = asyncio.run(stores.sessions.close(opened.owner, opened.id))
    assert closed is not None
    assert closed.state == "closed"
    found = stores.sessions.find(opened.owner, opened.id)
    assert found is not None
    assert found.state == "closed"


def test_what_is_durable_survives_a_restart(stores: Stores) -> None:
    """Keys, sessions with their labels, and pins are read back from disk."""
    _, key = new_key("dev", "default", "agent", 100.0, user="ann", expires_at=200.0)
    asyncio.run(stores.keys.add(key))
    opened = asyncio.run(stores.sessions.open(session()))
    asyncio.run(stores.sessions.spend(opened, frozenset({"untrusted"}), 0.5))
    asyncio.run(stores.pins.pin("srv", "tool", "sha256:1"))
    assert stores.pins.find("srv", "tool") == "sha256:1"
    if stores.again is None:
        return  # memory promises nothing here
    again = stores.again()
    assert again.keys.find(key.digest) == key
    found = again.sessions.find(opened.owner, opened.id)
    assert found is not None
    assert found.labels == frozenset({"untrusted"})
    assert again.pins.find("srv", "tool") == "sha256:1"


def test_a_running_gateway_notices_what_the_command_line_wrote(tmp_path: Path) -> None:
    """Another process's commit shows in `changed`, and a refresh takes over keys and closed sessions."""
    with closing(State(tmp_path / "state.db")) as ours, closing(State(tmp_path / "state.db")) as theirs:
        keys, sessions = SqliteKeys(ours), SqliteSessions(ours)
        opened = asyncio.run(sessions.open(session()))
        ours.changed()
        assert not ours.changed()
        _, key = new_key("dev", "default", "operator", 100.0)
        asyncio.run(SqliteKeys(theirs).add(key))
        asyncio.run(SqliteSessions(theirs).close(opened.owner, opened.id))
        assert ours.changed()
        keys.refresh()
        sessions.refresh()
        assert keys.find(key.digest) == key
        found = sessions.find(opened.owner, opened.id)
        assert found is not None
        assert found.state == "closed"


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """`state.db` holds digests of keys and wrapped content keys: mode 0600."""
    with closing(State(tmp_path / "state.db")):
        assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


def test_what_the_command_line_closed_is_not_opened_again_by_a_call_that_ends(tmp_path: Path) -> None:
    """Between two looks at the file the gateway writes labels of a session that an operator has just closed."""
    with closing(State(tmp_path / "state.db")) as ours, closing(State(tmp_path / "state.db")) as theirs:
        sessions = SqliteSessions(ours)
        opened = asyncio.run(sessions.open(session()))
        asyncio.run(SqliteSessions(theirs).close(opened.owner, opened.id))
        asyncio.run(sessions.spend(opened, frozenset({"pii"}), 0.0))
        sessions.refresh()
        found = sessions.find(opened.owner, opened.id)
        assert found is not None
        assert (found.state, found.labels) == ("closed", frozenset({"pii"}))
        again = SqliteSessions(theirs).find(opened.owner, opened.id)
        assert again is not None
        assert (again.state, again.labels) == ("closed", frozenset({"pii"}))


def test_closing_while_labels_are_written_keeps_both(tmp_path: Path) -> None:
    """Writes end in any order; the last one tells what was true last."""

    async def many(sessions: SqliteSessions, opened: Session) -> None:
        labels = [sessions.spend(opened, frozenset({f"l{n}"}), 0.0) for n in range(16)]
        await asyncio.gather(*labels[:8], sessions.close(opened.owner, opened.id), *labels[8:])

    with closing(State(tmp_path / "state.db")) as ours, closing(State(tmp_path / "state.db")) as theirs:
        sessions = SqliteSessions(ours)
        opened = asyncio.run(sessions.open(session()))
        asyncio.run(many(sessions, opened))
        again = SqliteSessions(theirs).find(opened.owner, opened.id)
        assert again is not None
        assert (again.state, len(again.labels)) == ("closed", 16)


def test_a_session_that_cannot_be_kept_is_a_refusal(tmp_path: Path) -> None:
    """A database that cannot be written is no traceback."""
    state = State(tmp_path / "state.db")
    sessions = SqliteSessions(state)
    state.close()
    with pytest.raises(Refusal) as refused:
        asyncio.run(sessions.open(session()))
    assert refused.value.problem.code == "audit_unavailable"


def test_reads_wait_for_no_writer(tmp_path: Path) -> None:
    """An unknown key is looked for while another process holds the file, and while a write of ours waits for it."""
    with closing(State(tmp_path / "state.db")) as ours, closing(State(tmp_path / "state.db")) as theirs:
        keys = SqliteKeys(ours)
        _, key = new_key("dev", "default", "agent", 100.0)
        asyncio.run(SqliteKeys(theirs).add(key))
        theirs.write("BEGIN IMMEDIATE", ())

        async def look_while_writing() -> bool:
            write = asyncio.create_task(SqliteSessions(ours).open(session()))
            await asyncio.sleep(0.2)
            keys.look(key.digest)
            waited = not write.done()
            theirs.write("ROLLBACK", ())
            await write
            return waited

        assert asyncio.run(look_while_writing())
        assert keys.find(key.digest) == key


def test_a_home_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    """Its sessions have no budget, nothing above them, and go on."""
    old = sqlite3.connect(tmp_path / "state.db")
    old.executescript(
        """CREATE TABLE sessions (
        owner TEXT NOT NULL, id TEXT NOT NULL, uid TEXT NOT NULL, opened_at REAL NOT NULL, expires_at REAL NOT NULL,
        labels TEXT NOT NULL, state TEXT NOT NULL, calls INTEGER NOT NULL, cost REAL NOT NULL, PRIMARY KEY (owner, id));
        INSERT INTO sessions VALUES ('t\x1fa\x1f', 's_1', 'u_1', 100.0, 110.0, 'pii', 'open', 4, 0.5);"""
    )
    old.close()
    for _ in range(2):
        with closing(State(tmp_path / "state.db")) as state:
            found = SqliteSessions(state).find("t\x1fa\x1f", "s_1")
            assert found == replace(session(), labels=frozenset({"pii"}), calls=4, cost=0.5)


def test_what_persons_asked_for_is_sealed_and_gone_once_erased(tmp_path: Path) -> None:
    """In no file of the home in plain; with the key of the session's content it is gone, here and after a restart."""
    words = "Pay Bob 20 of the canary account."
    keys = KeyStore(tmp_path / "state.db", os.urandom(32))
    contents = Contents(keys, tmp_path / "audit", OsDisk())
    owner = "t\x1fa\x1f"
    with closing(State(tmp_path / "state.db")) as state, closing(keys):
        sessions = SqliteSessions(state, seal=contents)
        kept = asyncio.run(sessions.open(replace(session(), request=(words,))))
        asyncio.run(sessions.ask(kept, "Again."))
        assert asyncio.run(sessions.ask(session("s_9", uid="u_9"), "No.")) is None
        again = SqliteSessions(state, seal=contents).find(owner, "s_1")
        assert again is not None
        assert again.request == (words, "Again.")
        assert all(b"canary" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        asyncio.run(contents.erase(["u_1"]))
        sessions.forget_requests(["u_1", "u_unknown"])
        asyncio.run(sessions.ask(kept, "Anew."))
        for here in (sessions, SqliteSessions(state, seal=contents)):
            found = here.find(owner, "s_1")
            assert found is not None
            assert found.request == ("Anew.",)
