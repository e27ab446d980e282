"""Whose session is replayed, who may call it, and what of the world around it is there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.audit import query
from gateway.audit.verify import segments
from gateway.identity.keys import new_key
from gateway.replay.script import differences
from gateway.replay.session import Unreplayable, read_session
from gateway.stores.sqlite import SqliteKeys, State
from tests.gateway.replay.recording import Made, Recording, answered
from tests.house.tree import ROOT, imported, sources
from tests.kit import ask

HOST = "127.0.0.1:8080"


def uids(home: Path) -> set[str]:
    """The own ids of all sessions on record."""
    contents = (record.get("content") for record in query.records(home))
    return {str(content["key"]) for content in contents if isinstance(content, dict)}


def test_a_session_of_several_callers_is_asked_back(tmp_path: Path) -> None:
    """Each is named with its own id; the agent, or that id, says which; a wrong name says so."""

    async def run() -> None:
        recording = Recording(tmp_path)
        await recording.make([Made("say", "one"), Made("say", "two", by="ann")])
        with pytest.raises(Unreplayable, match="2 sessions default: say which") as several:
            read_session(recording.home, "default")
        for uid in uids(recording.home):
            assert uid in str(several.value)
            assert read_session(recording.home, uid).session.uid == uid
        (call,) = read_session(recording.home, "default", "ann").calls
        assert call.arguments == {"text": "two", "loud": False}
        with pytest.raises(Unreplayable, match="no session nowhere made a call"):
            read_session(recording.home, "nowhere")
        with pytest.raises(Unreplayable, match="no session default of agent bob"):
            read_session(recording.home, "default", "bob")

    asyncio.run(run())


def test_a_session_that_was_opened_anew_is_another(tmp_path: Path) -> None:
    """A name used again the next day: the own id of each says which."""

    async def run() -> None:
        recording = Recording(tmp_path)
        await recording.make([Made("say", "one"), Made("say", "two", pause=25 * 3600.0)])
        with pytest.raises(Unreplayable, match="2 sessions default"):
            read_session(recording.home, "default")
        found = [read_session(recording.home, uid) for uid in sorted(uids(recording.home))]
        assert sorted(str(session.calls[0].arguments) for session in found) == sorted(
            str({"text": text, "loud": False}) for text in ("one", "two")
        )

    asyncio.run(run())


def test_a_ledger_that_does_not_verify_is_not_replayed(tmp_path: Path) -> None:
    """One altered byte: nothing of it is served, and the place is named."""

    async def run() -> None:
        recording = Recording(tmp_path)
        await recording.make([Made("say")])
        (path,) = segments(recording.home / "audit" / "w1")
        path.write_bytes(path.read_bytes().replace(b'"agent":"dev"', b'"agent":"dew"', 1))
        with pytest.raises(Unreplayable, match="seq="):
            async with recording.replayed():
                pass

    asyncio.run(run())


def test_the_recorded_caller_calls_by_its_keys_and_nobody_else(tmp_path: Path) -> None:
    """A key of the agent at home counts; one that was revoked, that expired since the recording, or that is of another
    agent does not. Strangers use up no call."""

    async def run() -> None:
        recording = Recording(tmp_path)
        (then,) = await recording.make([Made("say")])
        secrets = {}
        with closing(State(recording.home / "state.db")) as state:
            keys = SqliteKeys(state)
            for name, agent, scope in (("own", "dev", "agent"), ("gone", "dev", "agent"), ("other", "ann", "agent")):
                secrets[name], key = new_key(agent, "default", scope, 0.0)
                await keys.add(key)
                if name == "gone":
                    await keys.revoke(key.id, 1.0)
            secrets["old"], key = new_key("dev", "default", "agent", 0.0, expires_at=recording.at + 3600)
            await keys.add(key)
        async with recording.replayed() as replay:
            for name in ("gone", "old", "other"):
                refused = await replay.call(Made("say"), secrets[name])
                assert refused.problem is not None
                assert refused.problem.code == "unauthenticated"
            assert answered(await replay.call(Made("say"), secrets["own"])) == answered(then)
            assert replay.report["ok"]

    asyncio.run(run())


def test_every_session_of_the_caller_is_the_recorded_one(tmp_path: Path) -> None:
    """A client that opens a session, as it did then, calls in the one on record; a closed one is closed."""

    async def run() -> None:
        recording = Recording(tmp_path)
        await recording.make([Made("look", session="trip"), Made("say", session="trip")])
        async with recording.replayed("trip") as replay:
            head = {"Host": HOST, "Content-Type": "application/json", "Authorization": f"Bearer {replay.service.key}"}
            opened = await ask(replay.service.app, "POST", "/v1/sessions", head, b"{}")
            assert (opened.status, opened.json["id"]) == (201, "trip")
            for made in (Made("look", session=opened.json["id"]), Made("say")):
                assert (await replay.call(made)).status == "done"
            shown = await ask(replay.service.app, "GET", "/v1/sessions/trip", head)
            assert (shown.json["labels"], shown.json["calls"]) == (["untrusted"], 2)
            await ask(replay.service.app, "DELETE", "/v1/sessions/trip", head)
            closed = await replay.call(Made("say"))
            assert closed.problem is not None
            assert closed.problem.code == "session_closed"

    asyncio.run(run())


def test_its_own_ledger_stands_beside_the_recorded_one(tmp_path: Path) -> None:
    """A replay of a session that nobody calls: everything was never asked for, and the new home is private."""

    async def run() -> None:
        recording = Recording(tmp_path)
        (then,) = await recording.make([Made("say")])
        async with recording.replayed() as replay:
            home = replay.service.home.path
            assert home.parent == recording.home / "replays"
            looked_at = [home.parent, *home.parent.rglob("*")]
            assert [path for path in looked_at if path.stat().st_mode & 0o077] == []
            assert (home / "audit.reserve").stat().st_size <= 64 << 10
            assert replay.report["never_asked_for"] == [{"call_id": then.call_id, "tool": "say"}]
            assert not replay.report["ok"]
            lines = "\n".join(replay.service.replay.report.lines())
            assert f"never asked for: 1\n  {then.call_id} say" in lines

    asyncio.run(run())


@pytest.mark.parametrize(
    ("then", "now", "places"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, ["/a"]),
        ({"a": {"b/c": [1, 2], "~": 0}}, {"a": {"b/c": [1, 3], "~": 1}}, ["/a/b~1c/1", "/a/~0"]),
        ({"a": [1]}, {"a": [1, 2], "b": None}, ["/a/1", "/b"]),
        ({"a": []}, {"a": {}}, ["/a"]),
        ([], None, [""]),
        (True, 1, [""]),
    ],
)
def test_places_that_differ_are_json_pointers(then: object, now: object, places: list[str]) -> None:
    """The innermost ones, with the escapes of RFC 6901; a whole number is not a decimal one."""
    assert list(differences(then, now)) == places  # type: ignore[arg-type]  # JSON values all


ISOLATED = """
import ctypes, json, os, socket, sys
from gateway.replay.isolation import isolate
there = os.open(sys.argv[1], os.O_RDONLY)
if int(sys.argv[2]) != os.geteuid():
    os.setgroups([])
    os.setresgid(*3 * [int(sys.argv[2])])
    os.setresuid(*3 * [int(sys.argv[2])])
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as a process is that was started so
before = os.readlink("/proc/self/ns/net")
why = isolate()
names = [name for _, name in socket.if_nameindex()]
same = (os.geteuid(), os.fstat(there).st_uid)
print(json.dumps([why, before != os.readlink("/proc/self/ns/net"), names, same]))
"""


@pytest.mark.parametrize("user", [0, 12345])
def test_the_process_is_moved_into_an_empty_network(user: int, tmp_path: Path) -> None:
    """With no interface but loopback, which is down; files belong to whom they did. Or it says why not."""
    if os.geteuid() != 0:
        user = os.geteuid()
    folder = tmp_path / "own"
    folder.mkdir()
    os.chown(folder, user, -1)
    command = [sys.executable, "-c", ISOLATED, str(folder), str(user)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    why, moved, names, (uid, owner) = json.loads(ran.stdout)
    assert moved == (why is None)
    assert uid == owner == user
    if why is None:
        assert set(names) <= {"lo"}


def test_nothing_that_reaches_outside_is_made_for_a_replay() -> None:
    """Of runners it has its own; of the composition root what makes ids, ledger and doors, and a clock."""
    names = {name for path in sources("gateway/replay") for name in imported(path)}
    assert {name for name in names if name.startswith("gateway.runners.")} == {"gateway.runners.replay.ReplayRunner"}
    made = {"RandomIds", "SystemClock", "doors_of", "ledger_of", "put_in_force", "tuning_of"}
    assert {name for name in names if name.startswith("gateway.app.")} == {f"gateway.app.{each}" for each in made}
    reaching = ("gateway.identity.vault", "gateway.heads", "gateway.audit.heads", "socket", "asyncio.streams")
    assert [name for name in names if name.startswith(reaching)] == []
    assert {name for name in names if name.startswith("sandboxes.")} == {
        "sandboxes.confine.Call",
        "sandboxes.confine.kernel",
    }
