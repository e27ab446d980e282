"""What is special to counters in a file: it cannot be written, its process is killed, it forgets."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from gateway.model import Refusal
from gateway.stores.sqlite_counters import SqliteCounters
from tests.gateway.stores.redis_life import ask as asking
from tests.gateway.stores.redis_life import key_of
from tests.gateway.stores.stores import Life, Store, sealing


def test_a_file_that_cannot_be_written_stops_what_may_change_something(tmp_path: Path) -> None:
    """Nothing is taken for it, rates included; what only reads goes on, and is written once that can be."""
    store = Store("sqlite", tmp_path, None)
    given = {"rates": {"r": (2, 3600.0)}, "accounts": {"a": {"calls": 5}}}

    async def go(life: Life) -> None:
        with closing(sqlite3.connect(tmp_path / "limits.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            effects = asking("c1", wants={"calls": 1}, **given)
            reads = asking("c2", wants={"calls": 2}, effects=False, **given)
            assert [got.kind for got in await asyncio.gather(*map(life.counters.take, (effects, reads)))] == [
                "unavailable",
                None,
            ]
            other.execute("ROLLBACK")
        assert (await life.counters.used([key_of("a")]))[key_of("a")] == {"calls": 2}
        got = await life.counters.take(asking("c3", wants={"calls": 1}, **given))
        assert (got.kind, got.standings[0].left) == (None, 0)

    async def again(life: Life) -> None:
        assert (await life.counters.used([key_of("a")]))[key_of("a")] == {"calls": 3}

    store.run(go)
    store.run(again)


def test_a_caller_that_goes_away_while_it_is_admitted_leaves_nothing_taken(tmp_path: Path) -> None:
    """Its slot and its budget are free: nobody else will settle a call that never knew that it was let in."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        one = asking("c1", slots={"s": 1}, accounts={"a": {"calls": 1}}, wants={"calls": 1}, claim="k")
        task = asyncio.create_task(life.counters.take(one))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        two = asking("c2", slots={"s": 1}, accounts={"a": {"calls": 1}}, wants={"calls": 1}, claim="k")
        assert (await life.counters.take(two)).kind is None

    store.run(go)


def test_what_says_nothing_any_more_leaves_the_file(tmp_path: Path) -> None:
    """Buckets that are full, accounts and claims whose time is over."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        one = asking("c1", rates={"r": (2, 60.0)}, accounts={"a": {"calls": 5}}, wants={"calls": 1}, claim="k")
        life.counters.settle(one, await life.counters.take(one), "done", {"calls": 1})

    store.run(go)
    store.now += 3600.0

    async def nothing(_: Life) -> None:
        return None

    store.run(nothing)
    with closing(sqlite3.connect(tmp_path / "limits.db")) as file:
        assert file.execute("SELECT kind, key FROM limits").fetchall() == []


def test_what_was_taken_is_known_after_a_kill(tmp_path: Path) -> None:
    """A process is killed while it takes, over and over: what it said that it took is counted, and nothing twice."""
    for _ in range(2):
        said = killed(tmp_path)
        with sealing(tmp_path) as contents:
            counters = SqliteCounters(tmp_path / "limits.db", contents, steady=time.time)
            claims = [asyncio.run(counters.find(f"k{number}")) for number in said]
            assert len(said) >= 200
            assert all(each is not None and each.state == "in_progress" for each in claims)
            used = asyncio.run(counters.used(["a"]))["a"]["calls"]
            left = counters.left()
            known = {each.claim for each in left}
            assert {f"k{number}" for number in said} <= known
            assert used == len(left)
            standing = asyncio.run(counters.take(asking("one more", time.time(), rates={"r": (1_000_000, 1e9)})))
            assert 1_000_000 - standing.standings[0].left >= len(said)
            counters.shut()
        for path in tmp_path.glob("limits.db*"):
            path.unlink()


def killed(home: Path) -> list[int]:
    """What a child said that it took until it was killed."""
    argv = [sys.executable, "-m", "tests.gateway.stores.taking", str(home)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(200)]
        child.kill()
        whole = child.stdout.read().split("\n")[:-1]
    return said + [int(line) for line in whole]


def test_an_outcome_that_could_not_be_kept_at_once_is_told_later(tmp_path: Path) -> None:
    """While the file cannot be written a repeat is told to come back; after that it is told the outcome."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        one = asking("c1", claim="k")
        assert one.claim is not None
        await life.counters.take(one)
        with closing(sqlite3.connect(tmp_path / "limits.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for refused in (life.counters.close(one.claim, "c1", b"kept", "s", "default"), life.counters.find("k")):
                with pytest.raises(Refusal) as caught:
                    await refused
                assert caught.value.problem.code == "overloaded"
            other.execute("ROLLBACK")
        found = await life.counters.find("k")
        assert found is not None
        assert (found.state, found.kept) == ("done", b"kept")

    store.run(go)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    """Where the database is damaged the store does not open, and leaves nothing running."""
    (tmp_path / "limits.db").write_bytes(b"this is no database" * 300)
    threads = threading.active_count()
    with sealing(tmp_path) as contents, pytest.raises(sqlite3.DatabaseError):
        SqliteCounters(tmp_path / "limits.db", contents)
    assert threading.active_count() == threads


def test_a_call_that_needs_nothing_lasting_never_waits_for_the_file(tmp_path: Path) -> None:
    """Places only: admitted though another process holds the file, and nothing of it is written."""
    store = Store("sqlite", tmp_path, None)

    async def go(life: Life) -> None:
        with closing(sqlite3.connect(tmp_path / "limits.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            one = asking("c1", slots={"s": 1})
            assert (await life.counters.take(one)).kind is None
            other.execute("ROLLBACK")
            assert other.execute("SELECT COUNT(*) FROM limits").fetchone() == (0,)

    store.run(go)
