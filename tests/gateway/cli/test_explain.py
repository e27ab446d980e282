"""`toolgate explain --call`: what would be decided of a call in a file, for people and as JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gateway.cli import main
from tests.gateway.cli.project import project, run, run_json
from tests.served import TOOLGATE

PAST = "{history: [{call: {refund: {amount: 190}}, ago: 2h}, {call: {refund: {amount: 180}}}]}"
GIVEN = f"as: {{agent: support}}\nsession: {PAST}\n"


def asked(folder: Path, text: str) -> list[str | Path]:
    """The command that asks about a call, over the project's files."""
    (folder / "call.yaml").write_text(text)
    files: list[str | Path] = ["--specs", folder / "tool_specs", "--policies", folder / "policies"]
    return ["explain", "--call", folder / "call.yaml", *files]


def test_a_call_that_would_be_permitted_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence first, the evidence below it, the past it told among that."""
    code, out, _ = run(capsys, *asked(project(tmp_path), GIVEN + "call: {refund: {amount: 20}}\n"))
    said = out.splitlines()
    place = tmp_path / "policies" / "refunds.yaml"
    assert (code, said[0]) == (0, f"permitted: refund-small ({place}:7) permits refund for agent support")
    assert "  read state.given_24h = 370.0 (version 2)" in said
    assert "    true  args.amount <= 200.0  [args.amount = 20.0]" in said


def test_a_call_that_would_be_refused_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cap that earlier calls have used up is named with what they used."""
    code, told = run_json(capsys, *asked(project(tmp_path), GIVEN + "call: {refund: {amount: 150}}\n"))
    assert (code, told["effect"], told["code"], told["rules"]) == (1, "forbid", "no_permit", [])
    assert told["nearest"]["rule"] == "refund-small"
    assert told["nearest"]["clause"]["values"] == {"state.given_24h": 370.0, "args.amount": 150.0}
    assert told["reads"]["state.given_24h"]["value"] == 370.0
    assert "lines" not in told


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("as: {agent: dev}\ncall: {refund: {amount: 1}}", 'is for agent support only; principal.agent is "dev"'),
        ("as: {agent: support}\ncall: {refunds: {}}", "there is no tool of that name: did you mean 'refund'?"),
        ("as: {agent: support}\ncall: {refund: {amount: much}}", "the arguments do not fit refund: At /amount: "),
    ],
)
def test_what_never_comes_before_policy_is_explained_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str, sentence: str
) -> None:
    """A hidden tool, one that does not exist, arguments that do not fit."""
    code, out, _ = run(capsys, *asked(project(tmp_path), call))
    assert code == 1
    assert sentence in out.splitlines()[0]


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("call: {refund: {amount: 1}}\nexpect: {permit: x}", "unknown key 'expect': known are as, call, session"),
        ("call: {}", "does not fit 'call'"),
        ("call: [", "not YAML"),
        ("session: {history: [{call: {refunded: {}}}]}\ncall: {refund: {amount: 1}}", "history 1: there is no tool"),
    ],
)
def test_a_file_that_is_no_call_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str, wrong: str
) -> None:
    """With the sentence that says what would be right, and nothing on the standard output."""
    code, out, err = run(capsys, *asked(project(tmp_path), call))
    assert (code, out) == (2, "")
    assert wrong in err


def test_a_file_that_is_not_there_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither do both ways to ask at once, nor none, have an answer."""
    assert run(capsys, "explain", "--call", tmp_path / "none.yaml")[0] == 2
    for wrong in (["explain"], ["explain", "c_1", "--call", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


def test_stdin_is_read_for_a_dash(tmp_path: Path) -> None:
    """JSON is YAML, so a program can ask."""
    files = asked(project(tmp_path), "")[3:]
    told = json.dumps({"as": {"agent": "support"}, "call": {"refund": {"amount": 5}}}).encode()
    command = [TOOLGATE, "explain", "--call", "-", *map(str, files)]
    assert subprocess.run(command, input=told, capture_output=True, timeout=120, check=False).returncode == 0


def test_what_others_wrote_is_safe_for_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that would move the cursor is spelled out."""
    call = 'as: {agent: "x\\e[2J"}\ncall: {refund: {amount: 1}}'
    _, out, _ = run(capsys, *asked(project(tmp_path), call))
    assert all(line.isprintable() for line in out.splitlines())
    assert "x\\u001b[2J" in out
