"""Archived segments: what stays proves the same, whatever is done to it is found, and no kill loses a record."""

from __future__ import annotations

import asyncio
import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.audit import query
from gateway.audit.archive import NotArchived, copy, due, not_found
from gateway.audit.compare import compare
from gateway.audit.disk import OsDisk
from gateway.audit.notes import Key
from gateway.audit.prove import proof_file, prove_call, read_key
from gateway.audit.search import search
from gateway.audit.verify import ShardResult, segments, verify, whole_lines
from gateway.audit.verify_proof import check
from gateway.ledger_ports import Moved, Whose
from gateway.model import Refusal
from gateway.upkeep import LedgerUpkeep
from gateway.wanted import Wanted
from tests.gateway.audit.archives import APART, BEGIN, WHO, Killed, MortalDisk, archive, dice, large, write_aged
from tests.gateway.audit.disks import intent, ledger, one, outcome, verified, write_calls
from tests.gateway.audit.rfc9162 import mth


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `home`, from which all but the end was archived, `elsewhere`, and `before`, a copy of `home`."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "elsewhere").mkdir()
    write_aged(folder / "home")
    shutil.copytree(folder / "home", folder / "before")
    moved = archive(folder / "home", folder / "elsewhere")
    assert moved is not None
    assert (moved.first, len(moved.digests)) == (0, 5)
    return folder


@pytest.fixture
def place(kept: Path, tmp_path: Path) -> Path:
    """A copy of it to do something to."""
    return shutil.copytree(kept, tmp_path / "place")


def checked(place: Path, elsewhere: bool = False) -> ShardResult:
    """What verification says of the only shard."""
    (result,) = verify(place / "home" / "audit", archive=place / "elsewhere" if elsewhere else None)
    return result


def leaves(place: Path) -> list[Path]:
    """The files of leaf hashes."""
    return sorted(one(place / "home").glob("*.leaves"))


def test_what_stays_are_the_leaf_hashes_of_the_rfc(kept: Path) -> None:
    """32 bytes each, SHA-256(0x00 ‖ line), and with the lines that are here they make the root that is signed."""
    lines = []
    for path in segments(kept / "elsewhere" / "w1"):
        mine = list(whole_lines(path))
        lines += mine
        wanted = b"".join(sha256(b"\x00" + line).digest() for line in mine)
        assert (one(kept / "home") / path.name).with_suffix(".leaves").read_bytes() == wanted
        assert not (one(kept / "home") / path.name).exists()
    lines += [line for path in segments(one(kept / "home")) for line in whole_lines(path)]
    assert b64decode((one(kept / "home") / "checkpoint").read_text().split("\n")[2]) == mth(lines)


def test_the_archived_part_is_proved_and_counted(kept: Path) -> None:
    """Without the lines it is said how many are elsewhere; with them all is checked. The record says where they are."""
    told = checked(kept)
    (said,) = [record for record in query.records(kept / "home") if record["type"] == "log.archived"]
    assert (told.ok, told.archived) == (True, int(str(said["last"])) + 1)
    assert f" archived={told.archived} " in str(told)
    assert said["to"] == str(kept / "elsewhere" / "w1")
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in segments(kept / "elsewhere" / "w1")}
    assert said["sha256"] == digests
    whole = checked(kept, elsewhere=True)
    assert (whole.ok, whole.archived, whole.root, whole.records) == (True, 0, told.root, told.records)


def test_segments_copied_back_are_a_log_as_it_was(place: Path) -> None:
    """Lines that are here are checked, whatever else stands beside them; a part of them too."""
    for number, path in enumerate(segments(place / "elsewhere" / "w1"), 1):
        shutil.copy(path, one(place / "home"))
        here = sum(1 for each in segments(one(place / "home"))[:number] for _ in whole_lines(each))
        assert (checked(place).ok, checked(place).archived) == (True, checked(place).archived)
        assert checked(place).archived < checked(place).records - here + 1
    assert checked(place).archived == 0


def _flip(paths: list[Path], throw: Callable[[int], int]) -> int:
    path = paths[throw(len(paths))]
    octets = bytearray(path.read_bytes())
    at = throw(len(octets))
    octets[at] ^= 1 << throw(8)
    path.write_bytes(octets)
    return int(path.stem) + at // 32


def _drop(paths: list[Path], throw: Callable[[int], int]) -> int:
    path = paths[throw(len(paths))]
    octets = path.read_bytes()
    at = throw(len(octets) // 32)
    path.write_bytes(octets[: 32 * at] + octets[32 * at + 32 :])
    return int(path.stem) + at


def _reorder(paths: list[Path], throw: Callable[[int], int]) -> int:
    path = paths[throw(len(paths))]
    octets = path.read_bytes()
    at = throw(len(octets) // 32 - 1)
    here, there = octets[32 * at : 32 * at + 32], octets[32 * at + 32 : 32 * at + 64]
    path.write_bytes(octets[: 32 * at] + there + here + octets[32 * at + 64 :])
    return int(path.stem) + at


def _insert(paths: list[Path], throw: Callable[[int], int]) -> int:
    path = paths[throw(len(paths))]
    octets = path.read_bytes()
    at = throw(len(octets) // 32 + 1)
    path.write_bytes(octets[: 32 * at] + bytes([throw(256)]) * 32 + octets[32 * at :])
    return int(path.stem) + at


def _cut(paths: list[Path], throw: Callable[[int], int]) -> int:
    path = paths[throw(len(paths))]
    octets = path.read_bytes()
    at = throw(len(octets))
    path.write_bytes(octets[:at])
    return int(path.stem) + at // 32


def _swap(paths: list[Path], throw: Callable[[int], int]) -> int:
    first = throw(len(paths) - 1)
    a, b = paths[first].read_bytes(), paths[first + 1].read_bytes()
    paths[first].write_bytes(b)
    paths[first + 1].write_bytes(a)
    return int(paths[first].stem)


def _remove(paths: list[Path], throw: Callable[[int], int]) -> int:
    path = paths[throw(len(paths))]
    path.unlink()
    return int(path.stem)


@pytest.mark.parametrize("tamper", [_flip, _drop, _reorder, _insert, _cut, _swap, _remove])
def test_no_leaf_hash_is_altered_unseen(
    kept: Path, tmp_path: Path, tamper: Callable[[list[Path], Callable[[int], int]], int]
) -> None:
    """Twenty times each: the finding names a record no later than the altered one, after the last head that agrees."""
    throws = dice()
    history = (one(kept / "home") / "checkpoints").read_text().splitlines()
    sizes = [int(json.loads(line)["note"].split("\n")[1]) for line in history]
    for number in range(20):
        place = shutil.copytree(kept, tmp_path / str(number))
        altered = tamper(leaves(place), throws.randrange)
        told = checked(place)
        assert not told.ok
        assert told.fault is not None
        agrees = max(size for size in sizes if size <= altered)
        assert agrees <= told.fault.seq <= altered, (told, altered)


def test_a_segment_that_is_gone_without_its_leaf_hashes_is_missed(kept: Path, tmp_path: Path) -> None:
    """As before there was an archive: the log does not go on there."""
    home = shutil.copytree(kept / "before", tmp_path / "home")
    gone = segments(one(home))[1]
    gone.unlink()
    (told,) = verify(home / "audit")
    assert not told.ok
    assert told.fault is not None
    assert told.fault.seq == int(gone.stem)


def test_a_segment_is_not_archived_without_a_record_of_it(kept: Path, tmp_path: Path) -> None:
    """Whoever removes lines and leaves their true hashes is found: the log itself has to say that they went."""
    home = shutil.copytree(kept / "before", tmp_path / "home")
    first = segments(one(home))[0]
    shutil.copy((one(kept / "home") / first.name).with_suffix(".leaves"), one(home))
    (told,) = verify(home / "audit")
    assert (told.ok, told.archived) == (True, 0)
    first.unlink()
    (told,) = verify(home / "audit")
    assert not told.ok
    assert told.fault is not None
    assert (told.fault.seq, "no record says" in told.fault.reason) == (0, True)


def test_a_line_altered_in_the_archive_is_named(place: Path) -> None:
    """With the archive at hand its lines are checked like those of the log."""
    path = segments(place / "elsewhere" / "w1")[2]
    octets = path.read_bytes()
    path.write_bytes(octets.replace(b'"call_id":"p2c3"', b'"call_id":"p2c9"', 1))
    assert checked(place).ok
    told = checked(place, elsewhere=True)
    lines = list(whole_lines(path))
    altered = next(number for number, line in enumerate(lines) if line not in octets)
    assert told.fault is not None
    assert told.fault.seq == int(path.stem) + altered


def test_no_kill_loses_a_record_or_leaves_a_log_that_does_not_verify(kept: Path, tmp_path: Path) -> None:
    """Killed before each step in turn: every line is here or there, the log verifies, and doing it again ends it."""
    wanted = [line for path in segments(one(kept / "before")) for line in whole_lines(path)]
    killed = True
    steps = 0
    while killed:
        place = tmp_path / str(steps)
        (place / "elsewhere").mkdir(parents=True)
        home = shutil.copytree(kept / "before", place / "home")
        try:
            archive(home, place / "elsewhere", disk=MortalDisk(steps))
            killed = False
        except Killed:
            verified(home)
            here = {path.name: path for path in segments(place / "elsewhere" / "w1")}
            here |= {path.name: path for path in segments(one(home))}
            lines = [line for name in sorted(here) for line in whole_lines(here[name])]
            assert lines[: len(wanted)] == wanted
            archive(home, place / "elsewhere")
        assert (checked(place).ok, checked(place).archived) == (True, int(segments(one(home))[0].stem))
        assert checked(place, elsewhere=True).ok
        shutil.rmtree(place)
        steps += 1
    assert steps > 30


def test_proofs_go_on_over_what_was_archived(kept: Path) -> None:
    """A call that is here is proved to an outsider; an old head is a beginning of the log; what went is not claimed."""
    home, key = kept / "home", read_key(kept / "home" / "audit")
    document = proof_file(prove_call(home / "audit", "last1"), key)
    assert [finding.reason for finding in check(json.loads(json.dumps(document)), key)] == [None, None]
    assert prove_call(home / "audit", "p1c1") == []
    old = (one(kept / "before") / "checkpoint").read_text()
    told = compare(home / "audit", old, None, Key(key))
    assert told.fault is None
    assert told.types["log.archived"] == 1
    first = json.loads((one(home) / "checkpoints").read_text().split("\n")[0])["note"]
    assert compare(home / "audit", first, None, Key(key)).types["archived"] > 100


def test_what_is_not_here_says_so(kept: Path) -> None:
    """Nothing is made up: the call is not found, and it is said where archived records are."""
    home = kept / "home"
    assert query.find_call(home, "p0c0") == []
    said = not_found(home, "p0c0")
    assert "no record of p0c0" in said
    assert f"w1:0 to w1:{checked(kept).archived - 1} in {kept / 'elsewhere' / 'w1'}" in said
    assert not_found(kept / "before", "p9c9") == "no record of p9c9"


def test_an_index_made_before_finds_what_is_left(place: Path) -> None:
    """Whether it was made before or after, it gives the records that are here."""
    home = shutil.copytree(place / "before", place / "indexed")
    wanted = Wanted(type="call.*")
    everything = search(home, wanted, 1000, None)
    archive(home, place / "elsewhere")
    left = search(home, wanted, 1000, None)
    assert len(everything) > len(left) > 0
    assert left == [record for record in query.records(home) if str(record["type"]).startswith("call.")]
    assert left == everything[-len(left) :]


def test_the_log_goes_on(place: Path) -> None:
    """It is opened, recovered and written as before, and more of it can be archived later."""

    async def write() -> None:
        async with ledger(place / "home") as writer:
            await write_calls(writer, 5, prefix="new")

    asyncio.run(write())
    before = checked(place).archived
    moved = archive(place / "home", place / "elsewhere", before=9e9)
    assert moved is not None
    assert moved.first == before
    assert checked(place).archived == moved.last + 1 > before
    assert checked(place, elsewhere=True).ok
    verified(place / "home")


def test_only_what_is_old_goes(kept: Path, tmp_path: Path) -> None:
    """A segment goes when the next one was begun before then, and every one before it does."""
    home = shutil.copytree(kept / "before", tmp_path / "home")
    assert [len(due(home, BEGIN + hours * APART).sealed) for hours in (0.5, 1.5, 2.5, 99)] == [0, 1, 2, 5]


def test_a_call_whose_end_nobody_knows_keeps_its_segment(tmp_path: Path) -> None:
    """In doubt, it keeps the segment of its intent and all after it here, until somebody says how it ended."""

    async def write(work: str) -> None:
        async with ledger(tmp_path, clock=lambda: BEGIN) as writer:
            if work == "begin":
                await write_calls(writer, 3)
                await writer.append(intent("d1"))
            else:
                await LedgerUpkeep(tmp_path, writer).resolve("d1", "done", "Seen.", WHO)

    asyncio.run(write("begin"))
    asyncio.run(write("resolve"))
    settled = due(tmp_path, 9e9)
    assert (len(settled.sealed), settled.kept_by) == (1, None)

    async def doubt() -> None:
        async with ledger(tmp_path) as writer:
            await writer.append(intent("d2"))

    asyncio.run(doubt())
    asyncio.run(_reopen(tmp_path))
    found = due(tmp_path, 9e9)
    assert found.kept_by == "d2"
    assert found.sealed[0].path == segments(one(tmp_path))[0]
    assert all(segment.end <= int(str(query.in_doubt(tmp_path)[0]["intent"])) for segment in found.sealed)


async def _reopen(home: Path) -> None:
    async with ledger(home) as writer:
        await writer.append(intent("e1"))
        await writer.append(outcome("e1"))


def test_an_altered_log_is_not_archived(kept: Path, tmp_path: Path) -> None:
    """What cannot be proved stays where it is."""
    home = shutil.copytree(kept / "before", tmp_path / "home")
    path = segments(one(home))[0]
    path.write_bytes(path.read_bytes().replace(b"p0c1", b"p0c9", 1))
    with pytest.raises(NotArchived, match="does not verify"):
        due(home, 9e9)


def test_nothing_is_written_over(kept: Path, tmp_path: Path) -> None:
    """Another file of that name in the archive is left alone, and the segment stays."""
    home = shutil.copytree(kept / "before", tmp_path / "home")
    segment = due(home, 9e9).sealed[0]
    (tmp_path / "elsewhere" / "w1").mkdir(parents=True)
    there = tmp_path / "elsewhere" / "w1" / segment.path.name
    there.write_bytes(b"of another gateway\n")
    with pytest.raises(NotArchived, match="says something else"):
        copy(segment, tmp_path / "elsewhere", OsDisk())
    assert there.read_bytes() == b"of another gateway\n"
    assert segment.path.exists()


def test_only_what_was_copied_is_put_on_record(kept: Path, tmp_path: Path) -> None:
    """Whoever writes the record looks: other digests, other numbers, or no leaf hashes are refused."""
    home = shutil.copytree(kept / "before", tmp_path / "home")
    (tmp_path / "elsewhere").mkdir()
    segment = due(home, 9e9).sealed[0]

    async def refused(moved: Moved) -> bool:
        async with ledger(home) as writer:
            try:
                await LedgerUpkeep(home, writer).archived(moved, WHO)
            except Refusal as refusal:
                return refusal.problem.code == "malformed"
            return False

    digest = sha256(segment.path.read_bytes()).hexdigest()
    right = Moved("w1", 0, segment.end - 1, {segment.path.name: digest}, "/mnt")
    assert asyncio.run(refused(right))
    copy(segment, tmp_path / "elsewhere", OsDisk())
    assert asyncio.run(refused(Moved("w1", 0, segment.end, {segment.path.name: digest}, "/mnt")))
    assert asyncio.run(refused(Moved("w1", 0, segment.end - 1, {segment.path.name: "0" * 64}, "/mnt")))
    assert asyncio.run(refused(Moved("../w1", 0, segment.end - 1, {segment.path.name: digest}, "/mnt")))
    assert not asyncio.run(refused(right))


def test_erasing_reaches_what_was_archived(tmp_path: Path) -> None:
    """By agent, although no record of it is here any more: its key goes, and its blob."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def write() -> None:
        async with ledger(home, clock=lambda: BEGIN) as writer:
            await writer.append(large("u_1", "c1"))

    asyncio.run(write())
    asyncio.run(_reopen(home))
    assert archive(home, elsewhere, before=9e9) is not None
    assert query.find_call(home, "c1") == []
    (blob,) = (home / "audit" / "blobs").iterdir()

    async def erase() -> None:
        async with ledger(home) as writer:
            done = await LedgerUpkeep(home, writer).erase(Whose(agent="dev"), "Asked to.", WHO)
            assert (done.sessions, done.keys, done.blobs) == (1, 1, 1)

    asyncio.run(erase())
    assert not blob.exists()
    verified(home)
