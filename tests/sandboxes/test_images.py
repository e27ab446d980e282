"""Building runner images: what is written down, what an image says of itself, and an engine that is not there."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxes.images.build import CannotBuild, ensure
from tests.engine import Engine

ENTRYPOINT = ["python3", "-I", "-S", "-u", "/opt/toolgate/sandboxes/images/inside/runner.py"]


def test_what_is_built_is_written_down_and_not_built_again(engine: Engine, tmp_path: Path) -> None:
    """images.json holds recipe → id; the same sources on the same base are the same image."""
    images = ensure(tmp_path / "guests", engine=engine.address)
    assert images == {recipe: engine.images[recipe] for recipe in ("python", "shell")}
    assert json.loads((tmp_path / "guests" / "images.json").read_text()) == images
    assert [path.name for path in (tmp_path / "guests").iterdir()] == ["images.json"]


def test_an_image_is_named_by_id_runs_the_runner_and_nobody(engine: Engine) -> None:
    """The entry point is the runner, the user is nobody, and no volume or port is declared."""
    with contextlib.closing(engine.client()) as client:
        for recipe in ("python", "shell"):
            image = client.images.get(engine.images[recipe])
            config = image.attrs["Config"]
            assert image.id == engine.images[recipe]
            assert (config["Entrypoint"], config["User"]) == (ENTRYPOINT, "65534:65534")
            assert not config.get("Volumes")
            assert not config.get("ExposedPorts")


def test_a_base_that_is_not_there_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    """No image, no ids, and a reason; what was written before stays."""
    (tmp_path / "images.json").write_text("{}")
    with pytest.raises(CannotBuild, match="cannot be built"):
        ensure(tmp_path, engine=engine.address, base=f"sha256:{'0' * 64}")
    assert (tmp_path / "images.json").read_text() == "{}"


def test_no_engine_is_a_sentence(tmp_path: Path) -> None:
    """`python -m sandboxes.images` ends with 1 and says why, without a traceback."""
    environ = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "TOOLGATE_GUESTS": str(tmp_path), "BASE": "any"}
    command = [sys.executable, "-m", "sandboxes.images"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("the images cannot be built on the Docker engine")
    assert "Traceback" not in ran.stderr
