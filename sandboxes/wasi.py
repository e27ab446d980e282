"""A small WASI preview 1 for one job: its input, its captured output, its files, its clock and its seeded random bytes.

Follows the witx of `wasi_snapshot_preview1` for the functions in FUNCTIONS and has no others: nothing here waits, opens
a socket or makes a system call. Every pointer and length comes from the program: what lies outside its memory is the
errno `fault`, and no call does more than a bounded amount of work, for nothing can interrupt it.
"""

import hashlib
import struct
from typing import Final, Protocol

from sandboxes.model import MAX_FILE_NAME
from sandboxes.wasi_files import BADF, INVAL, NOTDIR, OK, Folder, Handle

# Parameters of each function: i and I are integers of 32 and 64 bits. All give an errno but `proc_exit`.
FUNCTIONS: Final[dict[str, str]] = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_close": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_filestat_get": "ii",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_seek": "iIii",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_filestat_get": "iiiii",
    "path_open": "iiiiiIIii",
    "proc_exit": "i",
    "random_get": "ii",
    "sched_yield": "",
}
FAULT: Final = 21
ILSEQ: Final = 25
MFILE: Final = 33
NAMETOOLONG: Final = 37
SPIPE: Final = 70

STDIN, STDOUT, STDERR, FOLDER = range(4)
PROGRAM: Final = b"module\0"
ROOT: Final = b"/"
MAX_OPEN: Final = 64
MAX_PARTS: Final = 1024
# Bytes that one call moves at most; reading and writing less than was asked is allowed, and programs go on.
MAX_MOVED: Final = 4 << 20
MAX_RANDOM: Final = 1 << 20
CLOCKS: Final = 4
MICROSECOND: Final = 1000
APPEND: Final = 1
RIGHT_READ: Final = 1 << 1
RIGHT_WRITE: Final = 1 << 6
ALL_RIGHTS: Final = (1 << 30) - 1
KIND_UNKNOWN, KIND_FOLDER, KIND_FILE = 0, 3, 4
PART: Final = struct.Struct("<II")
ENTRY: Final = struct.Struct("<QQIB3x")
STAT: Final = struct.Struct("<QQB7xQQQQQ")
FDSTAT: Final = struct.Struct("<BxH4xQQ")


class Fault(Exception):
    """A pointer or a length that does not lie in the program's memory."""


class Ended(Exception):
    """Raised out of a call to end the program: by itself with an exit code, or by us for its output."""

    def __init__(self, code: int = 0, limit: str | None = None) -> None:
        super().__init__(code, limit)
        self.code = code
        self.limit = limit


class Memory(Protocol):
    """The program's memory. All three raise `Fault` unless every byte lies inside."""

    def check(self, start: int, size: int) -> None: ...
    def read(self, start: int, size: int) -> bytes: ...
    def write(self, start: int, content: bytes) -> None: ...


class Output:
    """stdout and stderr: bytes, counted together. Writing past the limit keeps what fits and ends the program."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.stdout = bytearray()
        self.stderr = bytearray()

    def write(self, stream: int, content: bytes) -> None:
        (self.stdout if stream == STDOUT else self.stderr).extend(content[: self.left])
        if len(content) > self.left:
            self.left = 0
            raise Ended(limit="output")
        self.left -= len(content)


class Wasi:
    """The functions by their WASI names. Each takes the program's memory and unsigned integers and gives an errno.

    now: Unix seconds at the start; the clock moves a microsecond each time it is read.
    """

    def __init__(self, stdin: bytes, folder: Folder, output: Output, seed: int, now: float) -> None:
        self.output = output
        self.folder = folder
        self._stdin = stdin
        self._now = round(now * 1_000_000) * MICROSECOND
        self._reads = 0
        self._seed = seed.to_bytes(8, "little")
        self._draws = 0
        self._open: dict[int, Handle | None] = {STDIN: None, STDOUT: None, STDERR: None, FOLDER: Handle("")}
        self._read_from_stdin = 0

    # program

    def args_sizes_get(self, memory: Memory, count: int, size: int) -> int:
        memory.write(count, (1).to_bytes(4, "little"))
        memory.write(size, len(PROGRAM).to_bytes(4, "little"))
        return OK

    def args_get(self, memory: Memory, pointers: int, texts: int) -> int:
        memory.write(pointers, texts.to_bytes(4, "little"))
        memory.write(texts, PROGRAM)
        return OK

    def environ_sizes_get(self, memory: Memory, count: int, size: int) -> int:
        memory.write(count, bytes(4))
        memory.write(size, bytes(4))
        return OK

    def environ_get(self, _memory: Memory, _pointers: int, _texts: int) -> int:
        return OK

    def proc_exit(self, _memory: Memory, code: int) -> int:
        raise Ended(code)

    def sched_yield(self, _memory: Memory) -> int:
        return OK

    def clock_res_get(self, memory: Memory, clock: int, into: int) -> int:
        if clock >= CLOCKS:
            return INVAL
        memory.write(into, MICROSECOND.to_bytes(8, "little"))
        return OK

    def clock_time_get(self, memory: Memory, clock: int, _precision: int, into: int) -> int:
        if clock >= CLOCKS:
            return INVAL
        since = self._reads * MICROSECOND
        self._reads += 1
        memory.write(into, (since if clock else self._now + since).to_bytes(8, "little"))
        return OK

    def random_get(self, memory: Memory, into: int, size: int) -> int:
        """Bytes of a stream that depends on the job's seed alone; at most 1 MiB at once."""
        if size > MAX_RANDOM:
            return INVAL
        self._draws += 1
        memory.write(into, hashlib.shake_256(self._seed + self._draws.to_bytes(8, "little")).digest(size))
        return OK

    # reading and writing

    def fd_write(self, memory: Memory, fd: int, parts: int, count: int, into: int) -> int:
        handle = self._open.get(fd)
        if not handle.writable if handle else fd not in self._open or fd == STDIN:
            return BADF
        if count > MAX_PARTS:
            return INVAL
        # For the output one byte more than fits is enough to see that it does not.
        content = _gather(memory, parts, count, MAX_MOVED if handle else self.output.left + 1)
        memory.write(into, len(content).to_bytes(4, "little"))
        if handle is None:
            self.output.write(fd, content)
            return OK
        if handle.append:
            handle.at = len(self.folder.files[handle.name])
        failed = self.folder.write(handle.name, handle.at, content)
        handle.at += 0 if failed else len(content)
        return failed

    def fd_read(self, memory: Memory, fd: int, parts: int, count: int, into: int) -> int:
        handle = self._open.get(fd)
        if not (handle.readable and handle.name) if handle else fd not in self._open or fd != STDIN:
            return BADF
        if count > MAX_PARTS:
            return INVAL
        source = self._stdin if handle is None else self.folder.files[handle.name]
        start = at = self._read_from_stdin if handle is None else handle.at
        end = min(len(source), start + MAX_MOVED)
        for place, size in PART.iter_unpack(memory.read(parts, count * PART.size)):
            memory.check(place, size)
            part = bytes(source[at : min(at + size, end)])
            memory.write(place, part)
            at += len(part)
        memory.write(into, (at - start).to_bytes(4, "little"))
        if handle is None:
            self._read_from_stdin = at
        else:
            handle.at = at
        return OK

    def fd_seek(self, memory: Memory, fd: int, offset: int, origin: int, into: int) -> int:
        handle = self._open.get(fd)
        if handle is None or not handle.name:
            return SPIPE if fd in self._open else BADF
        if origin > 2:  # set, current, end
            return INVAL
        base = (0, handle.at, len(self.folder.files[handle.name]))[origin]
        at = base + (offset - (1 << 64) if offset >> 63 else offset)
        if not 0 <= at < 1 << 63:
            return INVAL
        memory.write(into, at.to_bytes(8, "little"))
        handle.at = at
        return OK

    def fd_tell(self, memory: Memory, fd: int, into: int) -> int:
        return self.fd_seek(memory, fd, 0, 1, into)

    # descriptors

    def fd_close(self, _memory: Memory, fd: int) -> int:
        if fd not in self._open:
            return BADF
        del self._open[fd]
        return OK

    def fd_fdstat_get(self, memory: Memory, fd: int, into: int) -> int:
        if fd not in self._open:
            return BADF
        handle = self._open[fd]
        flags = APPEND if handle is not None and handle.append else 0
        memory.write(into, FDSTAT.pack(_kind(handle), flags, ALL_RIGHTS, ALL_RIGHTS))
        return OK

    def fd_fdstat_set_flags(self, _memory: Memory, fd: int, flags: int) -> int:
        handle = self._open.get(fd)
        if handle is None or not handle.name:
            return BADF
        handle.append = bool(flags & APPEND)
        return OK

    def fd_filestat_get(self, memory: Memory, fd: int, into: int) -> int:
        if fd not in self._open:
            return BADF
        memory.write(into, self._stat(self._open[fd]))
        return OK

    def fd_prestat_get(self, memory: Memory, fd: int, into: int) -> int:
        if not self._is_root(fd):
            return BADF
        memory.write(into, PART.pack(0, len(ROOT)))
        return OK

    def fd_prestat_dir_name(self, memory: Memory, fd: int, into: int, size: int) -> int:
        if not self._is_root(fd):
            return BADF
        if size < len(ROOT):
            return NAMETOOLONG
        memory.write(into, ROOT)
        return OK

    def fd_readdir(self, memory: Memory, fd: int, into: int, size: int, cookie: int, used: int) -> int:
        handle = self._open.get(fd)
        if handle is None:
            return NOTDIR if fd in self._open else BADF
        if handle.name:
            return NOTDIR
        rows = b""
        for number, name in enumerate(sorted(self.folder.files), start=1):
            if number > cookie:
                rows += ENTRY.pack(number, number, len(name), KIND_FILE) + name.encode()
        memory.write(into, rows[:size])
        memory.write(used, min(len(rows), size).to_bytes(4, "little"))
        return OK

    def _is_root(self, fd: int) -> bool:
        handle = self._open.get(fd)
        return fd == FOLDER and handle is not None and not handle.name

    # paths

    def path_open(
        self,
        memory: Memory,
        fd: int,
        _links: int,
        path: int,
        size: int,
        how: int,
        rights: int,
        _inherited: int,
        flags: int,
        into: int,
    ) -> int:
        name = self._path(memory, fd, path, size, how)
        if isinstance(name, int):
            return name
        if len(self._open) >= MAX_OPEN:
            return MFILE
        number = next(n for n in range(MAX_OPEN) if n not in self._open)
        memory.write(into, number.to_bytes(4, "little"))
        self._open[number] = Handle(
            name, bool(rights & RIGHT_READ), bool(name and rights & RIGHT_WRITE), bool(flags & APPEND)
        )
        return OK

    def path_filestat_get(self, memory: Memory, fd: int, _links: int, path: int, size: int, into: int) -> int:
        name = self._path(memory, fd, path, size, 0)
        if isinstance(name, int):
            return name
        memory.write(into, self._stat(Handle(name)))
        return OK

    def _path(self, memory: Memory, fd: int, path: int, size: int, how: int) -> str | int:
        handle = self._open.get(fd)
        if handle is None or handle.name:
            return NOTDIR if fd in self._open else BADF
        if size > MAX_FILE_NAME + 2:
            return NAMETOOLONG
        try:
            return self.folder.find(memory.read(path, size).decode(), how)
        except UnicodeDecodeError:
            return ILSEQ

    def _stat(self, handle: Handle | None) -> bytes:
        size = len(self.folder.files[handle.name]) if handle is not None and handle.name else 0
        return STAT.pack(1, 1, _kind(handle), 1, size, self._now, self._now, self._now)


def _kind(handle: Handle | None) -> int:
    if handle is None:
        return KIND_UNKNOWN
    return KIND_FILE if handle.name else KIND_FOLDER


def _gather(memory: Memory, parts: int, count: int, most: int) -> bytes:
    """The first `most` bytes of the `count` pieces named at `parts`. Raises `Fault` if any piece is not inside."""
    content = bytearray()
    for place, size in PART.iter_unpack(memory.read(parts, count * PART.size)):
        memory.check(place, size)
        content += memory.read(place, min(size, most - len(content)))
    return bytes(content)
