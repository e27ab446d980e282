"""Merkle tree hashes (RFC 9162 §2.1) and checkpoint texts (C2SP tlog-checkpoint, signed-note) over record lines.

Pure: bytes in, bytes out. It never reads a file, a clock or a key; `checkpoint.py` signs and keeps.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
FIRST_PREV = "0" * 64
_PIECE = 2000


def leaf_hash(line: bytes) -> bytes:
    """The leaf of one record: SHA-256(0x00 ‖ the exact bytes of the line, without its newline)."""
    # In pieces: from 2047 bytes on, hashlib gives up the interpreter lock, which costs a thread switch per record.
    whole = sha256(b"\x00" + line[:_PIECE])
    for at in range(_PIECE, len(line), _PIECE):
        whole.update(line[at : at + _PIECE])
    return whole.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """An inner node: SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


class Range:
    """A compact range: the roots of the full subtrees that make up the first `size` leaves, largest first.

    It grows at the right only, in amortized constant time, and holds at most one hash per bit of `size`.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        """Takes up where another range was. Raises `ValueError` when `peaks` cannot belong to `size`."""
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError("a compact range has one hash per bit set in its size")

    def append(self, leaf: bytes) -> None:
        """Adds one leaf hash."""
        peaks, size = self.peaks, self.size
        while size & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The Merkle tree hash of the leaves so far."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def checkpoint_text(origin: str, size: int, root: bytes) -> bytes:
    """The signed part of a checkpoint: origin, tree size in decimal, root hash in base64, a newline after each."""
    return f"{origin}\n{size}\n{b64encode(root).decode()}\n".encode()


def key_hash(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a signed note names an Ed25519 key (signature type 0x01)."""
    return sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]


def signed_note(text: bytes, name: str, public_key: bytes, signature: bytes) -> bytes:
    """A text with one Ed25519 signature line below it, as C2SP signed-note has it."""
    blob = b64encode(key_hash(name, public_key) + signature).decode()
    return text + f"\n\u2014 {name} {blob}\n".encode()


def verifier_key(name: str, public_key: bytes) -> str:
    """The public key as one line: name, key hash in hex, and base64 of 0x01 ‖ key, joined with `+`."""
    return f"{name}+{key_hash(name, public_key).hex()}+{b64encode(bytes([1]) + public_key).decode()}"
