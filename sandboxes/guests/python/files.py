"""Python's `open` and `FileIO`, on the working folder: what a snippet reads and writes its files with.

Runs inside the guest only, and touches nothing but the guest's own memory.
"""

import errno
import io
import os
import sys
from typing import IO, Any

from folder import FOLDER, Path, made  # type: ignore[import-not-found]  # lies beside this file in the guest


class File(io.RawIOBase):
    """Stands where `FileIO` stood: one file of the folder, unbuffered."""

    def __init__(self, file: Path, mode: str = "r", closefd: bool = True, opener: object = None) -> None:
        kind = mode.replace("b", "").replace("+", "")
        if kind not in ("r", "w", "a", "x") or not closefd or opener is not None:
            raise ValueError(f"invalid mode: {mode!r}")
        self.name = file
        self.mode = mode
        self._reads = kind == "r" or "+" in mode
        self._writes = kind != "r" or "+" in mode
        self._appends = kind == "a"
        self._node = made(file, kind)
        self._at = len(self._node.content) if self._appends else 0

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return True

    def _check(self, may: bool, what: str) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not may:
            raise io.UnsupportedOperation(what)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # narrower on purpose
        self._check(self._reads, "not readable")
        view = memoryview(buffer).cast("B")
        piece = self._node.content[self._at : self._at + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def readall(self) -> bytes:
        self._check(self._reads, "not readable")
        piece = bytes(memoryview(self._node.content)[self._at :])
        self._at += len(piece)
        return piece

    def write(self, piece: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # narrower on purpose
        self._check(self._writes, "not writable")
        view = memoryview(piece).cast("B")
        content = self._node.change()
        if self._appends:
            self._at = len(content)
        _stretch(content, self._at)
        content[self._at : self._at + len(view)] = view
        self._at += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._check(True, "")
        if whence not in (0, 1, 2):
            raise ValueError(f"invalid whence: {whence}")
        at = offset + (0, self._at, len(self._node.content))[whence]
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def tell(self) -> int:
        self._check(True, "")
        return self._at

    def truncate(self, size: int | None = None, /) -> int:
        self._check(self._writes, "not writable")
        size = self._at if size is None else size
        if size < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        content = self._node.change()
        del content[size:]
        _stretch(content, size)
        return size


def _stretch(content: bytearray, size: int) -> None:
    if size > sys.maxsize:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if size > len(content):
        content.extend(bytes(size - len(content)))


def _checked(mode: str, buffering: int, text_only: tuple[object, ...]) -> None:
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    letters = set(mode)
    if letters - set("rwaxbt+") or len(mode) > len(letters) or len(letters & set("rwax")) != 1 or {"b", "t"} <= letters:
        raise ValueError(f"invalid mode: {mode!r}")
    if "b" in mode and any(given is not None for given in text_only):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if "b" not in mode and buffering == 0:
        raise ValueError("can't have unbuffered text I/O")


def open_file(
    file: Path,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: object = None,
) -> IO[Any]:
    """Python's `open`, on the working folder. Text is UTF-8 unless an encoding is given."""
    _checked(mode, buffering, (encoding, errors, newline))
    raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw  # type: ignore[return-value]  # a RawIOBase is what open gives then
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    stream: Any
    if "+" in mode:
        stream = io.BufferedRandom(raw, size)
    else:
        stream = io.BufferedWriter(raw, size) if raw.writable() else io.BufferedReader(raw, size)
    if "b" not in mode:
        encoding = "utf-8" if encoding in (None, "locale") else encoding
        stream = io.TextIOWrapper(stream, encoding, errors, newline, line_buffering=buffering == 1)
        stream.mode = mode
    FOLDER.streams[next(FOLDER.opened)] = stream
    return stream  # type: ignore[no-any-return]  # one of the three above


def touch(path: os.PathLike[str], mode: int = 0o666, exist_ok: bool = True) -> None:
    """`pathlib.Path.touch`, which asks for a descriptor."""
    File(path, "a" if exist_ok else "x").close()
