"""Secrets by reference: `env:NAME` and `file:PATH`, read when they are needed.

What was given out once stays known until the end, also after it was rotated: a backend may still echo it. This file
never writes a secret anywhere and never puts one, or the place it comes from, into a Problem.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.model import Holder
from gateway.problems import refuse
from gateway.tool import SecretUse

MIN_SECRET_CHARS = 16
MAX_SECRET_BYTES = 16 * 1024


class BadSecret(ValueError):
    """The secret cannot be used; `reason` is safe to show."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LocalVault:
    """The environment and files of this machine; implements the `Vault` port."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._files: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._issued: dict[str, str] = {}  # by value, so that rotation adds and never replaces

    async def reveal(self, use: SecretUse, holder: Holder | None = None) -> str:
        """The secret's value. Raises `Refusal(upstream_unreachable)` when it cannot be read or is too weak."""
        try:
            value = self.read(use)
        except BadSecret as bad:
            raise refuse("upstream_unreachable", f"The credential {use.name} cannot be used: {bad.reason}.") from None
        self._issued.setdefault(value, use.name)
        return value

    def read(self, use: SecretUse) -> str:
        """As `reveal`, for checks at the start: nothing counts as given out. Raises BadSecret."""
        kind, _, place = use.source.partition(":")
        if kind == "env" and place:
            value = self._environ.get(place)
            if value is None:
                raise BadSecret("it is not set")
        elif kind == "file" and place:
            value = self._file(place)
        else:
            raise BadSecret("its source is neither env:NAME nor file:PATH")
        if not value or not (value.isascii() and value.isprintable()):
            raise BadSecret("it is empty or not printable ASCII on one line")
        if len(value) < MIN_SECRET_CHARS and not use.weak:
            raise BadSecret(f"it is shorter than {MIN_SECRET_CHARS} characters and not marked weak: true")
        return value

    def issued(self) -> Mapping[str, str]:
        """Every secret given out so far, by name; a name that gave several values has `#2`, `#3` … after it."""
        named: dict[str, str] = {}
        for value, name in self._issued.items():
            free, count = name, 1
            while free in named:
                count += 1
                free = f"{name}#{count}"
            named[free] = value
        return named

    def _file(self, place: str) -> str:
        """The text of a regular file without the line break at its end, read again when the file changed."""
        path = Path(place)
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # a pipe or device could hang
                raise BadSecret("its file is not a regular file")
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            known = self._files.get(place)
            if known is not None and known[0] == version:
                return known[1]
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                raw = file.read(MAX_SECRET_BYTES + 1)
        except OSError:
            raise BadSecret("its file cannot be read") from None
        if len(raw) > MAX_SECRET_BYTES:
            raise BadSecret(f"its file is larger than {MAX_SECRET_BYTES} bytes")
        text = raw.decode("ascii", "replace").removesuffix("\n").removesuffix("\r")
        self._files[place] = (version, text)
        return text
