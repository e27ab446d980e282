"""What doctor finds: files others can open, backends that are not there, walls that do not stand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest

from gateway.audit.rotation import NEXT
from gateway.doctor import Found, backend, host, look, table
from gateway.settings import Settings
from gateway.upkeep import LedgerUpkeep
from sandboxes.confine import WALLS
from sandboxes.model import GUARANTEES
from sandboxes.pool import WasmPython
from tests.gateway.audit.disks import ledger
from tests.served import toolgate


def settings(folder: Path, **more: object) -> Settings:
    """Settings whose home and guests lie in `folder`."""
    sandboxes = {"guests": str(folder / "guests"), "docker": {"socket": str(folder / "no.sock")}}
    return Settings.model_validate({"home": str(folder / "home"), "sandboxes": sandboxes, **more})


def said(of: Settings, area: str) -> list[tuple[str, str]]:
    """State and text of the checks of one area."""
    return [(check.state, check.text) for check in host(of) if check.area == area]


def test_a_private_home_is_fine_and_an_open_one_is_not(tmp_path: Path) -> None:
    """Keys and records that another user could read are named, with the command that helps."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    assert [state for state, _ in said(settings(tmp_path), "home")] == ["ok"]
    (home / "state.db").touch(mode=0o644)
    ((state, text),) = said(settings(tmp_path), "home")
    assert state == "bad"
    assert f"chmod go-rwx {home / 'state.db'}" in text


def test_native_code_that_others_could_change_is_bad(tmp_path: Path) -> None:
    """The folder of guests holds what is run: it is ours alone, or doctor says so."""
    (tmp_path / "guests").mkdir(mode=0o755)
    ((state, text),) = said(settings(tmp_path), "guests")
    assert state == "bad"
    assert "0700" in text


def test_what_can_be_reached_from_outside_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open address, callers without a key, an engine's socket in reach, an engine by TCP."""
    assert said(settings(tmp_path), "listen") == []
    assert "other machines" in said(settings(tmp_path, listen="0.0.0.0:8080"), "listen")[0][1]
    assert "anonymous" in said(settings(tmp_path, anonymous=True), "listen")[0][1]
    assert said(settings(tmp_path), "docker") == []
    (tmp_path / "no.sock").touch()
    assert "as good as root" in said(settings(tmp_path), "docker")[0][1]
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example:2375")
    assert [state for state, _ in said(settings(tmp_path), "docker")] == ["note", "bad"]


def test_heads_that_stay_here_prove_little(tmp_path: Path) -> None:
    """Without a place off the host doctor says what that costs, and asks for no change of what works."""
    ((state, text),) = said(settings(tmp_path), "heads")
    assert state == "note"
    assert "cut records off the end" in text
    assert "audit.publish" in text


def test_each_place_of_heads_is_judged_by_what_it_has(tmp_path: Path) -> None:
    """One that has the newest is fine, one behind is noted, one that takes none is bad; and so is a torn checkpoint."""
    shard = tmp_path / "home" / "audit" / "w1"
    targets = ["https://heads.example.com/w", "https://slow.example.com/", "https://down.example.com/"]
    of = settings(tmp_path, audit={"publish": targets})
    assert [state for state, text in said(of, "heads") if "first head" in text] == ["note"] * 3
    shard.mkdir(parents=True)
    (shard / "checkpoint").write_text("toolgate-1/w1\n7\nAAAA\n\n\u2014 toolgate-1 BBBB\n")
    noted = {
        targets[0]: {"heads": {"w1": 7}, "trouble": None},
        targets[1]: {"heads": {"w1": 3}, "trouble": None},
        targets[2]: {"heads": {}, "trouble": "it answered with 500"},
    }
    (tmp_path / "home" / "heads.json").write_text(json.dumps(noted))
    fine, behind, down = said(of, "heads")
    assert fine == ("ok", f"{targets[0]} has every newest head")
    assert behind[0] == "note"
    assert "w1 at 3 of 7" in behind[1]
    assert down == ("bad", f"{targets[2]} does not take the newest head: it answered with 500")
    (shard / "checkpoint").write_text("torn")
    assert [state for state, _ in said(of, "heads")] == ["bad"]


def test_a_place_that_is_not_off_the_host_is_noted(tmp_path: Path) -> None:
    """A folder of the same disk or in the home folder, and a collector without TLS, each with its reason."""
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "drop").mkdir()
    targets = [f"file:{tmp_path / 'home'}", f"file:{tmp_path / 'drop'}", "http://heads.example.com/", "stdout"]
    texts = [text for _, text in said(settings(tmp_path, audit={"publish": targets}), "heads") if "first" not in text]
    assert [text.partition(" ")[0] for text in texts] == targets[:3]
    for text, part in zip(texts, ("in the home folder", "on the disk of the log", "not TLS"), strict=True):
        assert part in text


def test_the_signing_key_is_told_with_its_age(tmp_path: Path) -> None:
    """Since the first record, or since it was made by a rotation; after a year that is noted, and a rotation that was
    cut short as well. A home that was never started has none."""
    of, home = settings(tmp_path), tmp_path / "home"
    assert said(of, "key") == []
    year = 370 * 24 * 3600.0

    async def begin(ago: float, *, rotate: bool = False) -> None:
        async with ledger(home, clock=lambda: time.time() - ago) as writer:
            if rotate:
                await LedgerUpkeep(home, writer).rotate_key("Once a year.", {})

    asyncio.run(begin(year))
    old, fine = said(of, "key")
    assert (old[0], "in use for 370 days" in old[1], fine[0]) == ("note", True, "ok")
    asyncio.run(begin(0.0, rotate=True))
    ((state, text),) = said(of, "key")
    assert (state, text.split(" ")[0]) == ("ok", (home / "audit" / "key.pub").read_text().strip())
    (home / NEXT).write_text("")
    assert [state for state, _ in said(of, "key")] == ["note", "ok"]
    (home / "audit" / "key.pub").write_text(json.loads((home / "audit" / "rotations").read_text())["old"])
    assert "bad" in [state for state, _ in said(of, "key")]
    (home / "audit" / "rotations").write_text("{")
    assert [state for state, _ in said(of, "key")] == ["bad"]


def test_a_backend_that_is_not_there_says_why() -> None:
    """It is a note, not a fault: a machine without Docker is a good one."""
    (check,) = backend(Found("docker", "the Docker engine does not answer"))
    assert (check.state, check.text) == ("note", "the Docker engine does not answer")


def test_a_wall_that_does_not_stand_is_named() -> None:
    """Those that stand are listed too, so that an operator can compare hosts."""
    found = Found("wasm-python", None, frozenset({"no-network"}), {"seccomp": True, "landlock": False}, ("old",))
    texts = [(check.state, check.text) for check in backend(found)]
    assert ("ok", "its processes are confined by: seccomp") in texts
    assert ("note", "its processes are not confined by: landlock") in texts
    assert ("note", "old") in texts


def test_the_table_has_every_guarantee_and_no_hope() -> None:
    """One row a guarantee; yes only where the backend itself said so."""
    lines = table([Found("a", None, frozenset({"no-network"})), Found("b", "absent")])
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert set(rows) == set(GUARANTEES)
    assert rows["no-network"] == ["yes", "-"]
    assert rows["memory-cap"] == ["-", "-"]


def test_a_started_backend_is_asked() -> None:
    """Guarantees and walls come from the worker that was started."""

    async def asked() -> Found:
        pool = WasmPython(workers=1, spares=0)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(pool.close)
            await pool.start()
            return await look(pool)

    found = asyncio.run(asked())
    assert "no-guest-syscalls" in found.guarantees
    assert set(found.walls) == set(WALLS)


def test_the_command_tells_the_same_to_programs(tmp_path: Path) -> None:
    """`--json`: backends with guarantees, checks with a state each; exit 0 when nothing is bad."""
    done = toolgate(tmp_path / "home", "doctor", "--json")
    told = json.loads(done.stdout)
    assert set(told["backends"]) == {"wasm-python", "wasm-js", "wasm", "docker"}
    assert "memory-cap" in told["backends"]["wasm-js"]["guarantees"]
    assert {check["state"] for check in told["checks"]} <= {"ok", "note", "bad"}
    assert done.returncode == (0 if told["ok"] else 1)
