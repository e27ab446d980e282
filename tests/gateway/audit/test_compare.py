"""Two checkpoints of a log compared over it: it grew, or the size at which they disagree is told."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.audit.compare import compare
from gateway.audit.ledger import open_ledger
from gateway.audit.notes import Key
from gateway.audit.prove import Unprovable, read_key
from gateway.audit.verify import segments, whole_lines
from gateway.ports import Line
from tests.gateway.audit.disks import SMALL, ledger, one, write_calls

OFTEN = replace(SMALL, segment=12_000, checkpoint_records=7, checkpoint_every=3600.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger: shard w1 of several segments, and a second shard."""
    home = tmp_path_factory.mktemp("written")

    async def run() -> None:
        async with ledger(home, tuning=OFTEN) as writer:
            await write_calls(writer, 36)
        second = open_ledger(home, shard="w2", tuning=OFTEN)
        await second.append(Line("call.in_doubt", {"call_id": "c3", "intent": 9}))
        await second.close()

    asyncio.run(run())
    assert len(segments(one(home))) >= 3
    return home


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    return Path(shutil.copytree(written, tmp_path / "home"))


def key_of(home: Path) -> Key:
    """The gateway's public key."""
    return Key(read_key(home / "audit"))


def heads(home: Path) -> list[str]:
    """Every checkpoint that was ever signed for w1, oldest first."""
    return [json.loads(line)["note"] for line in (one(home) / "checkpoints").read_bytes().splitlines()]


def test_any_two_heads_of_a_log_agree(written: Path) -> None:
    """Each pair, and each against the log: what was appended is counted, and the proof is the RFC's."""
    notes, key, audit = heads(written), key_of(written), written / "audit"
    lines = [line for path in segments(one(written)) for line in whole_lines(path)]
    assert len(notes) > 5
    for old in notes:
        for new in (*notes, None):
            found = compare(audit, old, new, key)
            assert found.fault is None
            types = [json.loads(line)["type"] for line in lines[found.old.size : found.new.size]]
            assert dict(found.types) == {name: types.count(name) for name in types}


def test_a_cut_log_is_found_against_a_published_head(home: Path) -> None:
    """Records, checkpoints and history cut back together, which nothing on the disk can show, fail the kept head."""
    notes, audit, key = heads(home), home / "audit", key_of(home)
    kept, old = notes[-1], notes[2]
    size = int(old.split("\n")[1])
    (one(home) / "checkpoint").write_text(old)
    for path_ in segments(one(home))[1:]:
        path_.unlink()
    first = segments(one(home))[0]
    first.write_bytes(b"".join(first.read_bytes().splitlines(keepends=True)[:size]))
    assert compare(audit, notes[1], None, key).fault is None
    found = compare(audit, kept, None, key)
    assert (found.size, found.fault) == (
        int(kept.split("\n")[1]),
        f"the log goes on for {size} records only, and {found.new.size} were signed",
    )
    shutil.rmtree(one(home))
    assert compare(audit, old, kept, key).size == size


def test_a_rewritten_log_and_a_fork_are_told_with_the_size(home: Path, tmp_path: Path) -> None:
    """Another log signed with the same key: two trees of one size, and a head that does not meet the log below it."""
    audit, key, before = home / "audit", key_of(home), heads(home)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(home / "signing.key", other)

    async def run() -> None:
        async with ledger(other, tuning=replace(OFTEN, segment=SMALL.segment)) as writer:
            await write_calls(writer, 50)

    asyncio.run(run())
    sizes = {int(note.split("\n")[1]): note for note in before}
    forks = {int(note.split("\n")[1]): note for note in heads(other)}
    size = next(size for size in sorted(sizes.keys() & forks.keys()) if size)
    fork = compare(audit, sizes[size], forks[size], key)
    assert (fork.size, fork.fault) == (size, "two different trees of this size were signed")
    met = compare(audit, forks[size], None, key)
    assert (met.size, met.fault) == (size, "the log has another root there than was signed")
    shutil.rmtree(one(home))
    shutil.copytree(one(other), one(home))
    assert compare(audit, sizes[size], None, key).size == size


def test_heads_that_cannot_be_compared_are_refused(home: Path) -> None:
    """Of two shards, of another key, or none at all."""
    audit, key = home / "audit", key_of(home)
    note = heads(home)[-1]
    second = (audit / "w2" / "checkpoint").read_text()
    for first, other in ((note, second), (note.replace("w1", "w2"), None), ("", None), (note, "a\nb\nc\nd\n")):
        with pytest.raises(Unprovable):
            compare(audit, first, other, key)
