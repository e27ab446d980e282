"""Signed notes, for whoever checks a ledger: the public key, checkpoints (C2SP) and Ed25519 (RFC 8032), written out.

Part of `verify.py`, which it stands beside: it needs nothing but Python, reads no file and knows no record.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256, sha512


@dataclass(frozen=True)
class Head:
    """A tree head that was signed, or claims to be. `leaf` is the hash of its last record, where that is known."""

    size: int
    root: bytes
    note: str
    leaf: bytes | None = None


class Key:
    """The gateway's public key, as a signed-note verifier key: `name+hash+base64`. Raises `ValueError` if it is not."""

    def __init__(self, text: str) -> None:
        self.name, digest, encoded = text.strip().split("+", 2)
        blob = b64decode(encoded, validate=True)
        self._public = blob[1:]
        self._hash = sha256(self.name.encode() + b"\n" + blob).digest()[:4]
        if (blob[:1], len(blob), self._hash.hex()) != (b"\x01", 33, digest):
            raise ValueError("not an Ed25519 verifier key")

    def signed(self, note: str, shard: str) -> bool:
        """Whether a note is a checkpoint of this shard with a valid signature of this key."""
        text, _, signatures = note.rpartition("\n\n")
        if text.split("\n")[0] != f"{self.name}/{shard}":
            return False
        for line in signatures.split("\n")[:-1]:
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            if dash == "\u2014" and name == self.name and self._valid(encoded, text.encode() + b"\n"):
                return True
        return False

    def _valid(self, encoded: str, text: bytes) -> bool:
        try:
            blob = b64decode(encoded, validate=True)
        except ValueError:
            return False
        exact = b64encode(blob).decode() == encoded  # a decoder ignores the last bits
        return exact and blob[:4] == self._hash and ed25519_verify(self._public, text, blob[4:])


def head_of(note: str, leaf: bytes | None = None) -> Head:
    """The head a note claims. Raises `ValueError` when it is not a checkpoint."""
    lines = note.split("\n")
    if len(lines) < 5 or not lines[1].isdecimal():
        raise ValueError("not a checkpoint")
    return Head(int(lines[1]), b64decode(lines[2], validate=True), note, leaf)


_P = 2**255 - 19
_D = -121665 * pow(121666, _P - 2, _P) % _P
_L = 2**252 + 27742317777372353535851937790883648493
_BX = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_BY = 4 * pow(5, _P - 2, _P) % _P
_BASE = (_BX, _BY, 1, _BX * _BY % _P)
_Point = tuple[int, int, int, int]  # extended coordinates


def ed25519_verify(public: bytes, text: bytes, signature: bytes) -> bool:
    """Whether a signature is valid (RFC 8032 §5.1.7). Takes some milliseconds; not constant time: nothing is secret."""
    key, commitment = _point(public), _point(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or key is None or commitment is None or scalar >= _L:
        return False
    challenge = int.from_bytes(sha512(signature[:32] + public + text).digest(), "little") % _L
    left, right = _times(scalar, _BASE), _add(commitment, _times(challenge, key))
    return all((left[i] * right[2] - right[i] * left[2]) % _P == 0 for i in (0, 1))


def _point(octets: bytes) -> _Point | None:
    number = int.from_bytes(octets, "little")
    y, sign = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if len(octets) != 32 or y >= _P or (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, p: _Point) -> _Point:
    q: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            q = _add(q, p)
        p, scalar = _add(p, p), scalar >> 1
    return q
