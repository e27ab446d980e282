"""Proofs, against RFC 9162 written down in its own recursive definitions; they share no code with what they judge."""

from __future__ import annotations

import random
import tracemalloc
from hashlib import sha256
from itertools import islice

import pytest

from gateway.audit.prove import SpanHashes, consistency, inclusion
from gateway.audit.verify_proof import verify_consistency, verify_inclusion
from tests.gateway.audit.rfc9162 import largest_power_below, mth, path, proof, root_of_old_and_new, root_of_path

SIZES = range(1, 131)
ENTRIES = [b"record %d" % number for number in range(130)]
LEAVES = [sha256(b"\x00" + entry).digest() for entry in ENTRIES]


def ours(spans: list[tuple[int, int]], size: int) -> list[bytes]:
    """The hashes of spans over the first `size` entries, as the one pass finds them."""
    hashes = SpanHashes(spans)
    for leaf in islice(LEAVES, size):
        hashes.add(leaf)
    return [hashes[span] for span in spans]


@pytest.mark.parametrize("size", SIZES)
def test_every_record_of_every_small_log_is_proved_as_the_rfc_says(size: int) -> None:
    """The path is PATH(m, D[n]), it leads to MTH(D[n]) by the recursive definition, and our check agrees."""
    root = mth(ENTRIES[:size])
    for index in range(size):
        hashes = ours(inclusion(index, size), size)
        assert hashes == path(index, ENTRIES[:size])
        assert root_of_path(index, size, LEAVES[index], hashes) == root
        assert verify_inclusion(index, size, LEAVES[index], hashes, root)


@pytest.mark.parametrize("size", [1, 2, 5, 31, 64, 77, 130])
def test_a_record_can_be_asked_for_when_it_comes_by(size: int) -> None:
    """What is to its left is known then, what is to its right comes: the path is the same, for every record at once."""
    for indexes in (*([index] for index in range(size)), range(size)):
        hashes = SpanHashes([(0, size)])
        for index, leaf in enumerate(LEAVES[:size]):
            if index in indexes:
                hashes.watch(inclusion(index, size))
            hashes.add(leaf)
        assert hashes[0, size] == mth(ENTRIES[:size])
        for index in indexes:
            assert [hashes[span] for span in inclusion(index, size)] == path(index, ENTRIES[:size])


@pytest.mark.parametrize("new", range(41))
def test_all_pairs_of_sizes_are_proved_consistent_as_the_rfc_says(new: int) -> None:
    """The proof is PROOF(m, D[n]); both roots come out of it by the recursive definition; our check agrees."""
    new_root = mth(ENTRIES[:new])
    for old in range(new + 1):
        old_root = mth(ENTRIES[:old])
        hashes = ours(consistency(old, new), new)
        assert hashes == (proof(old, ENTRIES[:new]) if old else [])
        if 0 < old < new:
            assert root_of_old_and_new(old, new, old_root, hashes) == (old_root, new_root)
        assert verify_consistency(old, new, old_root, new_root, hashes)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33, 64, 130])
def test_a_wrong_inclusion_proof_is_refused(size: int) -> None:
    """A flipped bit, another index, another size, another order, a hash too many or too few: none is accepted."""
    dice = random.Random(size)
    root = mth(ENTRIES[:size])
    for index in range(size):
        hashes = path(index, ENTRIES[:size])
        for wrong in damaged(hashes, dice):
            assert not verify_inclusion(index, size, LEAVES[index], wrong, root), (index, wrong)
        assert not verify_inclusion(index, size, flipped(LEAVES[index], dice), hashes, root)
        assert not verify_inclusion(index, size, LEAVES[index], hashes, flipped(root, dice))
        for other in {*range(-1, size + 2)} - {index}:
            assert not verify_inclusion(other, size, LEAVES[index], hashes, root), (index, other)


@pytest.mark.parametrize("size", range(1, 41))
def test_a_proof_does_not_hold_against_the_tree_of_another_size(size: int) -> None:
    """With the root that another size really has, no path of this size is accepted, in either direction."""
    for other in {*range(41)} - {size}:
        root = mth(ENTRIES[:other])
        for index in range(size):
            hashes = path(index, ENTRIES[:size])
            assert not verify_inclusion(index, other, LEAVES[index], hashes, root)
            assert not verify_inclusion(index, size, LEAVES[index], hashes, root)


@pytest.mark.parametrize("new", [2, 3, 4, 7, 8, 13, 40])
def test_a_wrong_consistency_proof_is_refused(new: int) -> None:
    """A flipped bit, other sizes with their true roots, exchanged roots, another order: none is accepted."""
    dice = random.Random(new)
    new_root = mth(ENTRIES[:new])
    for old in range(1, new):
        old_root = mth(ENTRIES[:old])
        hashes = proof(old, ENTRIES[:new])
        for wrong in damaged(hashes, dice):
            assert not verify_consistency(old, new, old_root, new_root, wrong), (old, wrong)
        assert not verify_consistency(old, new, flipped(old_root, dice), new_root, hashes)
        assert not verify_consistency(old, new, old_root, flipped(new_root, dice), hashes)
        assert not verify_consistency(old, new, new_root, old_root, hashes)
        assert not verify_consistency(new, old, new_root, old_root, hashes)
        assert not verify_consistency(old, 2 * new + 1, old_root, new_root, hashes)  # a tree of one level more
        for other in {*range(new + 1)} - {old}:
            assert not verify_consistency(other, new, mth(ENTRIES[:other]), new_root, hashes), (old, other)
    assert not verify_consistency(new, new, old_root, new_root, [])
    assert not verify_consistency(0, new, flipped(mth([]), dice), new_root, [])


def test_a_tree_with_another_record_below_is_not_consistent() -> None:
    """For every pair, and any one record of the old tree exchanged, the true proof of the new one does not hold."""
    for new in range(2, 25):
        for old in range(1, new):
            for index in range(old):
                forged = [*ENTRIES[:index], b"forged", *ENTRIES[index + 1 : old]]
                hashes = proof(old, ENTRIES[:new])
                assert not verify_consistency(old, new, mth(forged), mth(ENTRIES[:new]), hashes)


def damaged(hashes: list[bytes], dice: random.Random) -> list[list[bytes]]:
    """Ways in which a list of hashes is wrong."""
    wrong = [[*hashes, bytes(32)], [bytes(32), *hashes], [*hashes, *hashes[-1:], bytes(32)]]
    for number, octets in enumerate(hashes):
        wrong.append([*hashes[:number], flipped(octets, dice), *hashes[number + 1 :]])
        wrong.append([*hashes[:number], *hashes[number + 1 :]])
        if number:
            wrong.append([*hashes[: number - 1], octets, hashes[number - 1], *hashes[number + 1 :]])
    return wrong


def flipped(octets: bytes, dice: random.Random) -> bytes:
    """With one bit changed."""
    bit = dice.randrange(len(octets) * 8)
    return bytes(octet ^ (1 << bit % 8 if number == bit // 8 else 0) for number, octet in enumerate(octets))


def test_impossible_proofs_are_not_made() -> None:
    """No path for a record outside the tree, none from a larger tree to a smaller, none for a span not asked for."""
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match="no record"):
            inclusion(index, size)
    with pytest.raises(ValueError, match="no beginning"):
        consistency(4, 3)
    hashes = SpanHashes([(0, 4)])
    hashes.add(LEAVES[0])
    with pytest.raises(KeyError):
        hashes[0, 4]


def test_memory_does_not_grow_with_the_log() -> None:
    """300,000 leaves go by, and not 100 KiB are held at any time."""
    size, index = 300_000, 123_456
    tracemalloc.start()
    hashes = SpanHashes([(0, size), *inclusion(index, size), *consistency(index, size)])
    for _ in range(size):
        hashes.add(LEAVES[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = [hashes[span] for span in inclusion(index, size)]
    assert verify_inclusion(index, size, LEAVES[0], found, hashes[0, size])
    assert peak < 100 << 10


def test_a_proof_of_ten_million_records_is_small() -> None:
    """24 hashes at most, wherever the record stands; largest power of two below, as a cross-check of the halves."""
    assert max(len(inclusion(index, 10_000_000)) for index in range(0, 10_000_000, 99_991)) <= 24
    assert inclusion(9_999_999, 10_000_000)[-1] == (0, largest_power_below(10_000_000))
