"""Checkpoints: signed tree heads of a shard (C2SP tlog-checkpoint in a signed-note, Ed25519).

`Signer` holds the gateway's signing key, `Checkpoints` the two files of a shard: `checkpoint`, the newest note, and
`checkpoints`, one JSON line per note ever signed (with the leaf hash of its last record), by which an altered record
can be told from its neighbours. It never signs a head whose records are not durable: that is the writer's order.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.chain import checkpoint_text, signed_note, verifier_key
from gateway.audit.disk import Disk, replace_file, write_all
from gateway.audit.keyfile import secret_file

PUBLIC_KEY_FILE = "key.pub"


class Signer:
    """The gateway's signing key. `gateway` is its name, made from its first public key: no two gateways share one.

    With a `former`, the key that it replaces, both sign.
    """

    def __init__(self, private: Ed25519PrivateKey, gateway: str | None = None, former: Signer | None = None) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw()
        self._former = former
        self.gateway = gateway or f"toolgate-{sha256(self._public).hexdigest()[:12]}"
        self.verifier_key = verifier_key(self.gateway, self._public)

    @classmethod
    def load(cls, path: Path, gateway: str | None = None) -> Signer:
        """Reads `signing.key` (PKCS #8, PEM, 0600), making it if there is none. Raises `OSError`, `ValueError`."""
        key = serialization.load_pem_private_key(secret_file(path, _new_key), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} does not hold an Ed25519 key")
        return cls(key, gateway)

    def named(self, gateway: str, former: Signer | None = None) -> Signer:
        """The same key under the gateway's name, beside the key that it replaces or alone."""
        return Signer(self._private, gateway, former)

    def sign(self, shard: str, size: int, root: bytes) -> bytes:
        """A checkpoint of one shard, as a signed note."""
        return self.note(checkpoint_text(f"{self.gateway}/{shard}", size, root))

    def note(self, text: bytes) -> bytes:
        """A text as a signed note."""
        note = signed_note(text, self.gateway, self._public, self._private.sign(text))
        return note if self._former is None else note + self._former.note(text)[len(text) + 1 :]


class Checkpoints:
    """The checkpoint files of one shard. Methods raise `OSError`."""

    def __init__(self, disk: Disk, folder: Path, signer: Signer) -> None:
        self._disk = disk
        self._folder = folder
        self._signer = signer
        self._history = folder / "checkpoints"

    def publish(self, size: int, root: bytes, last_leaf: bytes) -> None:
        """Signs a head and keeps it; the history is durable first, so it is never behind the newest note."""
        note = self._signer.sign(self._folder.name, size, root)
        entry = json.dumps({"note": note.decode(), "leaf": b64encode(last_leaf).decode()})
        fd = self._disk.open(self._history, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            write_all(self._disk, fd, entry.encode() + b"\n", whole_lines(self._history))
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        replace_file(self._disk, self._folder / "checkpoint", note)


def whole_lines(path: Path) -> int:
    """How many bytes of a file stand in finished lines: the next line goes there, over what a crash left."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
