"""The language between the parent and a worker: frames, each a 4-byte big-endian length and one JSON text.

Whatever a worker sends is untrusted, for a guest may have taken it over. Never pickles, never reads past a cap.
"""

import json
import math
import socket
import struct
from typing import Final

HEADER: Final = struct.Struct(">I")
# The reply to a call when the job's time is up: the guest is not to go on.
TIME_IS_UP: Final = b""
# Integers with fewer characters fit 64 bits; one with more than MAX_DIGITS does not.
SHORT: Final = 19
MAX_DIGITS: Final = 24
PART: Final = 64 * 1024


class FrameError(Exception):
    """The other side broke the language; nothing it says can be used any more."""


def pack(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


def pack_json(value: object) -> bytes:
    return pack(json.dumps(value, separators=(",", ":")).encode())


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _integer(text: str) -> int:
    if len(text) >= SHORT and not -(2**63) <= int(text[:MAX_DIGITS]) < 2**64:
        raise ValueError("integer out of range")
    return int(text)


_DECODER: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_finite, parse_int=_integer)


def unpack_object(payload: bytes) -> dict[str, object]:
    """The JSON object in `payload`: finite numbers, integers of 64 bits at most. Raises `FrameError`."""
    try:
        value = _DECODER.decode(payload.decode())
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise FrameError("not a JSON object")
    return value


def bare(payload: bytes, most: int) -> bytes:
    """A JSON text without its strings: of each at most one quote is left. Looks no further once it is over `most`.

    Cheap and small, whatever the bytes are, while the values of a text may take thirty times its room.
    """
    plain = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    rest, inside = bytearray(), 0
    for start in range(0, len(plain), PART):
        pieces = plain[start : start + PART].split(b'"')
        rest += b'"'.join(pieces[inside::2])
        inside = (inside + len(pieces) - 1) % 2
        if len(rest) > most:
            break
    return bytes(rest)


def receive(channel: socket.socket, cap: int) -> bytes:
    """Blocks for one frame. Raises `EOFError` when the other side is gone, `FrameError` over `cap` bytes."""
    (size,) = HEADER.unpack(_exactly(channel, HEADER.size))
    if size > cap:
        raise FrameError(f"a frame of {size} bytes, over {cap}")
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    part = channel.recv(size, socket.MSG_WAITALL)
    if len(part) == size:
        return part
    whole = bytearray(part)
    while len(whole) < size:
        part = channel.recv(size - len(whole))
        if not part:
            raise EOFError
        whole += part
    return bytes(whole)


class Splitter:
    """Cuts a byte stream into frame payloads of at most `cap` bytes each."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._left = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame has begun that is not whole yet."""
        return bool(self._left)

    def feed(self, part: bytes) -> list[bytes]:
        """The payloads completed by `part`. Raises `FrameError` as soon as a length is over the cap."""
        left = self._left
        left += part
        payloads = []
        while len(left) >= HEADER.size:
            (size,) = HEADER.unpack_from(left)
            if size > self.cap:
                raise FrameError(f"a frame of {size} bytes, over {self.cap}")
            end = HEADER.size + size
            if len(left) < end:
                break
            payloads.append(bytes(left[HEADER.size : end]))
            del left[:end]
        return payloads
