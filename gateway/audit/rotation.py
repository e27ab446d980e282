"""The key that signs, and another in its place: `HOME/signing.key`, `HOME/audit/key.pub`, `HOME/audit/rotations`.

A rotation stands from the moment its note is in `rotations`. Before that, a start goes on with the old key; after it,
a start finishes what was begun, from `signing.key.next`. Whenever it is killed, the log has a key that it is trusted
by. The old private key is not overwritten before everything else is durable, and nothing is signed with it alone once
the rotation stands.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import gmtime, monotonic, sleep, strftime

from gateway.audit.checkpoint import PUBLIC_KEY_FILE, Signer
from gateway.audit.disk import Disk, replace_file, write_all
from gateway.audit.notes import Key, PublicKey, Rotation, rotation_of, rotation_text
from gateway.audit.prove import Unprovable, newest_head
from gateway.audit.shard import Shard
from gateway.audit.verify import rotations, segments, whole_lines
from gateway.tool import Json

ROTATIONS = "rotations"
NEXT = "signing.key.next"
RECORD = "key.rotated"
_PATIENCE, _AGAIN = 1.0, 0.01  # seconds: who only notes a reading has a shard's lock for some milliseconds


class CannotRotate(ValueError):
    """The key stays as it is; the text says why."""


def in_use_since(audit: Path, key: str) -> str | None:
    """Since when a key signs, in UTC (RFC 3339): since the rotation to it, or the first record there is. `None` where
    neither is known. Raises `OSError`, `ValueError`."""
    made = [each for each in map(_rotation, rotations(audit)) if each and each.new.text == key and each.valid()]
    if made:
        return made[-1].at
    firsts = [folder / f"{0:020d}.jsonl" for folder in audit.iterdir()]
    lines = [next(whole_lines(path), b"{}") for path in firsts if path.exists()]
    return min((str(said["ts"]) for line in lines if "ts" in (said := json.loads(line))), default=None)


class SigningKey:
    """The signing key of a home. Made under the lock of a shard; used by the thread that writes there.

    `unfinished` is what the record of a rotation says that stands and is not finished yet. Methods raise `OSError`.
    """

    def __init__(self, home: Path, disk: Disk) -> None:
        """Also raises `ValueError`: a file holds no key, or one that was replaced by another."""
        self._home, self._audit, self._disk = home, home / "audit", disk
        self.unfinished: dict[str, Json] | None = None
        with self._alone():
            self.signer = self._load()
            replace_file(disk, self._audit / PUBLIC_KEY_FILE, self.signer.verifier_key.encode() + b"\n")

    def key(self) -> Key:
        """What the log is checked with."""
        return Key(self.signer.verifier_key, rotations(self._audit))

    def change(self, shard: Shard, why: str, who: Mapping[str, Json]) -> None:
        """Puts a new key in place of this one. From then on both sign, until `finish`. Raises `CannotRotate`."""
        if (self._home / "signing.key").is_symlink():
            raise CannotRotate("signing.key is a link to another file, which cannot be replaced from here")
        shard.sign()
        others = self._shards() - {shard.name}
        with self._others(others) as heads, self._alone():  # in this order: who has a shard's lock waits for this
            if self._shards() - {shard.name} != others:
                raise CannotRotate("another process has just begun to write a shard, with the key as it is")
            heads[shard.name] = (shard.head.size, shard.head.root())
            old = self.signer
            self._disk.unlink(self._home / NEXT)  # it may be in hands that this rotation is to shut out
            fresh = Signer.load(self._home / NEXT, old.gateway).named(old.gateway, old)
            at = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
            note = fresh.note(rotation_text(at, old.verifier_key, fresh.verifier_key, heads)).decode()
            said: dict[str, Json] = {"old": old.verifier_key, "new": fresh.verifier_key, "why": why, "who": dict(who)}
            self._keep(fresh, said | {"signed": note})
        shard.change_key(fresh)
        self.signer, self.unfinished = fresh, said | {"signed": note}

    def finish(self, shard: Shard) -> None:
        """Signs with both keys once more, destroys the old one, and signs with the new one from then on.

        The record of the rotation is durable before. May be done again when it failed.
        """
        if self.unfinished is None:
            return
        shard.sign()
        with self._alone():
            self._write(self.signer, (self._audit / ROTATIONS).read_bytes())  # durable by now, whatever failed before
            if (self._home / NEXT).exists():
                self._destroy()
        self.signer, self.unfinished = self.signer.named(self.signer.gateway), None
        shard.change_key(self.signer)

    def recorded(self, folder: Path) -> bool:
        """Whether a shard has the record of the rotation that is unfinished."""
        if self.unfinished is None:
            return False
        head = rotation_of(str(self.unfinished["signed"])).heads.get(folder.name)
        first = 0 if head is None else head.size
        since = max((int(path.stem) for path in segments(folder) if int(path.stem) <= first), default=0)
        marks = [b'"type":"%b"' % RECORD.encode(), str(self.unfinished["new"]).encode()]
        lines = (line for path in segments(folder) if int(path.stem) >= since for line in whole_lines(path))
        return any(all(mark in line for mark in marks) for line in lines)

    # ── what is on disk ──────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> Signer:
        notes = rotations(self._audit)
        if (self._home / NEXT).exists():
            fresh = self._named(Signer.load(self._home / NEXT), notes)
            if fresh is not None:
                self.unfinished = self._said(fresh.verifier_key)
                return fresh.named(fresh.gateway, self._former(fresh.gateway))
            self._disk.unlink(self._home / NEXT)
        signer = Signer.load(self._home / "signing.key")
        signer = self._named(signer, notes) or signer
        if Key(signer.verifier_key, notes).replaced:
            raise ValueError(f"{self._home / 'signing.key'} was replaced by another key, as {ROTATIONS} says")
        if self._had_another_name(signer):
            raise ValueError(
                f"{self._audit / ROTATIONS} lacks the rotation to the key in use: put it back from a backup"
            )
        return signer

    def _had_another_name(self, signer: Signer) -> bool:
        """Whether `key.pub` has the same key under another name: that of the first key, which a rotation gave it."""
        try:
            known = PublicKey((self._audit / PUBLIC_KEY_FILE).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return False
        return known.name != signer.gateway and known.text == signer.named(known.name).verifier_key

    def _named(self, signer: Signer, notes: list[str]) -> Signer | None:
        """A key under the name that the rotation to it says; `None` when there is none that both keys signed."""
        for note in reversed(notes):
            made = _rotation(note)
            named = signer.named(made.new.name) if made else signer
            if made and named.verifier_key == made.new.text and made.valid():
                return named
        return None

    def _former(self, gateway: str) -> Signer | None:
        """The key that is being replaced, as long as it was not destroyed."""
        try:
            former = Signer.load(self._home / "signing.key", gateway)
        except ValueError:
            return None
        return former if self.unfinished and former.verifier_key == self.unfinished["old"] else None

    def _said(self, new: str) -> dict[str, Json]:
        lines = (self._audit / ROTATIONS).read_text(encoding="utf-8").splitlines()
        said: list[dict[str, Json]] = [json.loads(line) for line in lines]
        return next(each for each in reversed(said) if each.get("new") == new)

    def _keep(self, fresh: Signer, said: Mapping[str, Json]) -> None:
        path = self._audit / ROTATIONS
        line = json.dumps(said).encode() + b"\n"
        try:
            self._write(fresh, (path.read_bytes() if path.exists() else b"") + line)
        except OSError:
            if not path.exists() or not path.read_bytes().endswith(line):
                raise
            # It stands, though perhaps not for good: both keys sign until `finish` has made it durable.

    def _write(self, signer: Signer, lines: bytes) -> None:
        replace_file(self._disk, self._audit / ROTATIONS, lines)
        replace_file(self._disk, self._audit / PUBLIC_KEY_FILE, signer.verifier_key.encode() + b"\n")
        self._disk.sync_folder(self._audit)

    def _destroy(self) -> None:
        """Overwrites the old private key, then gives the new one its name."""
        path = self._home / "signing.key"
        fd = self._disk.open(path, os.O_WRONLY, 0o600)
        try:
            write_all(self._disk, fd, bytes(path.stat().st_size), 0)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(self._home / NEXT, path)
        self._disk.sync_folder(self._home)

    # ── other processes ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time reads or changes the key files of a home."""
        fd = os.open(self._audit, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _shards(self) -> set[str]:
        return {path.parent.name for path in self._audit.glob("*/lock")}

    @contextmanager
    def _others(self, names: set[str]) -> Iterator[dict[str, tuple[int, bytes]]]:
        """Where the other shards stand, to which nobody writes meanwhile: whoever did would sign with the old key."""
        heads: dict[str, tuple[int, bytes]] = {}
        with ExitStack() as locks:
            for folder in (self._audit / name for name in sorted(names)):
                locks.callback(os.close, _lock(folder))
                if not segments(folder) and not (folder / "checkpoint").exists():
                    continue
                try:
                    head = newest_head(folder, self.key())
                except Unprovable as why:
                    raise CannotRotate(f"{why}: see toolgate audit verify") from None
                heads[folder.name] = (head.size, head.root)
            yield heads


def _lock(folder: Path) -> int:
    fd = os.open(folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() < until:
                sleep(_AGAIN)
                continue
            os.close(fd)
            raise CannotRotate(f"another process writes to shard {folder.name}, with the key as it is") from None
        return fd


def _rotation(note: str) -> Rotation | None:
    try:
        return rotation_of(note)
    except ValueError:
        return None
