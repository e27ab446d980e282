"""The working folder of the one job: its files are laid there, and what it leaves is taken from there.

What the job leaves is hostile: links, pipes, devices, sparse giants, names nobody can keep. Only regular files with a
plain name are read, and bytes are counted as they are read. Never follows a link and never waits for a pipe.
"""

import binascii
import os
import stat

MAX_FILES = 32
MAX_NAME = 100
LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
JOINERS = {ord("."): None, ord("-"): None}
CHUNK = 1024 * 1024
PROGRAM, ARGS = ".program", ".args"


class TooMuch(Exception):
    """The job left more than it may give back; the text says what."""


def lay(folder: str, files: dict[str, str], texts: dict[str, str], stamp: float) -> None:
    """Makes the folder with these files (name → base64) and hidden texts, all last changed at `stamp` (Unix seconds).

    The arguments also get the name ARGS, unless a file of the job's has it.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name, text in texts.items():
        _write(f"{folder}/{name}", text.encode("utf-8", "surrogatepass"), stamp)
    for name, text in files.items():
        _write(f"{folder}/{name}", binascii.a2b_base64(text), stamp)
    if ARGS in texts and "ARGS" not in files:
        os.link(f"{folder}/{ARGS}", f"{folder}/ARGS")


def _write(path: str, content: bytes, stamp: float) -> None:
    with open(path, "xb") as file:
        file.write(content)
    os.utime(path, ns=(nanoseconds(stamp), nanoseconds(stamp)))


def nanoseconds(stamp: float) -> int:
    return int(stamp) * 1_000_000_000


def collect(folder: str, given: set[str], stamp: float, cap: int) -> dict[str, bytes]:
    """Base64 by name of each file that is new, or among `given` and changed since `stamp`. Raises `TooMuch`."""
    files: dict[str, bytes] = {}
    left = cap
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_name(entry.name):
                continue
            content = _read(entry.path, nanoseconds(stamp) if entry.name in given else None, left)
            if content is None:
                continue
            if len(content) > left:
                raise TooMuch(f"the files left behind are over {cap} bytes together")
            if len(files) == MAX_FILES:
                raise TooMuch(f"more than {MAX_FILES} files were left behind")
            left -= len(content)
            files[entry.name] = binascii.b2a_base64(content, newline=False)
    return files


def is_name(name: str) -> bool:
    """The rule of `sandboxes.model.is_file_name`."""
    return 0 < len(name) <= MAX_NAME and name[0] in LETTERS and LETTERS.issuperset(name.translate(JOINERS))


def _read(path: str, unchanged: int | None, left: int) -> bytes | None:
    """At most a byte more than `left`; None for what is no regular file, cannot be read, or is as it was given."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mtime_ns == unchanged:
            return None
        whole = bytearray()
        while len(whole) <= left:
            part = os.read(descriptor, min(CHUNK, left + 1 - len(whole)))
            if not part:
                break
            whole += part
        return bytes(whole)
    finally:
        os.close(descriptor)
