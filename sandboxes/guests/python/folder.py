"""The working folder of a snippet: a flat set of files in the guest's own memory, behind the usual functions of `os`.

Runs inside the guest only. Never asks the host for anything: what stands in the folder is what the job brought and what
the snippet wrote. Names and limits are checked again by the host.
"""

import errno
import itertools
import os
import stat
import string
import time
import weakref
from collections.abc import Iterator
from typing import IO, Any

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

CWD = "/job"
LETTERS = frozenset(string.ascii_letters + string.digits + "_")
JOINERS = {ord("."): None, ord("-"): None}
MAX_NAME = 100
RULE = (
    "only plain files in the working folder can be made: 1 to 100 of A-Z a-z 0-9 . _ - and no . or - at the beginning"
)


class Node:
    """The bytes of one file. written: since the job began, or made by it."""

    numbers = itertools.count(1)

    def __init__(self, content: bytes | bytearray, written: bool, changed_ns: int) -> None:
        self.content = content
        self.written = written
        self.number = next(self.numbers)
        self.changed_ns = changed_ns

    def change(self) -> bytearray:
        """The bytes, to be written to; those that the job brought become a copy first."""
        if not isinstance(self.content, bytearray):
            self.content = bytearray(self.content)
        self.written = True
        self.changed_ns = time.time_ns()
        return self.content


class Folder:
    """Every file by its name. streams: the open ones, to be flushed at the end."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.given: dict[str, Node] = {}
        self.streams: weakref.WeakValueDictionary[int, IO[Any]] = weakref.WeakValueDictionary()
        self.opened = itertools.count()

    def fill(self, name: str, content: bytes, now_ns: int) -> None:
        """Puts a file of the job into the folder."""
        self.nodes[name] = self.given[name] = Node(content, False, now_ns)

    def left(self) -> dict[str, bytes | bytearray]:
        """What is new or changed, by name; first whatever open streams still hold is written."""
        for stream in list(self.streams.values()):
            try:
                stream.flush()
            except (OSError, ValueError):  # closed, detached, or opened for reading
                continue
        return {
            name: node.content
            for name, node in sorted(self.nodes.items())
            if node.written or self.given.get(name) is not node
        }


FOLDER = Folder()


def named(path: Path) -> str:
    """What `path` names in the folder: a file's name, or "" for the folder itself. None of both: not a plain name."""
    if isinstance(path, int):
        raise PermissionError("there are no file descriptors in this sandbox: use a file's name")
    text = os.fsdecode(path)
    if text in (".", "./", CWD, CWD + "/"):
        return ""
    return text.removeprefix(CWD + "/").removeprefix("./") or "/"


def plain(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name[0] in LETTERS and LETTERS.issuperset(name.translate(JOINERS))


def missing(path: Path) -> FileNotFoundError:
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not plain(named(path)):
        error.add_note("Only the working folder is here, with plain names such as 'table.csv'.")
    error.add_note(f"In the working folder: {', '.join(sorted(FOLDER.nodes)[:40]) or 'nothing'}.")
    return error


def found(path: Path) -> Node:
    """The file of that name. Raises `FileNotFoundError`, and `IsADirectoryError` for the folder itself."""
    name = named(path)
    if name == "":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if name not in FOLDER.nodes:
        raise missing(path)
    return FOLDER.nodes[name]


def place(path: Path) -> str:
    """The name of a file that may be made. Raises `PermissionError`, and `IsADirectoryError` for the folder itself."""
    name = named(path)
    if name == "":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not plain(name):
        raise PermissionError(errno.EACCES, RULE, path)
    return name


def made(path: Path, kind: str) -> Node:
    """The file to be opened, made or emptied as `kind` ("r", "w", "a" or "x") says."""
    if kind == "r":
        return found(path)
    name = place(path)
    if kind == "x" and name in FOLDER.nodes:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    node = FOLDER.nodes.setdefault(name, Node(bytearray(), True, time.time_ns()))
    if kind == "w":
        node.change().clear()
    return node


def stat_file(path: Path, *, dir_fd: None = None, follow_symlinks: bool = True) -> os.stat_result:
    """`os.stat`: the size and the time of the last write, by the job's clock; everything else is made up."""
    if named(path) == "":
        mode, number, size, at = stat.S_IFDIR | 0o755, 0, 0, 0
    else:
        node = found(path)
        mode, number, size, at = stat.S_IFREG | 0o644, node.number, len(node.content), node.changed_ns
    parts = [mode, number, 1, 1, 0, 0, size, *[at // 1_000_000_000] * 3]
    more: dict[str, float] = {f"st_{kind}time": at / 1e9 for kind in "amc"}
    more |= {f"st_{kind}time_ns": at for kind in "amc"}
    return os.stat_result(parts, more)


def list_folder(path: Path = ".") -> list[str]:
    if named(path) != "":
        found(path)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return sorted(FOLDER.nodes)


class Entry:
    """What `os.scandir` yields."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(folder, name)

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self.name in FOLDER.nodes

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False

    def is_junction(self) -> bool:
        return False

    def inode(self) -> int:
        return self.stat().st_ino

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return stat_file(self.name)


class Scan:
    """What `os.scandir` gives: an iterator that can be closed."""

    def __init__(self, path: Path = ".") -> None:
        folder = os.fsdecode(path)
        self._entries = iter([Entry(folder, name) for name in list_folder(path)])

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> "Scan":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter([])


def remove(path: Path, *, dir_fd: None = None) -> None:
    found(path)
    del FOLDER.nodes[named(path)]


def rename(src: Path, dst: Path, *, src_dir_fd: None = None, dst_dir_fd: None = None) -> None:
    node, name = found(src), place(dst)
    del FOLDER.nodes[named(src)]
    FOLDER.nodes[name] = node


def make_folder(path: Path, mode: int = 0o777, *, dir_fd: None = None) -> None:
    if named(path) == "" or named(path) in FOLDER.nodes:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    raise PermissionError(errno.EACCES, "the working folder is flat: there are no folders to make", path)


def access(path: Path, mode: int, **_how: object) -> bool:
    return named(path) in ("", *FOLDER.nodes)


def set_mode(path: Path, mode: int, **_how: object) -> None:
    """Files have no rights here: taken, so that `shutil.copy` works, and without effect."""
    found(path)


def set_time(
    path: Path, times: tuple[float, float] | None = None, *, ns: tuple[int, int] | None = None, **_how: object
) -> None:
    node = found(path)
    if times is not None:
        ns = (0, round(times[1] * 1_000_000_000))
    node.changed_ns = time.time_ns() if ns is None else ns[1]


# By the names that they take the place of, in `os` and `posix`.
FUNCTIONS: dict[str, object] = {
    "access": access,
    "chmod": set_mode,
    "getcwd": lambda: CWD,
    "getcwdb": lambda: CWD.encode(),
    "listdir": list_folder,
    "lstat": stat_file,
    "mkdir": make_folder,
    "remove": remove,
    "rename": rename,
    "replace": rename,
    "scandir": Scan,
    "stat": stat_file,
    "unlink": remove,
    "utime": set_time,
}
