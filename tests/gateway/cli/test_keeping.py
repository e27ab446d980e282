"""`toolgate audit archive` and `retain` without a running gateway, and what other commands say afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.audit.query import records
from gateway.audit.verify import segments
from tests.gateway.audit.archives import write_aged
from tests.gateway.audit.disks import one
from tests.gateway.cli.project import run, run_json


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose log is years old, with a folder `elsewhere` beside it."""
    (tmp_path / "elsewhere").mkdir()
    write_aged(tmp_path / "home", count=3)
    return tmp_path / "home"


def test_old_segments_are_archived(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are elsewhere, the log verifies with and without them, and it is said where a call went that is not here."""
    asked = ("audit", "archive", "--before", "90d", "--to", str(tmp_path / "elsewhere"), "--home", home)
    code, said = run_json(capsys, *asked)
    assert (code, said["first"], said["to"]) == (0, 0, str(tmp_path / "elsewhere" / "w1"))
    (record,) = [record for record in records(home) if record["type"] == "log.archived"]
    assert said["record"] == {"shard": "w1", "seq": record["seq"]}
    assert (record["last"], record["who"]) == (said["last"], record["who"])
    assert len(segments(tmp_path / "elsewhere" / "w1")) == 3
    assert int(segments(one(home))[0].stem) == said["last"] + 1
    assert f"archived={said['last'] + 1} " in run(capsys, "audit", "verify", "--home", home)[1]
    whole = run(capsys, "audit", "verify", "--archive", str(tmp_path / "elsewhere"), "--home", home)
    assert (whole[0], "archived=" in whole[1]) == (0, False)
    for command in (("audit", "show"), ("audit", "prove"), ("explain",), ("audit", "export", "--as-case")):
        code, out, err = run(capsys, *command, "p0c0", "--home", home)
        assert code == 1
        assert f"no record of p0c0 here, and records were archived: w1:0 to w1:{said['last']} in" in out + err
    again = run(capsys, *asked)
    assert again[:2] == (0, "no segment is old enough\n")


def test_what_cannot_be_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An age below a day, or none; a folder that is not there, or lies within the home: exit 2, and nothing moves."""
    elsewhere = str(tmp_path / "elsewhere")
    before = segments(one(home))
    inside = home / "audit"
    for age, to, why in (
        ("23h", elsewhere, "1d at least"),
        ("old", elsewhere, "is written"),
        ("90d", str(tmp_path / "not-mounted"), "is not made"),
        ("90d", str(inside), "outside the home folder"),
    ):
        code, _, err = run(capsys, "audit", "archive", "--before", age, "--to", to, "--home", home)
        assert (code, why in err) == (2, True), err
    assert segments(one(home)) == before


def test_an_altered_log_stays(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, and what does not stand is named."""
    path = segments(one(home))[1]
    path.write_bytes(path.read_bytes().replace(b"p1c1", b"p1c9", 1))
    elsewhere = tmp_path / "elsewhere"
    code, _, err = run(capsys, "audit", "archive", "--before", "90d", "--to", str(elsewhere), "--home", home)
    assert (code, "the log does not verify: FAIL shard=w1" in err) == (1, True)
    assert list(elsewhere.iterdir()) == []


def test_content_is_erased_by_the_setting(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one it says so, exit 2; with one it counts what it erased. What was said today is not old."""
    code, _, err = run(capsys, "audit", "retain", "--home", home)
    assert (code, "audit.retain.content is not set" in err) == (2, True)
    config = home.parent / "toolgate.yaml"
    config.write_text("audit: {retain: {content: 30d}}\n")
    code, said = run_json(capsys, "audit", "retain", "--home", home, "--config", str(config))
    assert (code, said) == (0, {"sessions": 0, "keys": 0, "blobs": 0, "record": None})
