"""Secret files: made once, readable by their owner only. It never prints, logs or copies what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex


def secret_file(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes of a secret file (mode 0600), made with `make` if it is not there.

    Two processes that start at once agree on one file: it appears under its name whole, or not at all. Raises
    `PermissionError` when others may read it.
    """
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{token_hex(8)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass  # another process was first; its file counts
        finally:
            fresh.unlink()
        _sync_folder(path.parent)
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} can be read by others; run: chmod 600 {path}")
    return path.read_bytes()


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
