"""Who may say which key comes next: tampering with a log after rotations, with the rotations themselves, and theft."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint import Signer
from gateway.audit.ledger import open_ledger
from gateway.audit.notes import Key, rotation_text
from gateway.audit.recover import TamperedLog
from gateway.audit.verify import Unreadable, segments, verify
from gateway.upkeep import LedgerUpkeep
from tests.gateway.audit.disks import SMALL, intent, ledger, one, write_calls
from tests.gateway.audit.tampering import KINDS, missed, read_log

ROUNDS = 12  # of each kind


def key(name: str = "gate", former: Signer | None = None) -> Signer:
    """A fresh key of that gateway."""
    return Signer(Ed25519PrivateKey.generate(), name, former)


def step(old: Signer, new: Signer, signed: tuple[bool, bool] = (True, True), size: int = 3) -> str:
    """A note that replaces one key by another, signed by both, or by one of them only."""
    text = rotation_text("2026-01-01T00:00:00Z", old.verifier_key, new.verifier_key, {"w1": (size, bytes(32))})
    notes = [signer.note(text) for signer, does in ((old, signed[0]), (new, signed[1])) if does]
    return (notes[0] + b"".join(note[len(text) + 1 :] for note in notes[1:])).decode()


def good(pinned: Signer, rotations: list[str], *others: Signer, size: int = 9) -> list[bool]:
    """Of each of these keys, whether a head of that size is good for who has pinned one and read those rotations."""
    ring = Key(pinned.verifier_key, rotations)
    return [ring.signed(other.sign("w1", size, bytes(32)).decode(), "w1") for other in others]


def test_one_key_leads_to_all_and_old_ones_end_where_they_were_replaced() -> None:
    """In whatever order the rotations stand, and whichever key is pinned; a key is not good above its last head."""
    a, b, c, other = (key() for _ in range(4))
    rotations = [step(b, c, size=6), step(a, b, size=3)]
    for pinned in (a, b, c):
        assert good(pinned, rotations, a, b, c, other, size=3) == [True, True, True, False]
        assert good(pinned, rotations, a, b, c, other, size=4) == [False, True, True, False]
        assert good(pinned, rotations, a, b, c, other, size=7) == [False, False, True, False]
    assert good(other, rotations, a, b, c, other) == [False, False, False, True]
    assert good(a, rotations[:1], a, b, c) == [True, False, False]
    assert Key(b.verifier_key, rotations).shards() == {"w1"}


@pytest.mark.parametrize("signed", [(True, False), (False, True)])
def test_a_rotation_that_one_key_signed_adds_nothing(signed: tuple[bool, bool]) -> None:
    """Neither the old key alone nor the new one alone says what comes next; nor what came before."""
    a, b = key(), key()
    rotation = step(a, b, signed)
    assert good(a, [rotation], a, b) == [True, False]
    assert good(b, [rotation], a, b) == [False, True]


def test_no_word_of_a_rotation_can_be_changed() -> None:
    """Any character of the note replaced by another: the new key is not trusted by the old one, nor the other way."""
    a, b = key(), key()
    rotation = step(a, b)
    for offset, was in enumerate(rotation):
        changed = rotation[:offset] + ("x" if was != "x" else "y") + rotation[offset + 1 :]
        assert good(a, [changed], b) == good(b, [changed], a, size=2) == [False], offset


def test_a_rotation_is_no_checkpoint_and_no_checkpoint_a_rotation() -> None:
    """What a key signs as one is never good as the other; a rotation of another gateway adds nothing."""
    a, b, foreign = key(), key(), key("other")
    ring = Key(
        a.verifier_key, [a.sign("w1", 3, bytes(32)).decode(), step(foreign, key("other")), "", "\n\n\n", "x\n\n"]
    )
    assert ring.shards() == set()
    for shard in ("w1", "gate key rotation", "", " key rotation"):
        assert not Key(a.verifier_key, [step(a, b)]).signed(step(a, b), shard)
    assert good(a, [step(a, key("other"))], a) == [True]


def test_a_stolen_old_key_makes_no_new_one_for_who_has_the_new_one() -> None:
    """For who has pinned the new key the thief's is unknown; for who has the old one there are two, and it is said."""
    a, b, thief = key(), key(), key()
    rotations = [step(a, b), step(a, thief)]
    assert good(b, rotations, a, b, thief, size=3) == [True, True, False]
    with pytest.raises(ValueError, match="replaced twice"):
        Key(a.verifier_key, rotations)
    assert good(b, [step(a, b), step(b, a)], a, b, size=2) == [True, True]  # round and round, and an end of it


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of several segments over which the key was replaced twice; `KEY-0` to `KEY-2` are the private
    keys, and `PUB-0` to `PUB-2` what was pinned."""
    home = tmp_path_factory.mktemp("rotated")

    async def run() -> None:
        async with ledger(home, tuning=replace(SMALL, segment=12_000, checkpoint_records=7)) as writer:
            for number in range(3):
                if number:
                    await LedgerUpkeep(home, writer).rotate_key("It may be known.", {})
                shutil.copy(home / "signing.key", home / f"KEY-{number}")
                shutil.copy(home / "audit" / "key.pub", home / f"PUB-{number}")
                await write_calls(writer, 20, prefix=f"{number}-")
                await asyncio.gather(*(writer.append(intent(f"x{number}-{each}")) for each in range(12)))

    asyncio.run(run())
    assert len(segments(one(home))) >= 4
    return home


@pytest.fixture
def home(rotated: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    return Path(shutil.copytree(rotated, tmp_path / "home"))


def pinned(home: Path, number: int) -> str:
    """The public key as somebody kept it elsewhere."""
    return (home / f"PUB-{number}").read_text()


def signer(home: Path, number: int) -> Signer:
    """The private key, as a thief has it."""
    return Signer.load(home / f"KEY-{number}", pinned(home, 0).split("+")[0])


def found(home: Path, number: int, *heads: str) -> bool:
    """Whether something is found by who has pinned that key."""
    try:
        return not all(result.ok for result in verify(home / "audit", pinned(home, number), heads))
    except Unreadable:
        return True


def lines(home: Path) -> list[str]:
    """The lines of the file of rotations."""
    return (home / "audit" / "rotations").read_text().splitlines()


def put(home: Path, *said: str) -> None:
    """Writes that file."""
    (home / "audit" / "rotations").write_text("".join(f"{line}\n" for line in said))


@pytest.mark.parametrize("kind", KINDS)
def test_tampering_is_found_after_rotations_too(rotated: Path, tmp_path: Path, kind: str) -> None:
    """Each kind of tampering with the records, on both sides of a rotation: found, and the record named."""
    dice = random.Random(f"rotated {kind}")
    wrong = [missed(rotated, kind, dice, tmp_path) for _ in range(ROUNDS)]
    assert [each for each in wrong if each is not None] == []


def test_heads_of_every_time_are_good_for_every_key(rotated: Path) -> None:
    """Each head of the history, kept elsewhere, stands under each of the three keys."""
    log = read_log(rotated)
    for number in range(3):
        results = verify(rotated / "audit", pinned(rotated, number), [entry.note for entry in log.history[::5]])
        assert [str(result.fault) for result in results] == ["None"]


def _gone(home: Path) -> None:
    (home / "audit" / "rotations").unlink()


def _first_gone(home: Path) -> None:
    put(home, *lines(home)[1:])


def _last_gone(home: Path) -> None:
    put(home, *lines(home)[:1])


@pytest.mark.parametrize(("how", "blind"), [(_gone, {0, 1}), (_first_gone, {0}), (_last_gone, {0, 1})])
def test_rotations_that_are_gone_lead_nowhere(home: Path, how: Callable[[Path], None], blind: set[int]) -> None:
    """Who has pinned a key before the gap cannot check any more, and is told; who has the newest can. No start goes
    on with a log whose name or newest key it cannot account for."""
    how(home)
    assert {number for number in range(3) if found(home, number)} == blind
    if 1 in blind:
        with pytest.raises((TamperedLog, ValueError)):
            open_ledger(home, tuning=SMALL)


@pytest.mark.parametrize("octets", [b"{", b"[]\n", b'{"signed":1}\n', b"\xff\xfe\n", b'{"signed":"\xff"}\n'])
def test_a_file_of_rotations_that_cannot_be_read_is_said(home: Path, octets: bytes) -> None:
    """Exit 2 and a sentence, whichever key is pinned; the gateway does not start."""
    with (home / "audit" / "rotations").open("ab") as file:
        file.write(octets)
    for number in range(3):
        with pytest.raises(Unreadable):
            verify(home / "audit", pinned(home, number))
    with pytest.raises(ValueError, match=r".+"):
        open_ledger(home, tuning=SMALL)


def test_a_rotation_to_a_foreign_key_adds_nothing(home: Path) -> None:
    """Who has the disk and no key appends a rotation that only the foreign key signed, or says another's: the log still
    stands, and the gateway starts; a log signed by the foreign key does not stand."""
    foreign = key(pinned(home, 0).split("+")[0])
    forged = step(signer(home, 2), foreign, (False, True))
    put(home, *lines(home), json.dumps({"signed": forged}))
    assert not any(found(home, number) for number in range(3))
    _resign(home, foreign)
    assert all(found(home, number) for number in range(3))


def test_a_log_that_a_stolen_old_key_signed_does_not_stand(home: Path) -> None:
    """The thief has the disk and the first key. For who has pinned a later one, neither its heads nor its rotation are
    good, and what the second rotation says of the log cannot be cut off; the true rotations out of the way or not."""
    thief = key(pinned(home, 0).split("+")[0])
    genuine = lines(home)
    for signed_by in (signer(home, 0), thief):
        for said in (genuine, [*genuine, json.dumps({"signed": step(signer(home, 0), thief)})], []):
            put(home, *said)
            for size in (5, 50, 200):
                _cut(home, size)
                _resign(home, signed_by)
                assert found(home, 1), size
                assert found(home, 2), size


def test_what_only_a_head_elsewhere_shows(home: Path) -> None:
    """A thief of the first key who puts a rotation of their own in place of the true one deceives whoever has pinned
    that key and nothing else. A head kept elsewhere, of the true key, tells."""
    head = (one(home) / "checkpoint").read_text()
    log, old = read_log(home), signer(home, 0)
    thief = key(old.gateway)
    root = [entry for entry in log.history if entry.size <= 20][-1]
    text = rotation_text(
        "2026-01-01T00:00:00Z", old.verifier_key, thief.verifier_key, {"w1": (root.size, _root(root.note))}
    )
    put(home, json.dumps({"signed": thief.named(old.gateway, old).note(text).decode()}))
    _resign(home, thief, root.size)
    assert not found(home, 0)
    assert found(home, 0, head)


def _root(note: str) -> bytes:
    return b64decode(note.split("\n")[2])


def _cut(home: Path, size: int) -> None:
    log = read_log(home)
    if size < log.size:
        log.cut(size)
        log.put(one(home))


def _resign(home: Path, by: Signer, after: int = 0) -> None:
    """Every head above that size anew, over the log as it is."""
    log = read_log(home)
    log.signer = by
    kept = [entry for entry in log.history if entry.size <= after]
    fresh = []
    for entry in log.history:
        if after < entry.size <= log.size:
            note = by.sign("w1", entry.size, _root(entry.note)).decode()
            leaf = json.loads(entry.line)["leaf"]
            fresh.append(replace(entry, note=note, line=json.dumps({"note": note, "leaf": leaf}).encode()))
    log.history = kept + fresh
    log.put(one(home))


def test_a_rotation_names_where_the_log_stood(home: Path) -> None:
    """The log cut back to before the last rotation, with the heads of then, and no head from elsewhere: found."""
    log = read_log(home)
    log.cut(20)
    log.forget(20)
    log.put(one(home))
    (result,) = verify(home / "audit", pinned(home, 2))
    assert result.fault is not None
    assert result.fault.seq == 20
    shutil.rmtree(one(home))
    (result,) = verify(home / "audit", pinned(home, 2))
    assert (result.shard, result.ok) == ("w1", False)
