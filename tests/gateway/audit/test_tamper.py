"""Every alteration below the last checkpoint is found, and the record it was done to is named."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.audit import verify as verify_module
from gateway.audit.ledger import open_ledger
from gateway.audit.notes import Key
from gateway.audit.recover import TamperedLog
from gateway.audit.verify import ShardResult, segments, verify
from gateway.ports import Line
from tests.gateway.audit.disks import SMALL, intent, ledger, one, verified, write_calls
from tests.gateway.audit.tampering import KINDS, missed, write_log

CALLS = 60


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of several segments and many checkpoints, with one blob."""
    home = tmp_path_factory.mktemp("written")

    async def run() -> None:
        async with ledger(home, tuning=replace(SMALL, segment=20_000, checkpoint_records=7)) as writer:
            await write_calls(writer, CALLS)
            await asyncio.gather(*(writer.append(intent(f"x{number}")) for number in range(30)))
            await writer.append(Line("admin.note", {}, {"text": "x" * 70_000}, "s1", "t1"))

    asyncio.run(run())
    assert len(segments(one(home))) >= 3
    verified(home)
    return home


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    shutil.copytree(written / "audit", tmp_path / "audit")
    for name in ("signing.key", "master.key"):
        shutil.copy(written / name, tmp_path / name)
    return tmp_path


def bad(home: Path) -> ShardResult:
    """The finding on the one shard."""
    return verify(home / "audit")[0]


def seq_at(octets: bytes, first: int, offset: int) -> int:
    """The record a byte of a segment belongs to: its newline is the record's own."""
    return first + octets[:offset].count(b"\n")


def test_any_flipped_byte_is_found_and_its_record_named(home: Path) -> None:
    """220 random bytes, each changed to another random value, alone: the finding names the record, file and line."""
    dice = random.Random(20_26)
    paths = segments(one(home))
    for _ in range(220):
        path = dice.choice(paths)
        octets = path.read_bytes()
        offset = dice.randrange(len(octets))
        changed = bytearray(octets)
        changed[offset] = dice.choice([octet for octet in range(256) if octet != octets[offset]])
        path.write_bytes(changed)
        result = bad(home)
        path.write_bytes(octets)
        seq = seq_at(octets, int(path.stem), offset)
        assert not result.ok, (path, offset)
        assert result.fault is not None
        found = (result.fault.seq, result.fault.segment, result.fault.line)
        assert found == (seq, path.name, seq - int(path.stem) + 1), (str(result), offset, changed[offset])
    verified(home)


@pytest.mark.parametrize("value", [0, 10, 32, 48, 57, 34, 125, 255])
def test_every_byte_of_two_records_changed_to_awkward_values(home: Path, value: int) -> None:
    """NUL, newline, space, digits, quote, brace: wherever in a record, and in its newline, its own seq is named."""
    path = segments(one(home))[1]
    octets = path.read_bytes()
    starts = [0] + [number + 1 for number, octet in enumerate(octets) if octet == 10]
    places = [*range(starts[3], starts[3] + 190, 7), *range(starts[4] - 12, starts[4] + 6), len(octets) - 30]
    for offset in [*places, len(octets) - 1]:
        if octets[offset] == value:
            continue
        path.write_bytes(octets[:offset] + bytes([value]) + octets[offset + 1 :])
        fault = bad(home).fault
        assert fault is not None
        assert fault.seq == seq_at(octets, int(path.stem), offset), (offset, fault)
    path.write_bytes(octets)


def test_the_first_and_the_very_last_record_are_told(home: Path) -> None:
    """Records with no neighbour on one side are named as surely as the others."""
    for path, number in ((segments(one(home))[0], 0), (segments(one(home))[-1], -1)):
        octets = path.read_bytes()
        lines = octets.splitlines(keepends=True)
        lines[number] = lines[number].replace(b'"ts":"2', b'"ts":"3')
        path.write_bytes(b"".join(lines))
        fault = bad(home).fault
        assert fault is not None
        assert fault.seq == int(path.stem) + (0 if number == 0 else len(lines) - 1)
        path.write_bytes(octets)


def _lines(path: Path, change: Callable[[list[bytes]], object]) -> int:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
    return int(path.stem)


def test_a_dropped_line_is_named(home: Path) -> None:
    """A record taken out."""
    first = _lines(segments(one(home))[1], lambda lines: lines.pop(4))
    fault = bad(home).fault
    assert fault is not None
    assert fault.seq == first + 4


def test_exchanged_lines_are_named(home: Path) -> None:
    """Two neighbours in the other order: the first of the two places."""
    first = _lines(segments(one(home))[1], lambda lines: lines.insert(4, lines.pop(5)))
    fault = bad(home).fault
    assert fault is not None
    assert fault.seq == first + 4


def test_a_repeated_line_is_named(home: Path) -> None:
    """A record inserted a second time."""
    first = _lines(segments(one(home))[1], lambda lines: lines.insert(5, lines[4]))
    fault = bad(home).fault
    assert fault is not None
    assert fault.seq == first + 4


def test_a_forged_line_that_continues_the_chain_is_named(home: Path) -> None:
    """A line made to fit the one before it, put in front of the true one."""

    def forge(lines: list[bytes]) -> None:
        lines.insert(5, lines[5].replace(b'"ts":"2', b'"ts":"3'))

    first = _lines(segments(one(home))[1], forge)
    fault = bad(home).fault
    assert fault is not None
    assert fault.seq == first + 5


def test_a_rewritten_chain_disagrees_with_its_checkpoint(home: Path) -> None:
    """A record altered and every later `prev` made to fit: found between the two checkpoints around it."""
    altered = 17
    leaf = bytes(32)
    seq = 0
    for path in segments(one(home)):
        lines = path.read_bytes().splitlines()
        for number, line in enumerate(lines):
            if seq == altered:
                line = line.replace(b'"ts":"2', b'"ts":"3')
            if seq > altered:
                start = line.index(b'"prev":"') + 8
                line = line[:start] + leaf.hex().encode() + line[start + 64 :]
            lines[number] = line
            leaf = hashlib.sha256(b"\x00" + line).digest()
            seq += 1
        path.write_bytes(b"\n".join(lines) + b"\n")
    history = [json.loads(line)["note"].split("\n") for line in (one(home) / "checkpoints").read_bytes().splitlines()]
    sizes = [int(note[1]) for note in history]
    fault = bad(home).fault
    assert fault is not None
    assert altered not in sizes
    assert fault.seq == max(size for size in sizes if size <= altered)


def test_a_removed_segment_is_named(home: Path) -> None:
    """A whole segment gone, whichever it is."""
    for path in segments(one(home)):
        octets = path.read_bytes()
        path.unlink()
        fault = bad(home).fault
        assert fault is not None
        assert fault.seq == int(path.stem)
        path.write_bytes(octets)


def test_a_renamed_segment_is_found(home: Path) -> None:
    """A segment under another number."""
    path = segments(one(home))[1]
    path.rename(path.with_name(f"{int(path.stem) + 1:020d}.jsonl"))
    fault = bad(home).fault
    assert fault is not None
    assert fault.seq == int(path.stem)


def test_a_tail_cut_below_the_checkpoint_is_found(home: Path) -> None:
    """The end of the log cut off, at a line and in the middle of one."""
    path = segments(one(home))[-1]
    octets = path.read_bytes()
    lines = octets.splitlines(keepends=True)
    for kept, rest in ((len(lines) - 1, b""), (len(lines) - 2, lines[-2][:50]), (len(lines) - 2, bytes(4096))):
        path.write_bytes(b"".join(lines[:kept]) + rest)
        fault = bad(home).fault
        assert fault is not None
        assert fault.seq == int(path.stem) + kept
    path.write_bytes(octets)
    verified(home)


def test_any_flipped_byte_of_the_checkpoint_is_found(home: Path) -> None:
    """Every byte of `checkpoint` counts."""
    path = one(home) / "checkpoint"
    octets = path.read_bytes()
    for offset in range(len(octets)):
        path.write_bytes(octets[:offset] + bytes([octets[offset] ^ 1]) + octets[offset + 1 :])
        assert not bad(home).ok, (offset, octets[offset])
    path.unlink()
    assert not bad(home).ok


def test_no_bit_of_a_signature_line_is_free(home: Path) -> None:
    """Base64 whose unused last bits were changed decodes to the same signature, and is not accepted."""
    key = Key((home / "audit" / "key.pub").read_text())
    note = (one(home) / "checkpoint").read_text()
    assert key.signed(note, "w1")
    assert note.endswith("=\n")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    accepted = [letter for letter in letters if key.signed(f"{note[:-3]}{letter}=\n", "w1")]
    assert accepted == [note[-3]]


def test_an_older_checkpoint_does_not_hide_a_cut(home: Path) -> None:
    """The newest note replaced by an older genuine one and the log cut to match: the history still knows."""
    history = (one(home) / "checkpoints").read_bytes().splitlines()
    older = json.loads(history[3])["note"]
    (one(home) / "checkpoint").write_text(older)
    verified(home)
    paths = segments(one(home))
    size = int(older.split("\n")[1])
    for path in paths[1:]:
        path.unlink()
    _lines(paths[0], lambda lines: lines.__delitem__(slice(size, None)))
    fault = bad(home).fault
    assert fault is not None
    assert fault.seq == size


def test_an_altered_history_is_found(home: Path) -> None:
    """A head in `checkpoints` that was never signed is not mistaken for an altered record."""
    path = one(home) / "checkpoints"
    lines = path.read_bytes().splitlines()
    entry = json.loads(lines[5])
    note = entry["note"].split("\n")
    note[2] = "A" * 43 + "="
    entry["note"] = "\n".join(note)
    lines[5] = json.dumps(entry).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    fault = bad(home).fault
    assert fault is not None
    assert "checkpoint" in fault.reason


def test_heads_kept_elsewhere_bound_a_cut_of_everything(home: Path, tmp_path: Path) -> None:
    """With a head kept elsewhere, log and checkpoints cut back together, or a whole shard gone, are found."""
    kept = (one(home) / "checkpoint").read_text()
    history = (one(home) / "checkpoints").read_bytes().splitlines(keepends=True)
    older = json.loads(history[3])["note"]
    size = int(older.split("\n")[1])
    (one(home) / "checkpoint").write_text(older)
    (one(home) / "checkpoints").write_bytes(b"".join(history[:4]))
    for path in segments(one(home))[1:]:
        path.unlink()
    _lines(segments(one(home))[0], lambda lines: lines.__delitem__(slice(size, None)))
    assert verify(home / "audit")[0].ok  # what it cannot know
    fault = verify(home / "audit", heads=[kept])[0].fault
    assert fault is not None
    assert fault.seq == size
    shutil.rmtree(one(home))
    assert not verify(home / "audit", heads=[kept])[0].ok


def test_another_key_does_not_verify(home: Path, tmp_path: Path) -> None:
    """A log signed anew with another key fails against the key the reader trusts."""
    trusted = (home / "audit" / "key.pub").read_text()
    other = tmp_path / "other"

    async def run() -> None:
        async with ledger(other) as writer:
            await write_calls(writer, 2)

    asyncio.run(run())
    assert verify(other / "audit")[0].ok
    assert not verify(other / "audit", trusted)[0].ok


def test_an_altered_blob_is_named_and_a_dropped_one_is_not_a_fault(home: Path) -> None:
    """A blob's bytes are bound to the record that names it; retention may take blobs away."""
    blob = next((home / "audit" / "blobs").iterdir())
    octets = blob.read_bytes()
    blob.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
    fault = bad(home).fault
    assert fault is not None
    assert "blob" in fault.reason
    blob.unlink()
    verified(home)


def test_a_gateway_does_not_start_on_an_altered_shard(home: Path) -> None:
    """Damage below the last checkpoint, in the segment the start would go on from, is tampering, and is named."""
    path = segments(one(home))[-1]
    octets = bytearray(path.read_bytes())
    octets[octets.index(b'"ts":"2', 600) + 8] ^= 1
    path.write_bytes(octets)
    with pytest.raises(TamperedLog) as caught:
        open_ledger(home, tuning=SMALL)
    fault = bad(home).fault
    assert fault is not None
    assert (caught.value.seq, caught.value.segment, caught.value.line) == (fault.seq, fault.segment, fault.line)
    open(one(home) / "checkpoint", "w").close()
    with pytest.raises(TamperedLog):
        open_ledger(home, tuning=SMALL)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_random_tampering_is_found_and_its_record_named(kind: str, tmp_path: Path) -> None:
    """25 of each kind, 200 in all: flipped, dropped, reordered, inserted, truncated, forked, segments swapped, an old
    checkpoint replayed. Every one is found, and the record is named (`make prove` does 1,000)."""
    write_log(tmp_path)
    verified(tmp_path)
    dice = random.Random(f"{kind} 2026")
    assert [wrong for _ in range(25) if (wrong := missed(tmp_path, kind, dice, tmp_path / "scratch"))] == []


def test_two_logs_signed_with_one_key_are_told(tmp_path: Path) -> None:
    """A gateway's home copied and both continued: the checkpoint of one does not stand over the log of the other, and
    each verifies alone."""
    write_log(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    async def run(home: Path, prefix: str) -> None:
        async with ledger(home) as writer:
            await write_calls(writer, 5, prefix=prefix)

    shared = verified(tmp_path / "one")[0].records
    for name in ("one", "two"):
        asyncio.run(run(tmp_path / name, name))
        verified(tmp_path / name)
    published = (one(tmp_path / "one") / "checkpoint").read_text()
    fault = verify(tmp_path / "two" / "audit", heads=[published])[0].fault
    assert fault is not None
    assert fault.seq >= shared
    assert fault.reason == "two logs were signed"


def _alone(home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(verify_module.__file__), str(home / "audit"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_verify_runs_alone(home: Path, tmp_path: Path) -> None:
    """In an interpreter without site-packages or ours on its path: exit 0 and `ok`, 1 and `FAIL`, 2 unreadable."""
    good = _alone(home)
    result = bad(home)
    assert (good.returncode, good.stdout) == (0, f"ok shard=w1 records={result.records} root={result.root}\n")
    path = segments(one(home))[1]
    octets = bytearray(path.read_bytes())
    octets[700] ^= 1
    path.write_bytes(octets)
    fail = _alone(home)
    seq = seq_at(bytes(octets), int(path.stem), 700)
    line = seq - int(path.stem) + 1
    assert fail.returncode == 1
    assert fail.stdout.startswith(f"FAIL shard=w1 seq={seq} segment={path.name} line={line} reason=")
    told = json.loads(_alone(home, "--json").stdout)
    assert (told["ok"], told["first_bad"]["fault"]["seq"]) == (False, seq)
    (home / "audit" / "key.pub").unlink()
    assert _alone(home).returncode == 2
    assert _alone(tmp_path / "nothing").returncode == 2
