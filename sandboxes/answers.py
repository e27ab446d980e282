"""Reading what a guest says about its own run: hostile text in, checked values out.

A guest may forge its answer; a forged answer is its own result and nothing more, so here only size and shape count.
Pure: never reads a clock, a file or a socket.
"""

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sandboxes.frames import FrameError, bare, unpack_object
from sandboxes.model import MAX_FILES, Limits, Status, is_file_name

# Beside the output limit: the traceback (8 KiB of characters, at most 12 bytes each as JSON) and the frame around it.
ALLOWANCE: Final = 128 * 1024
# One byte of text becomes at most this many in ASCII-only JSON (a control character: \u0000).
ESCAPED: Final = 6
MAX_DEPTH: Final = 64
# Limits a guest may say it reached.
GUEST_LIMITS: Final = frozenset({"memory", "output", "stack", "pids", "disk", "files_out"})
# An answer without its strings is a result of at most the output limit, and this: the frame around it, with its files.
AROUND: Final = 2048
_LEVELS: Final = bytes.maketrans(b"{}", b"[]")
_NO_LEVELS: Final = bytes(set(range(256)) - set(b"[]{}"))
UNREADABLE: Final = "the sandbox returned something unreadable\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the guest reported. bytes_out: stdout, stderr and the result."""

    status: Status
    limit: str | None = None
    stdout: str = ""
    stderr: str = ""
    value: object = None
    truncated: bool = False
    bytes_out: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)


def cap(limits: Limits) -> int:
    """The longest answer, in bytes, that a guest within its output limit can need."""
    return limits.output * ESCAPED + ALLOWANCE + limits.files_out * 4 // 3


def read(raw: bytes, limits: Limits) -> Answer:
    """The guest's JSON answer as values. Never raises: what cannot be read is the status "error" and says so."""
    # Looked at before it is parsed: the values of a hostile text would stop the event loop and fill the memory.
    most = limits.output + AROUND
    if len(raw) > most and len(bare(raw, most)) > most:
        return Answer("limit", "output", truncated=True)
    try:
        return _read(unpack_object(raw), raw, limits)
    except (FrameError, RecursionError):
        return Answer("error", stderr=UNREADABLE)


def _read(found: dict[str, object], raw: bytes, limits: Limits) -> Answer:
    match found:
        case {
            "ok": bool(ok),
            "limit": limit,
            "stdout": str(stdout),
            "stderr": str(stderr),
            "truncated": bool(truncated),
            "result": value,
            **more,
        } if not more.keys() - {"files"}:
            pass
        case _:
            raise FrameError("an answer of another shape")
    if _deep(raw):
        return Answer("error", stdout=_text(stdout), stderr=f"result is nested deeper than {MAX_DEPTH}\n")
    if b"\\ud" in raw or b"\\uD" in raw:
        stdout, stderr = _text(stdout), _text(stderr)
        value = json.loads(_text(json.dumps(value, ensure_ascii=False)))
    status: Status = "ok" if ok else "error"
    named: str | None = None
    if isinstance(limit, str) and limit in GUEST_LIMITS:
        status, named = "limit", limit
    answer = _cut(Answer(status, named, stdout, stderr, value if status == "ok" else None, truncated), limits)
    return replace(answer, files=_files(more.get("files", {}), limits.files_out))


def _files(found: object, limit: int) -> dict[str, bytes]:
    """Files as base64 by name. Raises `FrameError` for another shape, a name no file may have, or more than `limit`."""
    if not isinstance(found, dict) or len(found) > MAX_FILES:
        raise FrameError("files of another shape")
    files = {}
    for name, text in found.items():
        if not isinstance(text, str) or not is_file_name(name):
            raise FrameError("a file of another shape")
        try:
            files[name] = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            raise FrameError("a file that is not base64") from None
    if sum(map(len, files.values())) > limit:
        raise FrameError("more bytes of files than allowed")
    return files


def _cut(answer: Answer, limits: Limits) -> Answer:
    """The answer with its texts held to the limit, whatever the guest's own count said."""
    result = 0 if answer.value is None else len(json.dumps(answer.value))
    stdout, stderr = answer.stdout.encode(), answer.stderr.encode()
    size = len(stdout) + len(stderr) + result
    # An error's traceback and our own sentences are not the snippet's output.
    allowed = limits.output + (0 if answer.status == "ok" else ALLOWANCE)
    if len(stdout) <= limits.output and size <= allowed:
        return Answer(
            answer.status, answer.limit, answer.stdout, answer.stderr, answer.value, answer.truncated, bytes_out=size
        )
    stdout = stdout[: limits.output]
    stderr = stderr[: limits.output - len(stdout)]
    return Answer(
        "limit",
        "output",
        stdout.decode(errors="ignore"),
        stderr.decode(errors="ignore"),
        truncated=True,
        bytes_out=len(stdout) + len(stderr),
    )


def _text(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 can carry, replaced by "?"."""
    return text.encode("utf-8", "replace").decode()


def _deep(raw: bytes) -> bool:
    """Whether the answer, itself one level, holds more than MAX_DEPTH levels of lists and objects."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    levels = bare(raw, len(raw)).translate(_LEVELS, _NO_LEVELS)
    for _ in range(MAX_DEPTH + 1):
        levels = levels.replace(b"[]", b"")  # the innermost of every place
    return bool(levels)
