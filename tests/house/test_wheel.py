"""What is shipped: a wheel built from this checkout, without a network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.tree import ROOT, tracked

SHIPPED = {
    "gateway": "gateway",
    "sandboxes": "sandboxes",
    "policies": "gateway/starter/policies",
    "tool_specs": "gateway/starter/tool_specs",
}
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built by hatchling in this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("toolgate-*-py3-none-any.whl")
    return zipfile.ZipFile(built)


def _shipped(path: Path) -> str | None:
    folder = SHIPPED.get(path.parts[0])
    return None if folder is None else str(Path(folder, *path.parts[1:]))


def test_the_wheel_holds_what_it_must_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Both packages with their files, the starters, the metadata: all that is tracked there, nothing more."""
    names = {name for name in wheel.namelist() if not name.endswith("/")}
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert {name.partition("/")[2] for name in metadata} == METADATA
    assert names - metadata == {shipped for path in tracked() if (shipped := _shipped(path)) is not None}


def test_the_wheel_can_serve_and_build_its_guest(wheel: zipfile.ZipFile) -> None:
    """The files that are read at run time are in it: screening rules, guest sources, starter files, the licence."""
    names = set(wheel.namelist())
    for folder, suffix in (
        ("gateway/screening/data/", ".yaml"),
        ("gateway/stores/", ".lua"),
        ("gateway/starter/policies/", ".yaml"),
        ("gateway/starter/policies/starters/", "/toolgate.yaml"),
        ("gateway/starter/tool_specs/", ".yaml"),
        ("sandboxes/guests/python/", ".wit"),
        ("sandboxes/images/python/", "Dockerfile"),
        ("sandboxes/images/shell/", "toolgate-call"),
        ("sandboxes/images/", "make_base"),
        ("sandboxes/profiles/", ".json"),
    ):
        assert any(name.startswith(folder) and name.endswith(suffix) for name in names), folder


def test_the_command_is_toolgate(wheel: zipfile.ZipFile) -> None:
    """The wheel installs one command."""
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert wheel.read(entry).decode().split() == ["[console_scripts]", "toolgate", "=", "gateway.cli:main"]
