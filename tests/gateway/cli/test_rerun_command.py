"""`toolgate audit rerun`: what it prints and how it exits, over real calls, with a sandbox that it starts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.audit.query import records
from tests.gateway.cli.project import run, run_json
from tests.gateway.rerunning import POLICY, Place, coder, look, play

SPECS = [coder("code"), look(9)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three calls on record: two of code, one that no upstream answered."""
    folder = tmp_path_factory.mktemp("place")
    place = Place(folder, SPECS)
    for name, text in (("policies", POLICY), *((f"spec{number}", text) for number, text in enumerate(SPECS))):
        (folder / "files" / name.rstrip("0123456789")).mkdir(parents=True, exist_ok=True)
        (folder / "files" / name.rstrip("0123456789") / f"{name}.yaml").write_text(text)

    async def scene() -> None:
        async with place.up("wasm-python") as sandboxes, place.serving(sandboxes) as lab:
            await place.call(lab, "code", code="import random; print(random.random())")
            await place.call(lab, "code", code="print({'a', 'b', 'c'}, [object()])")
            await place.call(lab, "look", what="sky")

    play(scene)
    return place


def command(place: Place, monkeypatch: pytest.MonkeyPatch, home: Path | None = None) -> list[str | Path]:
    """The command over the home folder, with the project's specs and policies."""
    files = place.home.parent / "files"
    monkeypatch.setenv("TOOLGATE_POLICIES", str(files / "policies"))
    return ["audit", "rerun", "--home", home or place.home, "--specs", files / "spec"]


def test_a_session_is_run_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each call that was run, and the others counted with their reason; that it was read is on record."""
    code, out, err = run(capsys, *command(place, monkeypatch), "--session", "job")
    first, second, _ = place.ids
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{first} code: the same",
        f"{second} code: the same",
        "2 the same, 0 different, 1 not rerunnable",
        "  1: it asked a tool that is no code, and nothing goes out from here",
    ]
    last = list(records(place.home))[-1]
    assert (last["type"], last["verb"], last["count"]) == ("admin.read", "audit rerun", 3)


def test_a_difference_fails(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit 1, and where it lies; as JSON for machines."""

    def lie(told: dict[str, Any]) -> None:
        if told["type"] == "call.outcome" and told["fields"]["call_id"] == place.ids[0]:
            told["content"]["text"] = "0.5\n"

    async def scene() -> None:
        await place.retold(tmp_path / "home", lie)

    play(scene)
    code, found = run_json(capsys, *command(place, monkeypatch, tmp_path / "home"), place.ids[0])
    assert (code, found["same"], found["different"], found["not_rerunnable"]) == (1, 0, 1, 0)
    (difference,) = found["calls"][0]["differences"]
    assert (difference["what"], difference["recorded"]) == ("text", "'0.5\\n'")
    assert difference["where"].startswith("line 1, character ")


def test_nothing_to_run_is_neither(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 for a call that is no code, one that is not there, and a session nobody had."""
    where = command(place, monkeypatch)
    code, out, _ = run(capsys, *where, place.ids[2])
    assert (code, out.splitlines()[0]) == (2, "0 the same, 0 different, 1 not rerunnable")
    code, out, _ = run(capsys, *where, "c_unheard_of")
    assert (code, out.splitlines()[1]) == (2, "  1: it is not on record")
    assert run(capsys, *where, "--session", "none")[::2] == (
        2,
        "toolgate: no call of a session none is on record\n",
    )


def test_a_ledger_that_was_altered_is_not_gone_by(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One byte, and nothing of it is run."""

    async def scene() -> None:
        await place.retold(tmp_path / "home", lambda told: None)

    play(scene)
    (segment,) = (tmp_path / "home" / "audit" / "w1").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"session_id":"job"', b'"session_id":"jab"', 1))
    code, out, err = run(capsys, *command(place, monkeypatch, tmp_path / "home"), place.ids[0])
    assert (code, out) == (2, "")
    assert err.startswith("toolgate: ")
