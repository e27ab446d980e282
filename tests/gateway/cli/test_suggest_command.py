"""`toolgate suggest`: the file on stdout, in a new file or inside JSON, and what is not in it on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.loading import require_tests
from gateway.policy.bundle import load_bundle
from tests.gateway.week import OPEN, SPECS, Made, lived, tools_of


def files(folder: Path) -> Path:
    """The tool specs of the week, as files."""
    folder.mkdir()
    for name, text in SPECS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    """The command over a home with three calls, of which two can be read."""
    quiet = OPEN.replace("]\n", ", {id: q, effect: permit, match: {tools: [mail]}, with: {record: metadata}}]\n")
    quiet = quiet.replace('tools: ["*"]', "tools: [fetch, read_file]")
    calls: list[Made] = [("ann", "mail", {"to": ["a@example.com"], "subject": "x", "body": "y"})]
    calls += [("coder", "read_file", {"path": "/repo/a"}), ("researcher", "fetch", {"url": "https://example.com/"})]
    week = lived(tmp_path / "home", calls, quiet)
    return ["suggest", "--home", str(week.home), "--specs", str(files(tmp_path / "specs")), "--since", "36500d"]


def test_the_command_writes_a_new_file_and_never_over_one(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not in it goes to stderr; the file loads; a second time it is there already, and stays as it is."""
    target = tmp_path / "new.yaml"
    assert main([*typed, "-o", str(target)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{target}: 2 rules and ")
    assert err == "toolgate: not in it: 1 call: the arguments are not on record\n"
    written = target.read_bytes()
    require_tests(load_bundle({"new.yaml": written}, tools_of()))
    assert main([*typed, "-o", str(target)]) == 2
    assert "File exists" in capsys.readouterr().err
    assert target.read_bytes() == written


def test_the_command_prints_the_file_or_json(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file it goes to stdout, as it is or inside JSON; without calls the exit code is 2."""
    assert main(typed) == 0
    out = capsys.readouterr().out
    require_tests(load_bundle({"new.yaml": out.encode()}, tools_of()))
    assert main([*typed, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["policy"], told["calls"], told["rules"]) == (out, 2, 2)
    assert main([*typed, "--agent", "nobody"]) == 2
    assert "no call to make a rule of" in capsys.readouterr().err


def test_an_altered_ledger_makes_no_rule(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A record that was changed afterwards is no ground for a permit."""
    (path,) = Path(typed[2]).glob("audit/*/*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"coder"', b'"other"', 1))
    assert main(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("toolgate: ")
