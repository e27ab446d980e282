"""Tree hashes, against a Merkle tree written down from RFC 9162 itself, and checkpoint notes."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.chain import Range, checkpoint_text, key_hash, leaf_hash, signed_note, verifier_key
from gateway.audit.notes import Key, ed25519_verify
from gateway.audit.verify import segments, whole_lines
from tests.gateway.audit.disks import ledger, one, verified, write_calls


def mth(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1, word for word: k is the largest power of two smaller than n."""
    n = len(leaves)
    if n == 0:
        return sha256().digest()
    if n == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


@pytest.mark.parametrize("size", [*range(70), 1000])
def test_range_root_is_the_rfc_root(size: int) -> None:
    """The compact range has the root RFC 9162 defines, for every size up to 69 and for 1,000."""
    entries = [b"record %d" % number for number in range(size)]
    tree = Range()
    for entry in entries:
        tree.append(leaf_hash(entry))
    assert tree.root() == mth(entries)
    assert tree.size == size


@given(first=st.lists(st.binary(), max_size=40), more=st.lists(st.binary(), max_size=40))
def test_range_goes_on_from_its_peaks(first: list[bytes], more: list[bytes]) -> None:
    """A range taken up from its size and peaks grows to the same root."""
    tree = Range()
    for entry in first:
        tree.append(leaf_hash(entry))
    again = Range(tree.size, tree.peaks)
    for entry in more:
        again.append(leaf_hash(entry))
    assert again.root() == mth(first + more)


def test_range_refuses_peaks_of_another_size() -> None:
    """Peaks that cannot belong to a size are refused."""
    with pytest.raises(ValueError, match="one hash per bit"):
        Range(3, [bytes(32)])


def test_root_on_disk_is_the_rfc_root(tmp_path: Path) -> None:
    """The root that verification prints is the RFC root of the exact lines on disk."""

    async def run() -> None:
        async with ledger(tmp_path) as writer:
            await write_calls(writer, 20)

    asyncio.run(run())
    lines = [line for path in segments(one(tmp_path)) for line in whole_lines(path)]
    assert verified(tmp_path)[0].root == mth(lines).hex()
    note = (one(tmp_path) / "checkpoint").read_text().split("\n")
    assert int(note[1]) == len(lines)
    assert b64decode(note[2]) == mth(lines)


def test_note_is_signed_as_c2sp_says() -> None:
    """A note is text, empty line, em dash, key name, and base64 of key hash and signature over the text."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    text = checkpoint_text("gate/w1", 7, bytes(32))
    assert text == b"gate/w1\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    note = signed_note(text, "gate", public, private.sign(text)).decode()
    head, _, last = note.partition("\n\n")
    dash, name, blob = last.strip().split(" ")
    assert (head + "\n", dash, name) == (text.decode(), "\u2014", "gate")
    raw = b64decode(blob)
    assert raw[:4] == sha256(b"gate\n\x01" + public).digest()[:4] == key_hash("gate", public)
    Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], text)
    assert Key(verifier_key("gate", public)).signed(note, "w1")
    assert not Key(verifier_key("gate", public)).signed(note, "w2")


@settings(max_examples=15, deadline=None)
@given(text=st.binary(max_size=200), flip=st.integers(0, 96 * 8 - 1))
def test_plain_ed25519_agrees_with_the_library(text: bytes, flip: int) -> None:
    """The arithmetic written out for stand-alone use accepts a signature, and none with one bit changed."""
    private = Ed25519PrivateKey.generate()
    public, signature = private.public_key().public_bytes_raw(), private.sign(text)
    assert ed25519_verify(public, text, signature)
    both = bytearray(public + signature)
    both[flip // 8] ^= 1 << flip % 8
    assert not ed25519_verify(bytes(both[:32]), text, bytes(both[32:]))


def test_ed25519_knows_the_vector_of_the_rfc() -> None:
    """Test 2 of RFC 8032 §7.1."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert ed25519_verify(public, b"\x72", signature)
    assert not ed25519_verify(public, b"\x73", signature)
