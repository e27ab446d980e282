"""The small WASI by itself: what it answers, and that no pointer, length, name or descriptor gets it to do more."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxes.wasi import FUNCTIONS, Ended, Fault, Output, Wasi
from sandboxes.wasi_files import BADF, EXIST, INVAL, ISDIR, NOENT, NOSPC, NOTCAPABLE, NOTDIR, Folder

SIZE = 65536
OPEN_READ, OPEN_WRITE = 1 << 1, 1 << 6
CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8


class Page:
    """64 KiB of memory that says when something reaches beyond it."""

    def __init__(self) -> None:
        self.bytes = bytearray(SIZE)

    def check(self, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > SIZE:
            raise Fault

    def read(self, start: int, size: int) -> bytes:
        self.check(start, size)
        return bytes(self.bytes[start : start + size])

    def write(self, start: int, content: bytes) -> None:
        self.check(start, len(content))
        self.bytes[start : start + len(content)] = content

    def u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.bytes, at)[0])


class Machine:
    """A WASI with a page of memory, and the few moves the tests make with it."""

    def __init__(self, files: dict[str, bytes] | None = None, room: int = 1000, output: int = 1000) -> None:
        self.page = Page()
        self.wasi = Wasi(b"input", Folder(files or {}, room), Output(output), 7, 1000.5)

    def call(self, name: str, *values: int) -> int:
        return int(getattr(self.wasi, name)(self.page, *values))

    def open(self, path: bytes, how: int = 0, rights: int = OPEN_READ | OPEN_WRITE, flags: int = 0) -> int:
        """An errno; the descriptor stands at 0."""
        self.page.write(100, path)
        return self.call("path_open", 3, 0, 100, len(path), how, rights, 0, flags, 0)

    def write(self, fd: int, content: bytes) -> int:
        self.page.write(2000, content)
        self.page.write(8, struct.pack("<II", 2000, len(content)))
        return self.call("fd_write", fd, 8, 1, 16)

    def read(self, fd: int, size: int) -> bytes:
        self.page.write(8, struct.pack("<II", 2000, size))
        assert self.call("fd_read", fd, 8, 1, 16) == 0
        return self.page.read(2000, self.page.u32(16))


@pytest.mark.parametrize(
    ("path", "errno"),
    [
        (b"../secret", NOTCAPABLE),
        (b"./../secret", NOTCAPABLE),
        (b"a/../../b", NOTCAPABLE),
        (b"..", NOTCAPABLE),
        (b"/etc/passwd", NOTCAPABLE),
        (b"//", NOTCAPABLE),
        (b"a/b", INVAL),
        (b"a\0b", INVAL),
        (b".hidden", INVAL),
        (b"-rf", INVAL),
        (b"a\nb", INVAL),
        ("größe".encode(), INVAL),
        (b"\xff\xfe", 25),
        (b"a" * 101, INVAL),
        (b"a" * 5000, 37),
        (b".", ISDIR),
        (b"", ISDIR),
    ],
)
def test_a_name_that_is_none_makes_no_file(path: bytes, errno: int) -> None:
    """Paths out of the folder, into others, with NUL, too long or not UTF-8 are refused where files may be made."""
    machine = Machine()
    assert machine.open(path, CREATE) == errno
    assert machine.wasi.folder.files == {}


def test_opening_asks_as_posix_does() -> None:
    """A missing file, one that must not exist, and one that is no folder each have their own errno."""
    machine = Machine({"a.txt": b"abc"})
    assert machine.open(b"b.txt") == NOENT
    assert machine.open(b"a.txt", CREATE | EXCLUSIVE) == EXIST
    assert machine.open(b"a.txt", DIRECTORY) == NOTDIR
    assert machine.open(b"b.txt", DIRECTORY) == NOENT
    assert machine.open(b"./a.txt") == 0
    assert machine.read(machine.page.u32(0), 10) == b"abc"


def test_what_is_written_is_a_file_that_changed() -> None:
    """New, emptied and extended files are what the job leaves; a file only read, or written as it was, is not."""
    machine = Machine({"kept": b"1", "same": b"22", "cut": b"333", "long": b"4"})
    for path, how, flags, content in (
        (b"new", CREATE, 0, b"n"),
        (b"same", TRUNCATE, 0, b"22"),
        (b"cut", TRUNCATE, 0, b""),
        (b"long", 0, 1, b"5"),
    ):
        assert machine.open(path, how, flags=flags) == 0
        assert machine.write(machine.page.u32(0), content) == 0
    assert machine.wasi.folder.changed() == {"new": b"n", "cut": b"", "long": b"45"}


def test_a_file_opened_for_reading_is_not_written() -> None:
    """The rights given at opening hold, and the folder itself is no file."""
    machine = Machine({"a": b"1"})
    assert machine.open(b"a", rights=OPEN_READ) == 0
    assert machine.write(machine.page.u32(0), b"2") == BADF
    assert machine.open(b"a", rights=OPEN_WRITE) == 0
    assert machine.call("fd_read", machine.page.u32(0), 8, 1, 16) == BADF
    assert machine.write(3, b"2") == BADF
    assert machine.call("fd_read", 3, 8, 1, 16) == BADF


def test_the_disk_ends_where_it_ends() -> None:
    """Bytes beyond the room are refused, a hole counts in full, and emptying a file gives its bytes back."""
    machine = Machine(room=10)
    assert machine.open(b"a", CREATE) == 0
    fd = machine.page.u32(0)
    assert machine.write(fd, b"x" * 11) == NOSPC
    assert machine.write(fd, b"x" * 10) == 0
    assert machine.write(fd, b"x") == NOSPC
    assert machine.open(b"a", TRUNCATE) == 0
    fd = machine.page.u32(0)
    for far in (1 << 40, (1 << 63) - 1):
        assert machine.call("fd_seek", fd, far, 0, 24) == 0
        assert machine.write(fd, b"x") == NOSPC
    assert machine.call("fd_seek", fd, 9, 0, 24) == 0
    assert machine.write(fd, b"x") == 0
    assert machine.wasi.folder.changed() == {"a": b"\0" * 9 + b"x"}


def test_files_and_descriptors_are_counted() -> None:
    """At most 32 files and 64 descriptors."""
    machine = Machine()
    made = [machine.open(f"f{number}".encode(), CREATE) for number in range(33)]
    assert made == [0] * 32 + [NOSPC]
    opened = [machine.open(b"f0") for _ in range(40)]
    assert opened == [0] * 28 + [33] * 12


def test_seeking_knows_three_origins_and_no_place_before_the_start() -> None:
    """From the start, from here, from the end; a negative place is refused, and stdin cannot be wound back."""
    machine = Machine({"a": b"abcdef"})
    assert machine.open(b"a") == 0
    fd = machine.page.u32(0)
    assert machine.call("fd_seek", fd, (1 << 64) - 2, 2, 24) == 0
    assert machine.read(fd, 10) == b"ef"
    assert machine.call("fd_seek", fd, (1 << 64) - 3, 1, 24) == 0
    assert machine.read(fd, 1) == b"d"
    assert machine.call("fd_seek", fd, (1 << 64) - 1, 0, 24) == INVAL
    assert machine.call("fd_seek", fd, 0, 3, 24) == INVAL
    assert machine.call("fd_seek", 0, 0, 0, 24) == 70
    assert machine.call("fd_seek", 50, 0, 0, 24) == BADF


def test_the_clock_is_given_and_moves_a_microsecond_at_each_look() -> None:
    """Two clocks of one count: the day's begins with the job's `now`, the others with 0."""
    machine = Machine()
    seen = []
    for clock in (0, 1, 0):
        assert machine.call("clock_time_get", clock, 0, 0) == 0
        seen.append(struct.unpack_from("<Q", machine.page.bytes)[0])
    assert seen == [1_000_500_000_000, 1000, 1_000_500_002_000]
    assert machine.call("clock_time_get", 4, 0, 0) == INVAL


def test_random_bytes_follow_from_the_seed() -> None:
    """The same seed gives the same stream, two draws differ, and more than 1 MiB at once is refused."""
    first, second = Machine(), Machine()
    for machine in (first, second):
        assert machine.call("random_get", 0, 32) == 0
        assert machine.call("random_get", 32, 32) == 0
    assert first.page.bytes == second.page.bytes
    assert first.page.bytes[:32] != first.page.bytes[32:64]
    assert first.call("random_get", 0, (1 << 32) - 1) == INVAL
    with pytest.raises(Fault):
        first.call("random_get", SIZE - 1, 2)


def test_output_past_the_limit_keeps_what_fits() -> None:
    """stdout and stderr are counted together; the write that is too much ends the program."""
    machine = Machine(output=10)
    assert machine.write(1, b"123456") == 0
    assert machine.write(2, b"ab") == 0
    with pytest.raises(Ended) as ended:
        machine.write(1, b"789")
    assert ended.value.limit == "output"
    output = machine.wasi.output
    assert (bytes(output.stdout), bytes(output.stderr)) == (b"12345678", b"ab")


def test_many_pieces_of_one_place_are_not_multiplied() -> None:
    """A thousand pieces that all name the whole memory move no more than the limit and one byte."""
    machine = Machine(output=100)
    machine.page.write(0, struct.pack("<II", 0, SIZE) * 1024)
    with pytest.raises(Ended):
        machine.call("fd_write", 1, 0, 1024, 9000)
    assert len(machine.wasi.output.stdout) == 100
    assert machine.call("fd_write", 1, 0, 1025, 9000) == INVAL


def test_the_folder_can_be_listed_in_parts() -> None:
    """Entries come by name, from the cookie on, and are cut where the buffer ends."""
    machine = Machine({"b": b"", "a": b"", "c": b""})
    assert machine.call("fd_readdir", 3, 0, 1000, 0, 2000) == 0
    assert machine.page.u32(2000) == 75
    assert [machine.page.bytes[at + 24 : at + 25] for at in (0, 25, 50)] == [b"a", b"b", b"c"]
    assert machine.call("fd_readdir", 3, 0, 30, 2, 2000) == 0
    assert machine.page.u32(2000) == 25
    assert machine.page.bytes[24:25] == b"c"
    assert machine.call("fd_readdir", 3, 0, 10, 0, 2000) == 0
    assert machine.page.u32(2000) == 10


NUMBERS = {
    "i": st.one_of(
        st.integers(0, 20), st.integers(0, SIZE), st.integers(SIZE - 8, SIZE + 8), st.integers(0, 2**32 - 1)
    ),
    "I": st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1)),
}
CALL = st.sampled_from(sorted(set(FUNCTIONS) - {"proc_exit"})).flatmap(
    lambda name: st.tuples(st.just(name), st.tuples(*(NUMBERS[kind] for kind in FUNCTIONS[name])))
)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=300), made=st.lists(CALL, max_size=12))
def test_whatever_is_called_it_answers_within_its_bounds(
    content: bytes, made: list[tuple[str, tuple[int, ...]]]
) -> None:
    """Any calls with any numbers over any memory give an errno, a fault or the end, and no more bytes than allowed."""
    machine = Machine({"a": b"abc"}, room=50, output=60)
    machine.page.write(0, content)
    for name, values in made:
        try:
            assert 0 <= machine.call(name, *values) < 77
        except Fault:
            pass
        except Ended:
            break
    assert len(machine.page.bytes) == SIZE
    assert len(machine.wasi.output.stdout) + len(machine.wasi.output.stderr) <= 60
    assert sum(map(len, machine.wasi.folder.files.values())) <= 53
