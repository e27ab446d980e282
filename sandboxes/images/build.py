"""Builds the runner images on a Docker engine: a base if none is named, and on it one image for each recipe.

A developer's and an operator's tool: it runs before a gateway does, never during a call. Whoever may speak to the
engine owns the machine, so nothing of the gateway's imports it. Needs no network but for a base made of packages.
"""

import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import docker  # type: ignore[import-untyped]  # the SDK ships no types
import requests

HERE: Final = Path(__file__).parent
RECIPES: Final = ("python", "shell")
BASE: Final = "toolgate-base"
IDS: Final = "images.json"
# Of one exchange with the engine; importing a base of 100 MB takes longest.
SECONDS: Final = 120
BASE_SECONDS: Final = 900

Progress = Callable[[str], None]


class CannotBuild(Exception):
    """The images cannot be built here; the text is a sentence that says why."""


def ensure(folder: Path, engine: str = "", base: str = "", progress: Progress = lambda _line: None) -> dict[str, str]:
    """Builds what is missing and gives recipe → image id (`sha256:…`), which it also writes to `folder`/images.json.

    engine: address of a Docker engine, else what the environment says. base: name or id of an image with Python, else
    one is made of Debian packages, which takes minutes and root. Blocks. Raises `CannotBuild`.
    """
    client = None
    try:
        client = docker.DockerClient(base_url=engine, timeout=SECONDS) if engine else docker.from_env(timeout=SECONDS)
        base = base or _base(client, progress)
        ids = {recipe: _build(client, recipe, base, progress) for recipe in RECIPES}
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise CannotBuild(f"the images cannot be built on the Docker engine: {error}") from error
    finally:
        if client is not None:
            client.close()
    _write(folder.expanduser(), ids)
    return ids


def _base(client: docker.DockerClient, progress: Progress) -> str:
    if client.images.list(BASE):
        return BASE
    progress(f"{BASE}: made of Debian packages (some minutes)")
    with tempfile.NamedTemporaryFile(suffix=".tar") as tar:
        make_base(tar)
        tar.flush()
        import_base(client, Path(tar.name))
    return BASE


def make_base(tar: IO[bytes]) -> None:
    """Writes the root file system of a base image. Raises `CannotBuild`."""
    try:
        made = subprocess.run(["sh", str(HERE / "make_base")], stdout=tar, stderr=subprocess.PIPE, timeout=BASE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"make_base: {error}") from error
    if made.returncode:
        raise CannotBuild(f"make_base: {made.stderr.decode(errors='replace')[-500:]}")


def import_base(client: docker.DockerClient, tar: Path) -> None:
    client.api.import_image_from_file(str(tar), repository=BASE, tag="latest")


def _build(client: docker.DockerClient, recipe: str, base: str, progress: Progress) -> str:
    progress(f"toolgate-{recipe}: built on {base}")
    image, _log = client.images.build(
        fileobj=_recipe(recipe),
        custom_context=True,
        dockerfile=f"{recipe}/Dockerfile",
        buildargs={"BASE": base},
        tag=f"toolgate-{recipe}",
        network_mode="none",
        rm=True,
        forcerm=True,
    )
    return str(image.id)


def _recipe(recipe: str) -> IO[bytes]:
    """The build context as a tar: the recipe and the inside, always the same bytes, so that the engine's cache hits."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path in sorted((HERE / recipe).iterdir()) + sorted((HERE / "inside").glob("*.py")):
            entry = tarfile.TarInfo(str(path.relative_to(HERE)))
            content = path.read_bytes()
            entry.size, entry.mode = len(content), 0o755 if content.startswith(b"#!") else 0o644
            tar.addfile(entry, io.BytesIO(content))
    whole.seek(0)
    return whole


def _write(folder: Path, ids: dict[str, str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder / f".{IDS}.{os.getpid()}"
    new.write_text(json.dumps(ids, indent=2) + "\n")
    new.replace(folder / IDS)
