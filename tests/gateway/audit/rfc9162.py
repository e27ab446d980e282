"""RFC 9162 §2.1 in its own recursive definitions, word for word, over the entries themselves. Nothing of ours is used.

Proofs are judged recursively too: the tree is walked down to the leaf, and built up again from the hashes of the proof.
"""

from __future__ import annotations

from hashlib import sha256


def largest_power_below(n: int) -> int:
    """k, the largest power of two smaller than n (k < n <= 2k)."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def node(left: bytes, right: bytes) -> bytes:
    """HASH(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def mth(entries: list[bytes]) -> bytes:
    """MTH(D_n), §2.1.1."""
    n = len(entries)
    if n == 0:
        return sha256().digest()
    if n == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = largest_power_below(n)
    return node(mth(entries[:k]), mth(entries[k:]))


def path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH(m, D_n), §2.1.3.1."""
    n = len(entries)
    if n == 1:
        return []
    k = largest_power_below(n)
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def proof(m: int, entries: list[bytes]) -> list[bytes]:
    """PROOF(m, D_n), §2.1.4.1."""
    return subproof(m, entries, True)


def subproof(m: int, entries: list[bytes], b: bool) -> list[bytes]:
    """SUBPROOF(m, D_n, b), §2.1.4.1; b says whether the subtree is the whole of the old one."""
    n = len(entries)
    if m == n:
        return [] if b else [mth(entries)]
    k = largest_power_below(n)
    if m <= k:
        return [*subproof(m, entries[:k], b), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


def root_of_path(m: int, n: int, leaf: bytes, hashes: list[bytes]) -> bytes:
    """The root that PATH(m, D_n) leads to from the leaf: its definition, read backwards."""
    if n == 1:
        assert hashes == []
        return leaf
    k = largest_power_below(n)
    if m < k:
        return node(root_of_path(m, k, leaf, hashes[:-1]), hashes[-1])
    return node(hashes[-1], root_of_path(m - k, n - k, leaf, hashes[:-1]))


def root_of_old_and_new(m: int, n: int, old_root: bytes, hashes: list[bytes], b: bool = True) -> tuple[bytes, bytes]:
    """The roots of the old and the new subtree that SUBPROOF(m, D_n, b) leads to: its definition, read backwards."""
    if m == n:
        assert len(hashes) == (0 if b else 1)
        root = old_root if b else hashes[0]
        return root, root
    k = largest_power_below(n)
    if m <= k:
        old, new = root_of_old_and_new(m, k, old_root, hashes[:-1], b)
        return old, node(new, hashes[-1])
    old, new = root_of_old_and_new(m - k, n - k, old_root, hashes[:-1], False)
    return node(hashes[-1], old), node(hashes[-1], new)
