"""Artifacts: bytes that calls left behind, for a day, within a quota of their owner.

`FileArtifacts` keeps each content once for a tenant, in a file named by its digest; what is known of it stands in
`state.db`. The file is there before its row and goes after it, so a crash leaves at most a file that nobody refers to,
and the next sweep takes that. It never gives bytes that are not those of the handle, nor another owner's.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gateway.artifacts import handle_of
from gateway.model import Artifact, Refusal
from gateway.ports import NotKept
from gateway.problems import refuse
from gateway.stores.sqlite import SqliteArtifactRows

log = logging.getLogger("toolgate")

QUOTA = 256 * 1024 * 1024  # bytes of one owner
TTL = 24 * 3600.0  # seconds since it was last kept
_LEAST = 4096  # bytes that any artifact counts for: many small ones take room too


class MemoryArtifacts:
    """Artifacts of one process, gone with it: for cases, and for tests of what stands above."""

    def __init__(self, now: Callable[[], float] = time.time, quota: int = QUOTA, ttl: float = TTL) -> None:
        self._now, self._quota, self._ttl = now, quota, ttl
        self._kept: dict[tuple[str, str], tuple[Artifact, bytes]] = {}

    async def keep(self, artifact: Artifact, content: bytes) -> Artifact:
        await self.sweep()
        place = (artifact.owner, artifact.handle)
        others = [kept for kept, _ in self._kept.values() if (kept.owner, kept.handle) != place]
        used = sum(max(kept.size, _LEAST) for kept in others if kept.owner == artifact.owner)
        _require_room(artifact, used, self._quota)
        known = self._kept.get(place)
        kept = _joined(artifact, known[0] if known else None)
        self._kept[place] = (kept, content)
        return kept

    async def find(self, owner: str, handle: str) -> Artifact | None:
        await self.sweep()
        known = self._kept.get((owner, handle))
        return known[0] if known else None

    async def read(self, artifact: Artifact) -> bytes:
        known = self._kept.get((artifact.owner, artifact.handle))
        if known is None:
            raise _gone()
        return known[1]

    async def sweep(self) -> None:
        """Forgets what has expired."""
        until = self._now() - self._ttl
        for place in [place for place, (kept, _) in self._kept.items() if kept.kept_at <= until]:
            del self._kept[place]


class FileArtifacts:
    """Artifacts in a folder of their own (files 0600), listed in `state.db`. Opening it sweeps what a crash left."""

    def __init__(
        self,
        folder: Path,
        rows: SqliteArtifactRows,
        now: Callable[[], float] = time.time,
        quota: int = QUOTA,
        ttl: float = TTL,
    ) -> None:
        self._folder, self._rows = folder, rows
        self._now, self._quota, self._ttl = now, quota, ttl
        # One at a time: a sweep must not take a file whose row is about to be written.
        self._writing = threading.Lock()
        folder.mkdir(mode=0o700, exist_ok=True)
        self._sweep()

    async def keep(self, artifact: Artifact, content: bytes) -> Artifact:
        return await asyncio.to_thread(self._keep, artifact, content)

    async def find(self, owner: str, handle: str) -> Artifact | None:
        found = await asyncio.to_thread(self._rows.find, owner, handle)
        return found if found is not None and self._is_live(found) else None

    async def read(self, artifact: Artifact) -> bytes:
        return await asyncio.to_thread(self._read, artifact)

    async def sweep(self) -> None:
        """Removes what has expired, and every file nobody refers to."""
        await asyncio.to_thread(self._sweep)

    def _keep(self, artifact: Artifact, content: bytes) -> Artifact:
        owner, handle = artifact.owner, artifact.handle
        with self._writing:
            try:
                used = self._rows.used(owner, beside=handle, since=self._now() - self._ttl, least=_LEAST)
                _require_room(artifact, used, self._quota)
                kept = _joined(artifact, self._rows.find(owner, handle))
                self._write(self._path(artifact), content)
                self._rows.put(kept)
            except OSError as error:
                log.error("an artifact of call %s could not be kept: %s", artifact.call_id, error)
                raise NotKept("store") from None
        return kept

    def _write(self, path: Path, content: bytes) -> None:
        """Written anew even where it is there already: so an altered file is whole again."""
        fresh = self._folder / f".{secrets.token_hex(8)}.new"
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, artifact: Artifact) -> bytes:
        return read_file(self._folder, artifact)

    def _sweep(self) -> None:
        with self._writing:
            self._rows.forget(self._now() - self._ttl)
            wanted = {self._path(artifact).name for artifact in self._rows.all()}
            for name in os.listdir(self._folder):
                if name not in wanted:
                    with suppress(IsADirectoryError, FileNotFoundError):
                        (self._folder / name).unlink()

    def _is_live(self, artifact: Artifact) -> bool:
        return artifact.kept_at > self._now() - self._ttl

    def _path(self, artifact: Artifact) -> Path:
        return _path(self._folder, artifact)


def read_file(folder: Path, artifact: Artifact) -> bytes:
    """The bytes of an artifact in a folder of `FileArtifacts`. Raises `Refusal(not_found)` when they are gone."""
    try:
        # Not blocking, so that what is no regular file any more cannot hold a thread.
        found = os.open(_path(folder, artifact), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(found, "rb") as file:
            content = file.read(artifact.size + 1)
    except OSError as error:
        log.error("artifact %s cannot be read: %s", artifact.handle, error.strerror)
        raise _gone() from None
    if handle_of(content) != artifact.handle:
        log.error("artifact %s was altered on disk and is not given out", artifact.handle)
        raise _gone()
    return content


def _path(folder: Path, artifact: Artifact) -> Path:
    """By tenant and content: whether another tenant has the same bytes makes no difference anybody could see."""
    tenant = hashlib.sha256(artifact.owner.partition("\x1f")[0].encode()).hexdigest()[:32]
    return folder / f"{tenant}-{artifact.handle.partition(':')[2]}"


def _require_room(artifact: Artifact, used: int, quota: int) -> None:
    if used + max(artifact.size, _LEAST) > quota:
        raise NotKept("quota")


def _joined(artifact: Artifact, known: Artifact | None) -> Artifact:
    """The newer one with the labels of both: the same bytes from a clean call do not wash what they were."""
    return artifact if known is None else replace(artifact, labels=artifact.labels | known.labels)


def _gone() -> Refusal:
    return refuse("not_found", "There is no such artifact, or it is not yours, or it is no longer kept.")
