"""Secrets by reference: `KIND:PLACE`, each kind from its own source, read when it is needed.

What was given out once stays known until the end, also after it was rotated: a backend may still echo it. This file
never writes a secret anywhere and never puts one, or the place it comes from, into a Problem.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gateway.model import Holder
from gateway.problems import refuse
from gateway.screening.secrets import IssuedSecrets
from gateway.tool import SecretUse

MIN_SECRET_CHARS = 16
MAX_SECRET_BYTES = 16 * 1024


class BadSecret(ValueError):
    """The secret cannot be used; `reason` is safe to show."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source(Protocol):
    """Where secrets of one kind come from."""

    def peek(self, place: str) -> str | None:
        """The secret where it is on this machine, None where somebody has to be asked. Raises `BadSecret`."""
        ...

    async def fetch(self, place: str, holder: Holder | None) -> str:
        """The secret, for this holder. Raises `BadSecret`, or a `Refusal` that says more."""
        ...


class SecretVault:
    """Secrets of several sources; implements the `Vault` port."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        """`sources` by the word before the colon."""
        self._sources = dict(sources)
        self.issued = IssuedSecrets()  # by value, so that rotation adds and never replaces

    def add(self, kind: str, source: Source) -> None:
        """Another source, made of what needs this vault itself."""
        self._sources[kind] = source

    async def reveal(self, use: SecretUse, holder: Holder | None = None) -> str:
        """The secret's value. Raises `Refusal(upstream_unreachable)` when it cannot be read or is too weak."""
        try:
            source, place = self._source(use)
            value = _fit(await source.fetch(place, holder), use)
        except BadSecret as bad:
            raise refuse("upstream_unreachable", f"The credential {use.name} cannot be used: {bad.reason}.") from None
        self.issued.add(use.name, value)
        return value

    async def own(self, name: str, source: str) -> str:
        """A secret of the gateway's own, for asking others for credentials. Raises as `reveal`."""
        return await self.reveal(SecretUse(name, source, (), "", "{}", weak=True))

    def remember(self, name: str, value: str) -> None:
        """Something else that nobody is to see: it is looked for in results from now on."""
        self.issued.add(name, value)

    def forget(self, value: str) -> None:
        """It is worth nothing any more, and is not looked for."""
        self.issued.discard(value)

    def look(self, use: SecretUse) -> str | None:
        """What is wrong with a secret, for checks at the start: nobody is asked, nothing counts as given out."""
        try:
            source, place = self._source(use)
            value = source.peek(place)
            if value is not None:
                _fit(value, use)
        except BadSecret as bad:
            return bad.reason
        return None

    def _source(self, use: SecretUse) -> tuple[Source, str]:
        kind, _, place = use.source.partition(":")
        source = self._sources.get(kind)
        if source is None or not place:
            raise BadSecret(f"its source is none of {', '.join(f'{known}:' for known in sorted(self._sources))}")
        return source, place


class Environment:
    """`env:NAME`, a variable of the gateway's environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def peek(self, place: str) -> str:
        value = self._environ.get(place)
        if value is None:
            raise BadSecret("it is not set")
        return value

    async def fetch(self, place: str, holder: Holder | None) -> str:
        return self.peek(place)


class Files:
    """`file:PATH`, the text of a file, read again when the file changed."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[tuple[int, int, int], str]] = {}

    async def fetch(self, place: str, holder: Holder | None) -> str:
        return self.peek(place)

    def peek(self, place: str) -> str:
        """The text of a regular file without the line break at its end."""
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


def local_vault(environ: Mapping[str, str]) -> SecretVault:
    """A vault of this machine's environment and files."""
    return SecretVault({"env": Environment(environ), "file": Files()})


def _fit(value: str, use: SecretUse) -> str:
    """The value, if it can stand in a header and is no guess. Raises `BadSecret`."""
    if not value or not (value.isascii() and value.isprintable()):
        raise BadSecret("it is empty or not printable ASCII on one line")
    if len(value) < MIN_SECRET_CHARS and not use.weak:
        raise BadSecret(f"it is shorter than {MIN_SECRET_CHARS} characters and not marked weak: true")
    return value
