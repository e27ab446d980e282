"""`toolgate simulate`: what it prints, and how it exits, over calls that were recorded a moment ago."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gateway.cli import main
from tests.gateway.cli.project import run, run_json
from tests.gateway.simulate.recording import ALL, Made, Recording
from tests.gateway.test_state_line import HEAD

OPEN = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}}\n"
CAPPED = """
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: ok, effect: permit, match: {tools: ['*']}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid >= 3]}
"""


@pytest.fixture
def here(tmp_path: Path) -> list[str | Path]:
    """Five payments on record, and the command over them with a policy that allows three."""
    begin = time.time() - 3600
    made = asyncio.run(Recording(tmp_path / "home", begin).under(OPEN, [Made("pay", pause=60)] * 5))
    for folder in ("specs", "candidate"):
        (tmp_path / folder).mkdir()
    for name, text in ALL.items():
        (tmp_path / "specs" / name).write_text(text)
    (tmp_path / "candidate" / "lab.yaml").write_text(HEAD + CAPPED)
    return ["simulate", "--home", made.home.path, "--specs", tmp_path / "specs", "--policies", tmp_path / "candidate"]


def test_it_prints_drift_first_and_the_groups(here: list[str | Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Which rule, from what to what, how often, of whom, and two calls to look at."""
    code, out, err = run(capsys, *here)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("5 calls in 1 sessions, under sha256:")
    assert lines[1] == "drift: decided otherwise under the policy of then: 0"
    at = lines.index("newly forbidden: 2")
    assert lines[at + 1] == "  cap (forbidden): permit ok → refuse cap (forbidden): 2 ×"
    assert lines[at + 2] == "    agents dev; tools pay; 1 after a divergence"
    assert lines[at + 3].startswith("    for example c_")
    assert {"newly permitted: 0", "obligations changed: 0", "the same: 3", "not replayable: 0"} <= set(lines)


def test_it_fails_only_on_what_was_asked_for(here: list[str | Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 where a call is of a class named, 0 else."""
    assert run(capsys, *here, "--fail-on", "newly-forbidden")[0] == 1
    assert run(capsys, *here, "--fail-on", "drift,newly-forbidden")[0] == 1
    assert run(capsys, *here, "--fail-on", "newly-permitted,drift,obligations,not-replayable")[0] == 0


def test_json_has_every_call_that_differs(here: list[str | Path], capsys: pytest.CaptureFixture[str]) -> None:
    """With the classes as they are named on the command line."""
    code, said = run_json(capsys, *here)
    assert (code, said["calls"], said["sessions"], said["same"]) == (0, 5, 1, 3)
    assert said["found"]["newly-forbidden"] == len(said["changes"]) == 2
    assert [each["after_divergence"] for each in said["changes"]] == [False, True]
    (group,) = said["groups"]["newly-forbidden"]
    assert group["examples"] == [each["call_id"] for each in said["changes"]]


def test_only_what_is_recent_is_compared(here: list[str | Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The calls were made an hour ago."""
    _, said = run_json(capsys, *here, "--since", "1m")
    assert said["calls"] == 0


def test_what_cannot_be_gone_by_is_exit_2(here: list[str | Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that does not load, and a ledger that was altered: one line or more, no traceback."""
    home, candidate = Path(here[2]), Path(here[6]) / "lab.yaml"
    candidate.write_text("kind: Nothing\n")
    assert run(capsys, *here)[0] == 2
    candidate.write_text(HEAD + CAPPED)
    (segment,) = (home / "audit" / "w1").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"pay"', b'"pax"', 1))
    code, out, err = run(capsys, *here)
    assert (code, out) == (2, "")
    assert err.startswith("toolgate: FAIL shard=w1 seq=")


@pytest.mark.parametrize("wrong", [["--fail-on", "everything"], ["--since", "week"], []])
def test_a_command_that_is_not_understood(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and what would be."""
    with pytest.raises(SystemExit) as exit_:
        main(["simulate", *wrong])
    assert exit_.value.code == 2
    assert capsys.readouterr().err
