"""A folder of an operator's files: which belong to it, what it looks like, all of it at one moment. It never writes.

Hidden files and folders are none of its business: editors and version control keep things there, and so do the volumes
that Kubernetes mounts. Nor are the projects inside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from gateway.specs.yaml import MAX_BYTES, SpecError, SpecErrors

_MAX_FILES = 10_000
# Of each file: its name, size, when its bytes and its entry changed (nanoseconds), and which file it is (inode).
Look = tuple[tuple[str, int, int, int, int], ...]


def read(folder: Path, *, only_yaml: bool = False) -> dict[str, bytes]:
    """The files below a folder, by their path as an operator would name it. Raises `SpecErrors`.

    Of a YAML file no more than one byte above what the loader takes, so that a huge one is refused and not read.
    """
    files = [path for path in _files(folder) if not only_yaml or is_yaml(path.name)]
    try:
        return {os.path.normpath(path): _bytes(path) for path in files}
    except OSError as error:
        unread = SpecError(error.filename or str(folder), 1, 1, f"cannot be read: {error.strerror}")
        raise SpecErrors([unread]) from error


def look(folder: Path) -> Look:
    """What tells one state of a folder from another, without reading a file. One that cannot be read has a look too."""
    try:
        found = [(os.path.normpath(path), path.stat()) for path in _files(folder)]
    except SpecErrors as error:
        return ((str(error), 0, 0, 0, 0),)
    except OSError as error:
        return ((str(error), error.errno or 0, 0, 0, 0),)
    return tuple((name, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino) for name, at in found)


def read_as(folder: Path, seen: Look) -> dict[str, bytes] | None:
    """The YAML files of a folder that looks as it did before and after they were read; None where it does not any more.

    Raises `SpecErrors` where it looks the same and cannot be read.
    """
    try:
        files = read(folder, only_yaml=True)
    except SpecErrors:
        if look(folder) == seen:
            raise
        return None
    return files if look(folder) == seen else None


def is_yaml(name: str) -> bool:
    """Whether a file is one of those that specs and policies stand in."""
    return name.lower().endswith((".yaml", ".yml"))


def _files(folder: Path) -> list[Path]:
    """Raises `OSError` for a folder inside that cannot be opened: what it holds might forbid something.

    And `SpecErrors` for a link to a folder, which is not followed: it may lead anywhere, and around.
    """
    if not folder.is_dir():
        raise SpecErrors([SpecError(str(folder), 1, 1, "there is no such folder")])
    found: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=_raise):
        # A folder with settings of its own is another project: starters to copy stand among what is in force here.
        if "toolgate.yaml" in files and Path(here) != folder:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (path := Path(here, name)).is_symlink():
                raise SpecErrors([SpecError(str(path), 1, 1, "a link to a folder is not followed: link its files")])
        found += [path for name in files if not name.startswith(".") and _is_file(path := Path(here, name))]
        if len(found) > _MAX_FILES:
            raise SpecErrors([SpecError(str(folder), 1, 1, f"a folder holds at most {_MAX_FILES} files")])
    return sorted(found)


def _is_file(path: Path) -> bool:
    """What is no file, or a link to none, counts where a policy should stand, so that reading it fails."""
    return path.is_file() or is_yaml(path.name)


def _bytes(path: Path) -> bytes:
    if not is_yaml(path.name):
        return path.read_bytes()
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise SpecErrors([SpecError(ascii(str(path)), 1, 1, "the name of a file has to be UTF-8")]) from None
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise SpecErrors([SpecError(str(path), 1, 1, "is no file")])
    with path.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)


def _raise(error: OSError) -> None:
    raise error
