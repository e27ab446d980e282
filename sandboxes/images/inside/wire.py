"""Frames as the inside speaks them: a 4-byte big-endian length and that many bytes.

The inside cannot import the rest of the package, so this is its own copy of what `sandboxes.frames` defines. It uses
`_socket`, for `socket` brings half a mebibyte into a container that idles. Never decides what a frame may say.
"""

import json
import struct
from _socket import socket

HEADER = struct.Struct(">I")


class Broken(Exception):
    """What came is not the language."""


def send(channel: socket, *parts: bytes) -> None:
    """Sends one frame made of `parts`, without joining them."""
    channel.sendall(HEADER.pack(sum(map(len, parts))))
    for part in parts:
        channel.sendall(part)


def send_json(channel: socket, value: object) -> None:
    send(channel, json.dumps(value, separators=(",", ":")).encode())


def receive(channel: socket) -> bytes:
    """Blocks for one frame of any length: for a side that is trusted. Raises `EOFError` when it is gone."""
    (size,) = HEADER.unpack(_exactly(channel, HEADER.size))
    return _exactly(channel, size)


def _exactly(channel: socket, size: int) -> bytes:
    whole = bytearray(size)
    view = memoryview(whole)
    have = 0
    while have < size:
        got = channel.recv_into(view[have:])
        if got == 0:
            raise EOFError
        have += got
    return bytes(whole)


class Splitter:
    """Cuts what an untrusted side sends into objects, each from a frame of at most `cap` bytes."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._left = bytearray()

    def feed(self, part: bytes) -> list[dict[str, object]]:
        """The objects completed by `part`. Raises `Broken`."""
        left = self._left
        left += part
        found = []
        while len(left) >= HEADER.size:
            (size,) = HEADER.unpack_from(left)
            if size > self._cap:
                raise Broken
            end = HEADER.size + size
            if len(left) < end:
                break
            found.append(_object(bytes(left[HEADER.size : end])))
            del left[:end]
        return found


def _object(payload: bytes) -> dict[str, object]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        raise Broken from None
    if not isinstance(value, dict):
        raise Broken
    return value
