"""`toolgate test`: which cases fail, where they stand, and why; `toolgate check` says it in the same lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.cli.project import FAILING, LACKS, POLICY, SPEC, project, run, run_json
from tests.kit import ROOT


def test_cases_that_pass_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with tool_specs/ and policies/ in it needs no flags."""
    assert run(capsys, "test", project(tmp_path)) == (0, "1 case: 1 passed, 0 failed\n", "")


@pytest.mark.parametrize("path", [".", "policies", "policies/refunds.yaml"])
def test_a_failed_case_is_told_with_its_line_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """From a project, a folder of policies or one file: what was wanted, what came, and the explanation's sentence."""
    folder = project(tmp_path, failing=True)
    code, out, _ = run(capsys, "test", folder / path, "--specs", folder / "tool_specs")
    place = folder / "policies" / "refunds.yaml"
    assert code == 1
    assert out.splitlines() == [
        f"{place}:13: case 'large': wanted permit refund-small, got deny no_permit",
        f"  refused: no rule permits refund for agent support: the nearest, refund-small ({place}:7), {LACKS}",
        "2 cases: 1 passed, 1 failed",
    ]


def test_check_tells_a_failed_case_in_the_same_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two commands, one way to say it."""
    folder = project(tmp_path, failing=True)
    tested = run(capsys, "test", folder)[1].splitlines()[:2]
    files: list[str | Path] = ["--specs", folder / "tool_specs", "--policies", folder / "policies"]
    code, out, _ = run(capsys, "check", *files)
    assert code == 1
    assert [line for line in out.splitlines() if line in tested] == tested


def test_a_failed_case_is_told_with_what_is_required_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A case that wants an obligation which does not come out so is told those that do."""
    folder = project(tmp_path)
    file = folder / "policies" / "refunds.yaml"
    wanted = file.read_text().replace("expect: {permit: refund-small}", "expect: {permit: refund-small, %s}")
    permit = wanted.replace("  when:", "  with: {timeout: 2s}\n  when:")
    file.write_text(permit % "obligations: {timeout: 5s}")
    out = run(capsys, "test", folder)[1].splitlines()
    assert out[0].endswith("got permit refund-small, but not with timeout")
    assert out[2] == "  obligation timeout: 2 s, from refund-small"


def test_check_tells_of_the_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a candidate is broken by, or which of its own tests fail, is a finding too."""
    folder, beside = project(tmp_path / "a"), project(tmp_path / "b", failing=True) / "policies"
    config = folder / "toolgate.yaml"
    config.write_text(f"candidate: {beside}\n")
    files: list[str | Path] = ["--config", config, "--specs", folder / "tool_specs", "--policies", folder / "policies"]
    code, out, _ = run(capsys, "check", *files)
    assert (code, out.splitlines()[0]) == (
        1,
        f"{beside}/refunds.yaml:13:1: the test 'large' fails: wanted permit refund-small, got deny no_permit",
    )
    (beside / "refunds.yaml").write_text("kind: [")
    assert run(capsys, "check", *files)[1].startswith(f"{beside}/refunds.yaml:2:1: not YAML")
    (beside / "refunds.yaml").write_text(POLICY)
    assert run(capsys, "check", *files)[1].startswith("ok: ")


def test_json_has_every_case_and_why_one_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a build that reports them."""
    code, told = run_json(capsys, "test", project(tmp_path, failing=True))
    assert (code, told["ok"], [case["ok"] for case in told["cases"]]) == (1, False, [True, False])
    assert LACKS in told["cases"][1]["why"]
    assert "why" not in told["cases"][0]


def test_a_file_of_cases_runs_through_a_whole_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the files that it names from where it stands, and its upstream's answer."""
    folder = project(tmp_path)
    file = folder / "cases.yaml"
    head = "apiVersion: toolgate/v1\nkind: Cases\nspecs: [tool_specs/refund.yaml]\npolicies: [policies]\n"
    head += "upstream: {status: 200, body: {given: 20}}\ncases:\n"
    done = "- {name: given, as: {agent: support}, call: {refund: {amount: 20}}, "
    file.write_text(head + done + "expect: {done: {structured_content: {given: 20}}}}\n" + FAILING)
    code, out, _ = run(capsys, "test", file)
    assert code == 1
    assert out.splitlines()[0] == f"{file}:8: case 'large': wanted permit refund-small, got deny no_permit"
    assert LACKS in out.splitlines()[1]
    assert out.splitlines()[2] == "2 cases: 1 passed, 1 failed"
    file.write_text(head.replace("[policies]", "[nowhere]") + FAILING)
    code, out, _ = run(capsys, "test", file)
    assert (code, out) == (2, f"{file}:1:1: there is no file or folder 'nowhere' from here\n")


@pytest.mark.parametrize("name", ["echo.yaml", "failing_upstream.yaml"])
def test_the_case_files_of_this_repository_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same files as the suite runs through all doors, whole documents in them."""
    code, out, _ = run(capsys, "test", ROOT / "tests" / "cases" / name)
    assert (code, out.endswith("0 failed\n")) == (0, True)


@pytest.mark.parametrize("policy", ["id: x", POLICY.replace("args.amount <=", "args.amout <="), "kind: ["])
def test_files_that_are_wrong_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    """No case could be run: the findings are what is printed."""
    folder = project(tmp_path)
    (folder / "policies" / "refunds.yaml").write_text(policy)
    for path in (folder, folder / "policies" / "refunds.yaml"):
        code, out, _ = run(capsys, "test", path, "--specs", folder / "tool_specs")
        assert code == 2
        assert f"{folder / 'policies' / 'refunds.yaml'}:" in out
    assert run(capsys, "test", tmp_path / "nowhere")[0] == 2


def test_a_spec_is_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of another kind is refused by name."""
    (tmp_path / "refund.yaml").write_text(SPEC)
    code, out, _ = run(capsys, "test", tmp_path / "refund.yaml")
    assert (code, "'Tool' is not taken here: write 'Policy'" in out) == (2, True)
