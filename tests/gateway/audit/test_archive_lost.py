"""Archives that would lose something: a copy that is none, segments of which nobody knows whose content they had."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.audit.archive import NotArchived, NotKnown, gone, not_found
from gateway.ledger_ports import Whose
from gateway.model import Refusal
from gateway.upkeep import LedgerUpkeep
from tests.gateway.audit.archives import WHO, archive, write_aged
from tests.gateway.audit.disks import ledger, one, verified

NAME = f"{0:020d}"
ALTERED: dict[str, bytes | None] = {
    "gone": None,
    "no JSON": b"\xff{",
    "no object": b"[]",
    "empty": b"{}",
    "another's": b'{"first":7,"last":8,"until":1.0,"to":"/mnt","sessions":[],"blobs":[]}',
    "a number": b'{"first":0,"last":8,"until":"1","to":"/mnt","sessions":[],"blobs":[]}',
    "a session": b'{"first":0,"last":8,"until":1.0,"to":"/mnt","sessions":[{"key":1}],"blobs":[]}',
    "a blob": b'{"first":0,"last":8,"until":1.0,"to":"/mnt","sessions":[],"blobs":[{"content":null}]}',
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with segments that are old enough, beside a folder `elsewhere`."""
    write_aged(tmp_path / "home", count=2, calls=2)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "home"


def test_a_segment_is_no_copy_of_itself(home: Path) -> None:
    """An archive whose folder for the shard leads back into the log is refused: its only copy would be removed."""
    (home.parent / "elsewhere" / "w1").symlink_to(one(home))
    with pytest.raises(NotArchived, match="the segment itself"):
        archive(home, home.parent / "elsewhere")
    assert not list(one(home).glob("*.leaves"))
    verified(home)


@pytest.mark.parametrize("how", ALTERED)
def test_nothing_is_erased_while_it_is_not_known_whose(home: Path, how: str) -> None:
    """Where `.archived` is gone or altered, erasing says which segment to copy back, and with that it goes on."""
    archive(home, home.parent / "elsewhere")
    told, octets = one(home) / f"{NAME}.archived", ALTERED[how]
    told.unlink() if octets is None else told.write_bytes(octets)
    with pytest.raises(NotKnown):
        list(gone(home))
    assert f"copy {NAME}.jsonl back" in not_found(home, "c_1")

    async def erase() -> str:
        async with ledger(home) as writer:
            try:
                done = await LedgerUpkeep(home, writer).erase(Whose(session="s1", tenant="t1"), "Asked to.", WHO)
                return str(done.keys)
            except Refusal as refusal:
                return f"{refusal.problem.code} {refusal.problem.detail}"

    assert f"audit_unavailable Nothing was erased: {told}" in asyncio.run(erase())
    shutil.copy(home.parent / "elsewhere" / "w1" / f"{NAME}.jsonl", one(home))
    assert asyncio.run(erase()) == "1"
