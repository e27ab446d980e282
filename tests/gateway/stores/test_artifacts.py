"""One contract for every store of artifacts, and what a store on disk owes beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.artifacts import handle_of
from gateway.model import Artifact, Refusal
from gateway.ports import Artifacts, NotKept
from gateway.stores.artifacts import FileArtifacts, MemoryArtifacts
from gateway.stores.sqlite import SqliteArtifactRows, State
from gateway.tool import Labels

ANN, BOB, STRANGER = "t\x1fa\x1fann", "t\x1fa\x1fbob", "other\x1fa\x1fann"
QUOTA, TTL = 64 * 1024, 100.0
UNTRUSTED: Labels = frozenset({"untrusted"})


@dataclass
class Now:
    """A clock that moves when told to."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Kept:
    """A store, its clock, and the ways to look behind it: `files` of the folder, `again` as after a restart."""

    store: Artifacts
    now: Now
    sweep: Callable[[], object]
    folder: Path | None = None
    again: Callable[[], Artifacts] | None = None

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder else []


@pytest.fixture(params=["memory", "files"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    """The store, once in memory and once on disk."""
    now = Now()
    if request.param == "memory":
        store = MemoryArtifacts(now, QUOTA, TTL)
        yield Kept(store, now, lambda: asyncio.run(store.sweep()))
    else:
        yield from on_disk(tmp_path, now)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Kept]:
    """The store on disk."""
    yield from on_disk(tmp_path, Now())


def on_disk(tmp_path: Path, now: Now) -> Iterator[Kept]:
    folder = tmp_path / "artifacts"
    with closing(State(tmp_path / "state.db")) as state:

        def opened() -> FileArtifacts:
            return FileArtifacts(folder, SqliteArtifactRows(state), now, QUOTA, TTL)

        store = opened()
        yield Kept(store, now, lambda: asyncio.run(store.sweep()), folder, opened)


def of(
    content: bytes, owner: str = ANN, at: float = 1000.0, name: str = "out.csv", labels: Labels = UNTRUSTED
) -> Artifact:
    """What is known of these bytes."""
    return Artifact(handle_of(content), owner, name, len(content), "text/csv", labels, "allow", "c_1", at)


def keep(kept: Kept, content: bytes, owner: str = ANN, name: str = "out.csv", labels: Labels = UNTRUSTED) -> Artifact:
    return asyncio.run(kept.store.keep(of(content, owner, kept.now.at, name, labels), content))


def find(kept: Kept, handle: str, owner: str = ANN) -> Artifact | None:
    return asyncio.run(kept.store.find(owner, handle))


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", bytes(range(256)) * 64])
def test_what_was_kept_reads_back_equal(kept: Kept, content: bytes) -> None:
    """Under its handle, by its owner, with all that is known of it."""
    there = keep(kept, content)
    assert there == of(content)
    assert find(kept, there.handle) == there
    assert asyncio.run(kept.store.read(there)) == content


def test_what_another_owner_kept_is_not_found(kept: Kept) -> None:
    """Not by another person of the same agent, nor by another tenant; and the same bytes are each one's own."""
    there = keep(kept, b"mine")
    assert find(kept, there.handle, BOB) is None
    assert find(kept, there.handle, STRANGER) is None
    keep(kept, b"mine", BOB, labels=frozenset({"pii"}))
    mine, theirs = find(kept, there.handle), find(kept, there.handle, BOB)
    assert mine is not None
    assert theirs is not None
    assert (mine.labels, theirs.labels) == (frozenset({"untrusted"}), frozenset({"pii"}))


def test_labels_of_the_same_bytes_only_grow(kept: Kept) -> None:
    """A clean call that leaves the same bytes does not wash them; name, call and time are those of the last one."""
    keep(kept, b"same", labels=frozenset({"suspicious"}))
    kept.now.at += 50
    there = keep(kept, b"same", labels=frozenset({"pii"}), name="new.txt")
    assert there.labels == {"suspicious", "pii"}
    assert find(kept, there.handle) == there
    kept.now.at += 60
    assert find(kept, there.handle) == there


def test_an_artifact_expires(kept: Kept) -> None:
    """A day after it was kept it is unknown, and the sweep takes its bytes too."""
    there = keep(kept, b"short-lived")
    kept.now.at += TTL
    assert find(kept, there.handle) is None
    kept.sweep()
    assert kept.files() == []
    with pytest.raises(Refusal) as refused:
        asyncio.run(kept.store.read(there))
    assert refused.value.problem.code == "not_found"


def test_an_owner_has_so_much_room_and_no_more(kept: Kept) -> None:
    """Over the quota it is not kept; another owner has room of their own; what expires makes room."""
    keep(kept, b"a" * QUOTA)
    with pytest.raises(NotKept) as refused:
        keep(kept, b"b")
    assert refused.value.reason == "quota"
    assert find(kept, handle_of(b"b")) is None
    keep(kept, b"a" * QUOTA)
    keep(kept, b"b", BOB)
    kept.now.at += TTL
    keep(kept, b"b")


def test_many_small_ones_take_room_too(kept: Kept) -> None:
    """Each counts for a block of the disk, so their number is bounded."""
    for n in range(QUOTA // 4096):
        keep(kept, b"%d" % n)
    with pytest.raises(NotKept):
        keep(kept, b"one more")


def test_keeping_at_the_same_time_loses_nothing(kept: Kept) -> None:
    """Different bytes and the same ones, of two owners, beside a sweep."""

    async def many() -> list[bytes]:
        contents = [b"%d" % (n % 5) for n in range(20)]
        keeps = [kept.store.keep(of(each, (ANN, BOB)[n % 2]), each) for n, each in enumerate(contents)]
        sweeps = [kept.store.sweep()] if isinstance(kept.store, FileArtifacts) else []
        there = await asyncio.gather(*keeps, *sweeps)
        return [await kept.store.read(each) for each in there if each is not None]

    assert sorted(asyncio.run(many())) == sorted(b"%d" % (n % 5) for n in range(20))


def test_one_file_for_one_content_of_a_tenant(disk: Kept) -> None:
    """Two owners of a tenant share the bytes, another tenant does not; the file goes with the last who has it."""
    keep(disk, b"same")
    keep(disk, b"same", name="again.csv")
    disk.now.at += 50
    keep(disk, b"same", BOB)
    assert len(disk.files()) == 1
    keep(disk, b"same", STRANGER)
    assert len(disk.files()) == 2
    disk.now.at += 60
    disk.sweep()
    assert find(disk, handle_of(b"same")) is None
    there = find(disk, handle_of(b"same"), BOB)
    assert there is not None
    assert asyncio.run(disk.store.read(there)) == b"same"


def test_files_are_their_users_alone(disk: Kept) -> None:
    """Folder 0700, files 0600."""
    keep(disk, b"private")
    assert disk.folder is not None
    assert disk.folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in disk.files()] == [0o600]


def test_what_is_kept_survives_a_restart_and_what_a_crash_left_does_not(disk: Kept) -> None:
    """Half-written files, and files whose row was never written, go when the store is opened."""
    there = keep(disk, b"good")
    assert disk.folder is not None
    assert disk.again is not None
    good = disk.files()
    (disk.folder / ".0123.new").write_bytes(b"half")
    (disk.folder / ("0" * 32 + "-" + handle_of(b"orphan")[7:])).write_bytes(b"orphan")
    again = disk.again()
    assert disk.files() == good
    assert asyncio.run(again.find(ANN, there.handle)) == there
    assert asyncio.run(again.read(there)) == b"good"


def swap_for_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"good")
    path.unlink()
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"evil"),
        lambda path: path.write_bytes(b"good and more"),
        lambda path: path.write_bytes(b""),
        Path.unlink,
        swap_for_link,
    ],
    ids=["altered", "longer", "emptied", "removed", "a link to the same bytes"],
)
def test_a_file_altered_on_disk_is_not_given_out(disk: Kept, spoil: Callable[[Path], object]) -> None:
    """Its digest is looked at on every read, and a link is not followed; keeping the bytes again repairs it."""
    there = keep(disk, b"good")
    (path,) = disk.files()
    spoil(path)
    with pytest.raises(Refusal) as refused:
        asyncio.run(disk.store.read(there))
    assert refused.value.problem.code == "not_found"
    keep(disk, b"good")
    assert asyncio.run(disk.store.read(there)) == b"good"


def test_what_cannot_be_written_is_said_to_be_not_kept(disk: Kept) -> None:
    """A folder that is gone, as a full disk, is no traceback, and leaves no row."""
    assert disk.folder is not None
    disk.folder.rmdir()
    with pytest.raises(NotKept) as refused:
        keep(disk, b"lost")
    assert refused.value.reason == "store"
    assert find(disk, handle_of(b"lost")) is None
