"""What the container image is built from: enough for the whole wheel, and no more. Needs no Docker engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.house.tree import ROOT, tracked


def _copied() -> set[str]:
    """What the Dockerfile copies from the build context, by its first name."""
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines()]
    return {name for line in lines if line[:1] == ["COPY"] and "--from" not in line[1] for name in line[1:-1]}


def _wheel_names(source: Path, folder: Path) -> set[str]:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_the_image_holds_the_whole_wheel(tmp_path: Path) -> None:
    """From the tracked files that the Dockerfile copies comes the same wheel as from the checkout."""
    copied, context = _copied(), tmp_path / "context"
    for path in tracked():
        if path.parts[0] in copied:
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, context / path)
    assert _wheel_names(context, tmp_path / "image") == _wheel_names(ROOT, tmp_path / "checkout")


def test_the_engine_is_sent_what_is_copied_and_nothing_else() -> None:
    """.dockerignore leaves everything out but what the Dockerfile copies."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == _copied()
