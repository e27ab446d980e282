"""Every bundle that was ever in force, by its digest: so that an old decision can be made again. It never deletes one.

One file each, `bundles/<hex>.json` in the home folder, mode 0600:
`{"digest": "sha256:…", "files": {name: text}, "tools": {name: digest}}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.audit.disk import OsDisk, replace_file
from gateway.home import Home
from gateway.policy.bundle import PolicyBundle, load_bundle
from gateway.specs.yaml import SpecErrors
from gateway.tool import Tool


class NotKept(Exception):
    """A bundle cannot be had from the home folder; the text says why."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of a bundle, name → text, and the digests of the tools it was last loaded with."""

    digest: str
    files: Mapping[str, str]
    tools: Mapping[str, str]


def keep(home: Home, digest: str, files: Mapping[str, bytes], tools: Sequence[Tool]) -> None:
    """Keeps the files of a bundle that loaded, durably. Blocks. Raises `OSError`."""
    texts = {name: raw.decode() for name, raw in sorted(files.items())}
    kept = {"digest": digest, "files": texts, "tools": {tool.name: tool.digest for tool in tools}}
    disk, path = OsDisk(), _path(home, digest)
    home.bundles.mkdir(mode=0o700, exist_ok=True)
    replace_file(disk, path, json.dumps(kept, ensure_ascii=False).encode() + b"\n")
    disk.sync_folder(home.bundles)


def read_kept(home: Home, digest: str) -> Kept:
    """What was kept under a bundle's digest. Raises `NotKept`."""
    path = _path(home, digest)
    try:
        said = json.loads(path.read_bytes())
        return Kept(said["digest"], dict(said["files"]), dict(said["tools"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NotKept(f"{path}: no bundle can be read here: {error}") from error


def load_kept(home: Home, digest: str, tools: Sequence[Tool]) -> PolicyBundle:
    """A bundle that was in force once, as it was then. Raises `NotKept`, also where the file was altered.

    It decides as it did wherever a tool is the one it was: `read_kept` says which tools those were.
    """
    kept = read_kept(home, digest)
    try:
        bundle = load_bundle({name: text.encode() for name, text in kept.files.items()}, tools)
    except SpecErrors as errors:
        raise NotKept(f"{_path(home, digest)}: does not load with these tools: {errors}") from errors
    if bundle.digest != digest:
        raise NotKept(f"{_path(home, digest)}: was altered: its files are those of {bundle.digest}")
    return bundle


def _path(home: Home, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise NotKept(f"{digest!r} is no digest of a bundle")
    return home.bundles / f"{name}.json"
