"""Signed notes, for whoever checks a ledger: keys and what replaced them, checkpoints (C2SP), Ed25519 (RFC 8032).

Part of `verify.py`, which it stands beside: it needs nothing but Python, reads no file and knows no record.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256, sha512

ROTATED = " key rotation"  # after the gateway's name, which has no space in it


@dataclass(frozen=True)
class Head:
    """A tree head that was signed, or claims to be. `leaf` is the hash of its last record, where that is known."""

    size: int
    root: bytes
    note: str
    leaf: bytes | None = None


class PublicKey:
    """One Ed25519 key as a signed-note verifier key: `name+hash+base64`. Raises `ValueError` if it is not one."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.name, digest, encoded = self.text.split("+", 2)
        blob = b64decode(encoded, validate=True)
        self._public = blob[1:]
        self._hash = sha256(self.name.encode() + b"\n" + blob).digest()[:4]
        if (blob[:1], len(blob), self._hash.hex()) != (b"\x01", 33, digest):
            raise ValueError("not an Ed25519 verifier key")

    def signed(self, note: str) -> bool:
        """Whether a note has a valid signature of this key, whatever it says."""
        text, _, signatures = note.rpartition("\n\n")
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


@dataclass(frozen=True)
class Rotation:
    """What a note says that replaces one key of a gateway by another: when, and by shard the last head of the old key.

    Made by `rotation_of`, which does not look at its signatures.
    """

    old: PublicKey
    new: PublicKey
    at: str
    heads: dict[str, Head]
    note: str

    @property
    def text(self) -> str:
        """The part that is signed."""
        return self.note.rpartition("\n\n")[0]

    def valid(self) -> bool:
        """Whether both keys signed it."""
        return self.old.signed(self.note) and self.new.signed(self.note)


def rotation_text(at: str, old: str, new: str, heads: dict[str, tuple[int, bytes]]) -> bytes:
    """What both keys sign: whose key, when, both keys, and by shard the size and root of the last head of the old one.

    No checkpoint can be taken for it: a checkpoint begins with a name and a slash, and has a number below.
    """
    stated = [f"{shard} {size} {b64encode(root).decode()}" for shard, (size, root) in sorted(heads.items())]
    return "".join(f"{line}\n" for line in [old.split("+")[0] + ROTATED, at, old, new, *stated]).encode()


def rotation_of(note: str) -> Rotation:
    """The rotation that a note claims. Raises `ValueError` when it is none."""
    first, at, old, new, *stated = note.rpartition("\n\n")[0].split("\n")
    keys = PublicKey(old), PublicKey(new)
    heads = {}
    for line in stated:
        shard, size, root = line.split(" ")
        text = f"{keys[0].name}/{shard}\n{int(size)}\n{root}\n\n"  # as a checkpoint says it
        heads[shard] = Head(int(size), b64decode(root, validate=True), text)
    if {first} != {each.name + ROTATED for each in keys} or old == new:
        raise ValueError("not a rotation of a key")
    return Rotation(*keys, at, heads, note)


class Key:
    """The public key a ledger is checked with, and every key that is to be trusted because this one is.

    `rotations` are notes of `HOME/audit/rotations`, in any order; what is no rotation, or not signed by both keys, or
    leads nowhere, adds nothing. A key that was replaced is good for what it had signed by then: below the head that the
    rotation names. Raises `ValueError`: the text is no key, or one key was replaced twice, which only a thief does.
    """

    def __init__(self, text: str, rotations: Iterable[str] = ()) -> None:
        pinned = PublicKey(text)
        self.name = pinned.name
        self._pinned = pinned.text
        self._heads: dict[str, list[Head]] = {}  # what trusted rotations name, by shard
        self._keys: dict[str, tuple[PublicKey, dict[str, Head] | None]] = {pinned.text: (pinned, None)}
        claimed = [each for each in map(_claimed, dict.fromkeys(rotations)) if each and each.old.name == self.name]
        self._follow(pinned.text, claimed)
        self._trace(pinned.text, claimed)

    def signed(self, note: str, shard: str) -> bool:
        """Whether a note is a checkpoint of this shard with a valid signature of a trusted key, or is what a trusted
        rotation says of it."""
        text = note.rpartition("\n\n")[0]
        if text.split("\n")[0] != f"{self.name}/{shard}":
            return False
        if note in [head.note for head in self.stated(shard)]:
            return True
        return any(_in_time(text, shard, heads) and key.signed(note) for key, heads in self._keys.values())

    @property
    def replaced(self) -> bool:
        """Whether another key took the place of this one."""
        return self._keys[self._pinned][1] is not None

    def stated(self, shard: str) -> list[Head]:
        """The heads of a shard that trusted rotations name: the log must have them."""
        return self._heads.get(shard, [])

    def shards(self) -> set[str]:
        """The shards that trusted rotations name."""
        return set(self._heads)

    def _follow(self, text: str, claimed: list[Rotation]) -> None:
        """From a key to the one that replaced it, and on."""
        while (step := _only(each for each in claimed if each.old.text == text)) and step.new.text not in self._keys:
            self._trust(step)
            text = step.new.text
            self._keys[text] = (step.new, None)

    def _trace(self, text: str, claimed: list[Rotation]) -> None:
        """From a key to the one that it replaced, and back. Never forward again: a stolen old key makes no new one."""
        while (step := _only(each for each in claimed if each.new.text == text)) and step.old.text not in self._keys:
            self._trust(step)
            text = step.old.text

    def _trust(self, step: Rotation) -> None:
        self._keys[step.old.text] = (step.old, step.heads)
        for shard, head in step.heads.items():
            self._heads.setdefault(shard, []).append(head)


def _claimed(note: str) -> Rotation | None:
    try:
        return rotation_of(note)
    except ValueError:
        return None


def _only(claimed: Iterable[Rotation]) -> Rotation | None:
    """The one of these that both keys signed."""
    valid = {each.text: each for each in claimed if each.valid()}
    if len(valid) > 1:
        raise ValueError("one key was replaced twice: the rotations are of two logs, or the key was stolen")
    return next(iter(valid.values()), None)


def _in_time(text: str, shard: str, heads: dict[str, Head] | None) -> bool:
    """Whether a head is from before its key was replaced. `heads`: where the log stood then, if it was."""
    if heads is None:
        return True
    size = text.split("\n")[1:2]
    return shard in heads and "".join(size).isdecimal() and int(size[0]) <= heads[shard].size


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
