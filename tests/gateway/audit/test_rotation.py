"""The signing key is replaced: under load, cut short at every step, and failing at every step; the log verifies."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.audit.checkpoint import Signer
from gateway.audit.drops import FolderDrop
from gateway.audit.heads import Heads, Pace, newest_heads
from gateway.audit.ledger import open_ledger
from gateway.audit.notes import Key, PublicKey
from gateway.audit.query import records
from gateway.audit.readings import note_reading
from gateway.audit.rotation import NEXT
from gateway.audit.verify import verify
from gateway.ledger_ports import Rotated
from gateway.model import Refusal
from gateway.upkeep import LedgerUpkeep
from tests.gateway.audit.disks import SMALL, ledger, one, until, until_back, verified, write_calls
from tests.gateway.audit.rotating import Stepping
from tests.house.tree import ROOT

WHO = {"authn": "local", "uid": 1000}
ENOUGH = 80  # changes to the disk: a rotation takes fewer


class Failing(Stepping):
    """A disk whose n-th change fails, once."""

    def strike(self) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def key_of(home: Path) -> str:
    """The verifier key as it is now."""
    return (home / "audit" / "key.pub").read_text().strip()


def newest(home: Path) -> str:
    """The newest checkpoint of the only shard."""
    return newest_heads(home / "audit")["w1"].note.decode()


def rotated(home: Path) -> list[dict[str, object]]:
    """The records of rotations."""
    return [record for record in records(home) if record["type"] == "key.rotated"]


def written(home: Path) -> list[dict[str, object]]:
    """The lines of the file `rotations`."""
    path = home / "audit" / "rotations"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def go_on(home: Path) -> None:
    """Starts the ledger, writes a call, stops."""

    async def run() -> None:
        async with ledger(home) as writer:
            await write_calls(writer, 1, prefix="more")

    asyncio.run(run())


def rotate(home: Path, times: int = 1) -> list[Rotated]:
    """Replaces the key so many times, with calls before and after."""

    async def run() -> list[Rotated]:
        done = []
        async with ledger(home) as writer:
            for _ in range(times):
                await write_calls(writer, 2)
                done.append(await LedgerUpkeep(home, writer).rotate_key("It may be known.", WHO))
            await write_calls(writer, 2)
        return done

    return asyncio.run(run())


def check_whole(home: Path, old: str) -> None:
    """That the log stands, with the key it has and with the first one, and that nothing of a rotation is left over."""
    verified(home)
    for key in (old, key_of(home)):
        assert all(result.ok for result in verify(home / "audit", key)), key
    assert not (home / NEXT).exists()
    assert Signer.load(home / "signing.key", old.split("+")[0]).verifier_key == key_of(home)
    fields = ("old", "new", "why", "who", "signed")
    assert [{name: record[name] for name in fields} for record in rotated(home)] == written(home)


def test_a_rotation_is_a_record_that_both_keys_signed(tmp_path: Path) -> None:
    """It names both keys, why and who; the head over it has two signatures, the next one that of the new key only."""
    go_on(tmp_path)
    old, secret = key_of(tmp_path), (tmp_path / "signing.key").read_bytes()
    heads: list[str] = []

    async def run() -> Rotated:
        async with ledger(tmp_path) as writer:
            done = await LedgerUpkeep(tmp_path, writer).rotate_key("It may be known.", WHO)
            heads.append(newest(tmp_path))
            await write_calls(writer, 1)
        return done

    done = asyncio.run(run())
    (record,) = rotated(tmp_path)
    assert (done.old, done.new, done.position.seq) == (old, key_of(tmp_path), record["seq"])
    assert (record["old"], record["new"], record["why"], record["who"]) == (old, done.new, "It may be known.", WHO)
    keys = [PublicKey(done.old), PublicKey(done.new)]
    assert [key.signed(str(record["signed"])) for key in keys] == [True, True]
    assert [key.signed(heads[0]) for key in keys] == [True, True]
    assert int(heads[0].split("\n")[1]) == done.position.seq + 1
    assert [key.signed(newest(tmp_path)) for key in keys] == [False, True]
    assert secret not in (tmp_path / "signing.key").read_bytes()
    load_pem_private_key((tmp_path / "signing.key").read_bytes(), None)
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    check_whole(tmp_path, old)


def test_the_name_of_the_log_stays_and_every_key_of_it_is_good(tmp_path: Path) -> None:
    """After three rotations and a restart the origin is the first one; whoever pinned any of the keys can verify."""
    done = rotate(tmp_path, 3)
    go_on(tmp_path)
    keys = [done[0].old, *(each.new for each in done)]
    assert [each.old for each in done] == keys[:-1]
    assert {key.split("+")[0] for key in keys} == {newest(tmp_path).split("/")[0]}
    for key in keys:
        assert [result.ok for result in verify(tmp_path / "audit", key)] == [True]
    check_whole(tmp_path, keys[0])


def test_calls_go_on_while_the_key_is_replaced(tmp_path: Path) -> None:
    """Eight callers write all the while, nothing they were told of is missing, and each head of the history stands."""

    async def run() -> int:
        async with ledger(tmp_path) as writer:
            upkeep, done = LedgerUpkeep(tmp_path, writer), asyncio.Event()

            async def caller(number: int) -> int:
                count = 0
                while not done.is_set():
                    count += len(await write_calls(writer, 1, prefix=f"{number}-{count}-"))
                return count

            callers = [asyncio.create_task(caller(number)) for number in range(8)]
            for _ in range(3):
                await upkeep.rotate_key("It may be known.", WHO)
            done.set()
            return sum(await asyncio.gather(*callers))

    count = asyncio.run(run())
    assert len([record for record in records(tmp_path) if str(record["type"]).startswith("call.")]) == count
    key = Key(key_of(tmp_path), [str(each["signed"]) for each in written(tmp_path)])
    history = [json.loads(line)["note"] for line in (one(tmp_path) / "checkpoints").read_text().splitlines()]
    assert all(key.signed(note, "w1") for note in history)
    check_whole(tmp_path, str(written(tmp_path)[0]["old"]))


def test_a_log_is_verified_while_its_key_is_replaced(tmp_path: Path) -> None:
    """The key is replaced after a verification has read it and before it reads a head: that is no finding."""
    go_on(tmp_path)
    held = tmp_path / "audit" / "a1" / "checkpoint"  # read before that of w1, and there it waits
    held.parent.mkdir()
    os.mkfifo(held)

    async def run() -> dict[str, bool]:
        verifying = asyncio.create_task(asyncio.to_thread(verify, tmp_path / "audit"))
        async with ledger(tmp_path) as writer:
            gate = await asyncio.to_thread(held.open, "wb")  # open once it is read
            await LedgerUpkeep(tmp_path, writer).rotate_key("It may be known.", WHO)
            await write_calls(writer, 1)
        held.unlink()
        held.write_text("")
        gate.close()
        return {result.shard: result.ok for result in await verifying}

    assert asyncio.run(run()) == {"a1": False, "w1": True}


def test_killed_before_any_step_it_starts_again_and_verifies(tmp_path: Path) -> None:
    """SIGKILL before each change to the disk: either the key stayed or it was replaced, on record once, and all of it
    is finished by the next start."""
    rotate(tmp_path / "begun")
    first, step, killed, outcomes = str(written(tmp_path / "begun")[0]["old"]), 0, True, set()
    while killed:
        step += 1
        home = Path(shutil.copytree(tmp_path / "begun", tmp_path / str(step)))
        command = [sys.executable, "-m", "tests.gateway.audit.rotating", str(home), str(step)]
        child = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
        killed = child.returncode == -signal.SIGKILL
        assert killed or (child.returncode, step > 20) == (0, True), child.stderr
        stood = len(written(home))
        assert [result.ok for result in verify(home / "audit", first)] == [True], step
        go_on(home)
        check_whole(home, first)
        assert len(written(home)) == stood
        outcomes.add(stood)
        assert step < ENOUGH
    assert outcomes == {1, 2}


def test_failing_at_any_step_it_is_done_by_asking_again(tmp_path: Path) -> None:
    """An I/O error at each change to the disk: it is refused or done, and done when asked again, once on record."""
    failed = 0
    for step in range(1, ENOUGH):
        home = tmp_path / str(step)
        home.mkdir()
        disk = Failing()
        if not asyncio.run(_rotated_at_last(home, disk, step)):
            break
        failed += 1
        assert len(written(home)) == 1
        check_whole(home, str(written(home)[0]["old"]))
    assert 20 < failed < ENOUGH - 1


async def _rotated_at_last(home: Path, disk: Failing, step: int) -> bool:
    """Whether a change failed before it was done."""
    async with ledger(home, disk=disk) as writer:
        upkeep = LedgerUpkeep(home, writer)
        await write_calls(writer, 1)
        disk.left = step
        async with asyncio.timeout(20):
            while not written(home) or (home / NEXT).exists():
                await until_back(writer)
                with suppress(Refusal):
                    await upkeep.rotate_key("It may be known.", WHO)
        return disk.left <= 0


def test_another_writer_of_the_log_keeps_the_key_as_it_is(tmp_path: Path) -> None:
    """A second shard that is written to would go on with the old key: refused, and nothing is changed. When nobody
    writes there, its head is named too; one that was altered is not signed for."""
    go_on(tmp_path)
    old = key_of(tmp_path)

    async def run() -> list[str | None]:
        second = open_ledger(tmp_path, shard="r1", tuning=SMALL)
        async with ledger(tmp_path) as writer:
            upkeep = LedgerUpkeep(tmp_path, writer)
            codes = [await _refused(upkeep)]
            await second.close()
            head = tmp_path / "audit" / "r1" / "checkpoint"
            genuine = head.read_text()
            head.write_text(genuine.replace("\n2\n", "\n1\n"))
            codes.append(await _refused(upkeep))
            assert key_of(tmp_path) == old
            head.write_text(genuine)
            return [*codes, await _refused(upkeep)]

    assert asyncio.run(run()) == ["audit_unavailable", "audit_unavailable", None]
    check_whole(tmp_path, old)
    assert "\nr1 2 " in str(written(tmp_path)[0]["signed"])


async def _refused(upkeep: LedgerUpkeep) -> str | None:
    try:
        await upkeep.rotate_key("It may be known.", WHO)
    except Refusal as refusal:
        return refusal.problem.code
    return None


def test_readings_are_signed_with_the_key_that_stands(tmp_path: Path) -> None:
    """Who reads beside a gateway notes it in a shard of its own, before a rotation, after it, and in the middle."""
    rotate(tmp_path)
    note_reading(tmp_path, {"verb": "test"})
    old, rotating = key_of(tmp_path), []

    async def run() -> None:
        async with ledger(tmp_path) as writer:
            await writer.between(lambda shard: writer.key.change(shard, "It may be known.", WHO))
            rotating.append(await asyncio.to_thread(note_reading, tmp_path, {"verb": "test"}))

    asyncio.run(run())
    go_on(tmp_path)
    note_reading(tmp_path, {"verb": "test"})
    assert len([record for record in records(tmp_path) if record["type"] == "admin.read"]) == 3
    check_whole(tmp_path, old)


def test_a_stray_next_key_is_not_taken(tmp_path: Path) -> None:
    """A private key that somebody left for the next rotation is thrown away, at a start and by a rotation."""
    go_on(tmp_path)
    old = key_of(tmp_path)
    stray = Signer.load(tmp_path / NEXT)
    go_on(tmp_path)
    assert (key_of(tmp_path), (tmp_path / NEXT).exists()) == (old, False)

    async def run() -> None:
        async with ledger(tmp_path) as writer:
            shutil.copy(tmp_path / "signing.key", tmp_path / NEXT)
            await LedgerUpkeep(tmp_path, writer).rotate_key("It may be known.", WHO)

    asyncio.run(run())
    assert key_of(tmp_path) not in (old, stray.verifier_key)
    check_whole(tmp_path, old)


def test_a_key_that_was_replaced_is_not_gone_on_with(tmp_path: Path) -> None:
    """A backup of the old private key put back: no start, and the log is as it was."""
    go_on(tmp_path)
    secret = (tmp_path / "signing.key").read_bytes()
    (done,) = rotate(tmp_path)
    fresh = (tmp_path / "signing.key").read_bytes()
    (tmp_path / "signing.key").write_bytes(secret)
    with pytest.raises(ValueError, match="was replaced"):
        open_ledger(tmp_path, tuning=SMALL)
    (tmp_path / "signing.key").write_bytes(fresh)
    go_on(tmp_path)
    check_whole(tmp_path, done.old)


def test_the_file_of_rotations_can_be_made_again_of_the_records(tmp_path: Path) -> None:
    """Without it there is no start, and no reading begins a shard under a name made up; with its lines made of what
    `key.rotated` says it is the same file."""
    done = rotate(tmp_path, 2)
    path = tmp_path / "audit" / "rotations"
    was, named = path.read_bytes(), key_of(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="lacks the rotation"):
        open_ledger(tmp_path, tuning=SMALL)
    with pytest.raises(ValueError, match="lacks the rotation"):
        note_reading(tmp_path, {"who": {}, "verb": "audit show"})
    assert key_of(tmp_path) == named
    fields = ("old", "new", "why", "who", "signed")
    path.write_text("".join(json.dumps({name: each[name] for name in fields}) + "\n" for each in rotated(tmp_path)))
    assert path.read_bytes() == was
    go_on(tmp_path)
    check_whole(tmp_path, done[0].old)


def test_a_key_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    """Where it really is, it could not be destroyed."""
    go_on(tmp_path)
    (tmp_path / "signing.key").rename(tmp_path / "elsewhere")
    (tmp_path / "signing.key").symlink_to("elsewhere")
    with pytest.raises(Refusal) as raised:
        rotate(tmp_path)
    assert "link" in str(raised.value.problem.detail)
    assert written(tmp_path) == []


def test_heads_go_on_being_published(tmp_path: Path) -> None:
    """A folder that gets every head takes those before, at and after a rotation; each stands under either key."""
    there = tmp_path / "there"
    there.mkdir()
    go_on(tmp_path)
    old = key_of(tmp_path)

    async def run() -> None:
        sink, pace = FolderDrop("file:there", there), Pace(look=0.01, patience=20.0, first=0.01, longest=0.05)
        async with Heads(tmp_path, [sink], print, pace) as heads, ledger(tmp_path) as writer:
            for _ in range(2):
                await LedgerUpkeep(tmp_path, writer).rotate_key("It may be known.", WHO)
                size = newest(tmp_path).split("\n")[1]
                await until((there / f"w1-{size}.checkpoint").exists)
            assert heads.state() == {"heads": "ok"}

    asyncio.run(run())
    kept = [path.read_text() for path in there.iterdir()]
    assert len(kept) >= 3
    for key in (old, key_of(tmp_path)):
        assert [result.ok for result in verify(tmp_path / "audit", key, kept)] == [True]
