"""The files of one job as a WASI program sees them: one flat folder that lives in memory and is gone with the job.

Pure: nothing here touches a file system, so no name can lead to one. Bytes and names are bounded.
"""

from collections.abc import Mapping
from typing import Final

from sandboxes.model import MAX_FILES, is_file_name

OK: Final = 0
BADF: Final = 8
EXIST: Final = 20
INVAL: Final = 28
ISDIR: Final = 31
NOENT: Final = 44
NOSPC: Final = 51
NOTDIR: Final = 54
NOTCAPABLE: Final = 76

# How `path_open` asks for a file.
CREATE: Final = 1
DIRECTORY: Final = 2
EXCLUSIVE: Final = 4
TRUNCATE: Final = 8


class Folder:
    """Files by name. `room`: bytes that may still be written beyond what was given at the start."""

    def __init__(self, given: Mapping[str, bytes], room: int) -> None:
        self._given = dict(given)
        self._room = room
        self.files = {name: bytearray(content) for name, content in given.items()}

    def changed(self) -> dict[str, bytes]:
        """What is new, or not as it was given."""
        return {name: bytes(now) for name, now in self.files.items() if self._given.get(name) != bytes(now)}

    def find(self, path: str, how: int) -> str | int:
        """The file that `path` names, made or emptied as `how` asks; "" is the folder itself. Else an errno."""
        if path.startswith("/") or ".." in path.split("/"):
            return NOTCAPABLE
        name = path.removeprefix("./")
        if name in ("", "."):
            return ISDIR if how & (CREATE | TRUNCATE) else ""
        if name in self.files:
            return self._take(name, how)
        if how & DIRECTORY or not how & CREATE:
            return NOENT
        if not is_file_name(name):
            return INVAL
        if len(self.files) >= MAX_FILES:
            return NOSPC
        self.files[name] = bytearray()
        return name

    def _take(self, name: str, how: int) -> str | int:
        if how & DIRECTORY:
            return NOTDIR
        if how & CREATE and how & EXCLUSIVE:
            return EXIST
        if how & TRUNCATE:
            self._room += len(self.files[name])
            self.files[name].clear()
        return name

    def write(self, name: str, at: int, content: bytes) -> int:
        """Writes at a position, with zeros before it where the file is shorter. An errno."""
        file = self.files[name]
        growth = at + len(content) - len(file) if content else 0
        if growth > self._room:
            return NOSPC
        if growth > 0:
            self._room -= growth
            file.extend(bytes(growth))
        file[at : at + len(content)] = content
        return OK


class Handle:
    """An open file: its name in the folder ("" is the folder), a position, and what it was opened for."""

    def __init__(self, name: str, readable: bool = True, writable: bool = False, append: bool = False) -> None:
        self.name = name
        self.at = 0
        self.readable = readable
        self.writable = writable
        self.append = append
