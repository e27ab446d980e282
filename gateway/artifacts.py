"""What an artifact is called: its handle, the names its file may have, and what kind of thing it is. Never does I/O."""

from __future__ import annotations

import hashlib
from typing import Final

MAX_TOTAL: Final = 16 * 1024 * 1024  # bytes of files that one call may get, and that one job may leave
MAX_FILES: Final = 32
_MAX_NAME = 100
_PREFIX = "sha256:"
_HEX = frozenset("0123456789abcdef")
_BEGINS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_NAME = _BEGINS | {".", "-"}

# Closed, and without a type that a browser would run: what is not here is plain text or octets.
_TEXTS = {"csv": "text/csv", "json": "application/json", "md": "text/markdown"}
_OTHERS = {
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "pdf": "application/pdf",
    "png": "image/png",
    "webp": "image/webp",
}
_PLAIN, _OCTETS = "text/plain", "application/octet-stream"


def handle_of(content: bytes) -> str:
    """The handle of these bytes: `sha256:` and 64 hexadecimal digits, in small letters."""
    return _PREFIX + hashlib.sha256(content).hexdigest()


def is_handle(text: object) -> bool:
    """Whether this can be a handle at all."""
    return isinstance(text, str) and len(text) == 71 and text.startswith(_PREFIX) and _HEX.issuperset(text[7:])


def is_file_name(name: str) -> bool:
    """Whether a file may have this name: 1 to 100 of A-Z a-z 0-9 . _ - and no . or - at the beginning."""
    return 0 < len(name) <= _MAX_NAME and name[0] in _BEGINS and _NAME.issuperset(name)


def media_type(name: str, *, is_text: bool) -> str:
    """By the end of the name, from a closed table; a name says nothing that the bytes (UTF-8 or not) deny."""
    ending = name.rpartition(".")[2].lower()
    if is_text:
        return _TEXTS.get(ending, _PLAIN)
    return _OTHERS.get(ending, _OCTETS)


def served_as(kind: str) -> str:
    """The `Content-Type` that bytes of this kind may leave with: nothing that a browser would run."""
    if kind.startswith("text/"):
        return "text/plain; charset=utf-8"
    return kind if kind == "application/json" or kind in _OTHERS.values() else _OCTETS
