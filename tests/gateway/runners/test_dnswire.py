"""DNS messages: the answers that are taken, and the ones that are not."""

import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.runners.dnswire import AAAA, CNAME, A, BadAnswer, addresses, question

ASKED = question(0x1234, "a.test", A)


def _answer(*records: bytes, number: int = 0x1234, flags: int = 0x8180, asked: bytes = ASKED) -> bytes:
    return struct.pack("!6H", number, flags, 1, len(records), 0, 0) + asked[12:] + b"".join(records)


def _record(value: bytes, kind: int = A, name: bytes = b"\xc0\x0c", where: int = 1) -> bytes:
    return name + struct.pack("!HHIH", kind, where, 60, len(value)) + value


ONE = _record(b"\x01\x02\x03\x04")


def test_a_question_is_one_recursive_question() -> None:
    """The bytes of RFC 1035 for one name."""
    assert bytes.fromhex("1234 0100 0001 0000 0000 0000 0161 0474657374 00 0001 0001") == ASKED


def test_every_address_of_the_answer_is_taken() -> None:
    """Several records give several addresses, in order."""
    found = addresses(_answer(ONE, _record(b"\x7f\0\0\1")), ASKED)
    assert found == [ip_address("1.2.3.4"), ip_address("127.0.0.1")]


def test_ipv6_addresses_are_taken() -> None:
    """An AAAA answer holds 16 bytes."""
    asked = question(1, "a.test", AAAA)
    record = _record(ip_address("::1").packed, AAAA)
    assert addresses(_answer(record, number=1, asked=asked), asked) == [ip_address("::1")]


def test_an_alias_is_followed_within_the_answer() -> None:
    """The address of the name a CNAME leads to counts; the address of any other name does not."""
    alias = _record(b"\x01b\xc0\x0e", CNAME)
    theirs, strange = _record(b"\x01\x01\x01\x01", name=b"\x01B\xc0\x0e"), _record(b"\x7f\0\0\1", name=b"\x01z\0")
    assert addresses(_answer(alias, theirs, strange), ASKED) == [ip_address("1.1.1.1")]


@pytest.mark.parametrize("flags", [0x8180, 0x8183])
def test_no_record_is_no_address(flags: int) -> None:
    """An empty answer and an unknown name give nothing, and are answers."""
    assert addresses(_answer(flags=flags), ASKED) == []


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x12\x34",
        ASKED,
        _answer(ONE, number=0x1235),
        _answer(ONE, flags=0x0180),
        _answer(ONE, flags=0x8380),
        _answer(ONE, flags=0x8182),
        _answer(ONE, flags=0x8185),
        _answer(ONE, asked=question(0x1234, "b.test", A)),
        _answer(ONE, asked=question(0x1234, "a.test", AAAA)),
        _answer(ONE)[:-1],
        _answer(_record(b"\x01\x02\x03")),
        _answer(_record(b"\x01\x02\x03\x04", name=b"\xc0\x17")),
        _answer(_record(b"\x01\x02\x03\x04", name=b"\xc0\xff")),
        _answer(_record(b"\x01\x02\x03\x04", name=b"\x80\x01")),
        _answer(*[ONE] * 65),
    ],
)
def test_what_does_not_answer_the_question_is_refused(datagram: bytes) -> None:
    """Another id, another question, an error, a cut, a pointer that leads on: none of these is an answer."""
    with pytest.raises(BadAnswer):
        addresses(datagram, ASKED)


@given(st.binary(max_size=200))
def test_any_bytes_are_addresses_or_a_bad_answer(tail: bytes) -> None:
    """A hostile server can do nothing but answer or be passed over."""
    with suppress(BadAnswer):
        addresses(struct.pack("!6H", 0x1234, 0x8180, 1, 3, 0, 0) + ASKED[12:] + tail, ASKED)
