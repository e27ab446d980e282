"""`toolgate revoke`: what an operator types to stop somebody, and what is said to a mistake."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.identity.revocations import Revocations
from gateway.stores.sqlite import State

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder where a gateway was started before, and a folder to stand in."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".toolgate"
    folder.mkdir()
    State(folder / "state.db").close()
    return folder


def test_a_revocation_is_made_listed_and_lifted(home: Path, out: Out) -> None:
    """It is in force as soon as the command has ended; what was lifted stays in the list."""
    assert main(["revoke", "--list"]) == 0
    assert out.readouterr().out == "nothing was revoked\n"
    assert main(["revoke", "--agent", "bot", "--tenant", "acme", "--why", "went wild", "--json"]) == 0
    made = json.loads(out.readouterr().out)
    assert made["whose"] == {"agent": "bot", "tenant": "acme"}
    with closing(State(home / "state.db")) as state:
        assert [each.whose for each in Revocations(state).current.others] == [{"agent": "bot", "tenant": "acme"}]
    assert main(["revoke", "--list"]) == 0
    assert out.readouterr().out.startswith(f"{made['id']}  agent bot tenant acme  since ")
    assert main(["revoke", "--lift", made["id"]]) == 0
    assert main(["revoke", "--lift", made["id"]]) == 1
    assert out.readouterr().out == "lifted\nno revocation in force has this id\n"
    assert main(["revoke", "--list"]) == 0
    assert "  lifted 2" in out.readouterr().out
    with closing(State(home / "state.db")) as state:
        assert Revocations(state).current.others == ()


def test_a_token_alone_is_revoked_by_its_id(home: Path, out: Out) -> None:
    """With the reason and who said so kept beside it."""
    assert main(["revoke", "--token", "t-1", "--why", "leaked"]) == 0
    with closing(State(home / "state.db")) as state:
        revocations = Revocations(state)
    (made,) = revocations.all()
    assert (made.why, made.who["authn"], revocations.current.tokens) == ("leaked", "local", {"t-1"})


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--why", "nobody is meant"],
        ["--agent", "bot"],
        ["--agent", "bot", "--why", ""],
        ["--agent", "bot", "--why", "x" * 1001],
        ["--agent", "", "--why", "x"],
        ["--agent", "a\nb", "--why", "x"],
        ["--agent", "a" * 257, "--why", "x"],
        ["--agent", "bot ", "--why", "x"],
        ["--agent", "bot", "--why", "\x1b[2J"],
        ["--agent", "bot", "--why", "\udcff"],
        ["--agent", "bot", "--list"],
        ["--list", "--lift", "r_1"],
    ],
    ids=range(13),
)
def test_a_mistake_revokes_nobody(home: Path, out: Out, flags: list[str]) -> None:
    """Exit 2 and a sentence."""
    assert main(["revoke", *flags]) == 2
    assert out.readouterr().err.startswith("toolgate: ")
    with closing(State(home / "state.db")) as state:
        assert Revocations(state).all() == ()


def test_a_home_that_is_none_is_said(tmp_path: Path, out: Out) -> None:
    """A typo in --home revokes nobody, and must not look as if it did."""
    assert main(["revoke", "--agent", "bot", "--why", "x", "--home", str(tmp_path / "other")]) == 2
    assert "no gateway has been started here" in out.readouterr().err


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Out:
    """What was printed."""
    return capsys
