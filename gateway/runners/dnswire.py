"""DNS messages (RFC 1035) as far as an A or AAAA question needs them: bytes out, checked addresses in.

Pure; it never opens a socket, never keeps an answer, never follows a referral. An answer is taken only when it carries
our id, echoes our question and was not cut short.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from gateway.runners.addresses import Address

A, CNAME, AAAA = 1, 5, 28
_IN = 1
_HEAD = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_MAX_POINTERS = 16
_MAX_RECORDS = 64


class BadAnswer(ValueError):
    """The datagram is no usable answer to our question."""


def question(number: int, host: str, kind: int) -> bytes:
    """A recursive query for the records of `kind` of `host` (canonical A-labels)."""
    name = b"".join(bytes([len(label)]) + label.encode("ascii") for label in host.split("."))
    return _HEAD.pack(number, 0x0100, 1, 0, 0, 0) + name + b"\0" + struct.pack("!HH", kind, _IN)


def addresses(datagram: bytes, asked: bytes) -> list[Address]:
    """The addresses in the answer to the query `asked`, of the name or of its aliases. Raises BadAnswer."""
    try:
        return list(_addresses(datagram, asked))
    except (struct.error, IndexError, UnicodeDecodeError):
        raise BadAnswer("cut short") from None


def _addresses(datagram: bytes, asked: bytes) -> Iterator[Address]:
    number, flags, questions, answers, _, _ = _HEAD.unpack_from(datagram)
    if number != int.from_bytes(asked[:2], "big") or not flags & 0x8000 or questions != 1:
        raise BadAnswer("not an answer to this question")
    end = len(asked)
    if datagram[12:end].lower() != asked[12:].lower():
        raise BadAnswer("answers another question")
    if flags & 0x0200 or answers > _MAX_RECORDS:
        raise BadAnswer("cut short, or too long")
    if flags & 0x000F not in (0, 3):
        raise BadAnswer("the server refused")
    kind = int.from_bytes(asked[-4:-2], "big")
    names = {_name(asked, 12)[0]}
    at = end
    for _ in range(answers):
        owner, at = _name(datagram, at)
        found, where, _, size = _RECORD.unpack_from(datagram, at)
        at += _RECORD.size
        value = datagram[at : at + size]
        if owner in names and where == _IN and found == CNAME:
            names.add(_name(datagram, at)[0])
        elif owner in names and where == _IN and found == kind:
            yield _address(value, kind)
        at += size


def _address(value: bytes, kind: int) -> Address:
    if len(value) != (4 if kind == A else 16):
        raise BadAnswer("an address of the wrong length")
    return IPv4Address(value) if kind == A else IPv6Address(value)


def _name(datagram: bytes, at: int) -> tuple[bytes, int]:
    """The name at `at`, lower case, and where reading goes on. Pointers only lead back, and not for ever."""
    labels: list[bytes] = []
    after = -1
    for _ in range(_MAX_POINTERS + 128):
        size = datagram[at]
        if size >= 0xC0:
            if after < 0:
                after = at + 2
            target = int.from_bytes(datagram[at : at + 2], "big") & 0x3FFF
            if target >= at:
                raise BadAnswer("a pointer that leads forward")
            at = target
        elif size == 0:
            return b".".join(labels), after if after >= 0 else at + 1
        elif size < 64:
            labels.append(datagram[at + 1 : at + 1 + size].lower())
            at += 1 + size
        else:
            break
    raise BadAnswer("a name without end")
