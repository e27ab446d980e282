"""Who reads content from the command line is on record; who cannot be put on record reads all the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.query import records
from gateway.stores.sqlite import State
from tests.gateway.audit.disks import ledger, verified, write_calls
from tests.gateway.cli.project import run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two calls on record."""

    async def write() -> None:
        async with ledger(tmp_path / "home") as writer:
            await write_calls(writer, 2)

    asyncio.run(write())
    State(tmp_path / "home" / "state.db").close()
    return tmp_path / "home"


def readings(home: Path) -> list[Any]:
    """What stands on record of readings: verb, filter and number of records."""
    found = [record for record in records(home) if record["type"] == "admin.read"]
    assert all(record["who"] == {"authn": "local", "uid": os.getuid()} for record in found)
    return [(record["verb"], record["filter"], record.get("count")) for record in found]


@pytest.mark.parametrize(
    ("given", "reading"),
    [
        (("show", "c1"), ("audit show", {"call": "c1"}, 2)),
        (("query", "--call", "c1", "--content"), ("audit query", {"call": "c1"}, 2)),
        (("export", "--with-content"), ("audit export", {"format": "jsonl"}, None)),
        (("prove", "c1", "--reveal"), ("audit prove --reveal", {"call": "c1"}, 2)),
    ],
    ids=lambda value: value[0],
)
def test_a_reading_is_on_record(
    home: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], reading: tuple[Any, ...]
) -> None:
    """The verb, what was asked for and how many records, by whom; said once, and the ledger verifies."""
    code, out, err = run(capsys, "audit", *given, "--home", home)
    assert (code, err) == (0, "")
    assert "asked by c1" in out or "content_key" in out
    assert readings(home) == [reading]
    verified(home)


def test_explaining_a_call_reads_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The values that decided are content."""
    assert run(capsys, "explain", "c1", "--home", home)[0] == 0
    assert readings(home) == [("explain", {"call": "c1"}, 2)]


@pytest.mark.parametrize(
    "given",
    [
        ("tail",),
        ("query",),
        ("export",),
        ("prove", "c1"),
        ("in-doubt",),
        ("verify",),
        ("show", "c9"),
        ("query", "--call", "c9", "--content"),
    ],
    ids=" ".join,
)
def test_what_opens_nothing_is_not_on_record(
    home: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    """Neither what stands in plain, nor a call that is not there."""
    run(capsys, "audit", *given, "--home", home)
    assert readings(home) == []
    assert [path.name for path in (home / "audit").iterdir() if path.is_dir()] == ["w1"]


def test_a_home_that_cannot_be_written_is_read_all_the_same(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The content is shown, and one line of standard error says that nobody will know."""
    (home / "audit" / "r1").write_text("in the way")
    code, out, err = run(capsys, "audit", "show", "c1", "--home", home)
    assert code == 0
    assert "asked by c1" in out
    assert err.startswith("toolgate: that this was read is not on record: ")
    assert err.count("\n") == 1


def test_a_reading_is_found_like_any_record(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its type, in the index and in the tail, in one line."""
    run(capsys, "audit", "show", "c1", "--home", home)
    code, out, _ = run(capsys, "audit", "query", "--type", "admin.read", "--home", home)
    assert code == 0
    assert out.rstrip().endswith(f"admin.read    audit show uid={os.getuid()} records=2")
    assert run(capsys, "audit", "tail", "-n", "1", "--home", home)[1] == out


def test_a_disk_that_can_only_be_read_is_read(home: Path) -> None:
    """Arguments and results are shown, with the one line; nothing is made there."""
    shown = _read_only(home, "audit", "show", "c1")
    assert shown.returncode == 0
    assert "asked by c1" in shown.stdout
    assert shown.stderr.startswith("toolgate: that this was read is not on record: ")
    assert shown.stderr.count("\n") == 1
    assert _read_only(home, "audit", "query", "--call", "c1", "--content").stdout == shown.stdout


def _read_only(home: Path, *given: str) -> subprocess.CompletedProcess[str]:
    """The command where the home stands on a file system that is mounted read-only."""
    before = sorted(str(path) for path in home.rglob("*"))
    mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@" --home "$0"'
    command = [sys.executable, "-c", "import sys; from gateway.cli import main; sys.exit(main(sys.argv[1:]))", *given]
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*namespace, "mount", "--bind", home, home], check=False).returncode
    ):
        pytest.skip("this system lets nobody here mount a folder read-only")
    done = subprocess.run(
        [*namespace, "sh", "-c", mounted, str(home), *command], check=False, capture_output=True, text=True, timeout=120
    )
    assert sorted(str(path) for path in home.rglob("*")) == before
    return done
