"""What a connection may do before there is a request, and where two parsers could read one differently."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.served import Served, served

MIB = 1 << 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One gateway for all of them."""
    with served(tmp_path_factory.mktemp("edge") / "home") as one:
        yield one


def sent(gateway: Served, *pieces: bytes) -> bytes:
    """Sends the pieces until the other side hangs up; the first bytes it answered."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as wire:
        try:
            for piece in pieces:
                wire.sendall(piece)
            return wire.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def head(gateway: Served, line: str, *more: str) -> bytes:
    """A request head with the right Host."""
    return "\r\n".join((line, f"Host: 127.0.0.1:{gateway.port}", *more, "")).encode()


@pytest.mark.parametrize("endless", [b"a" * MIB, b"x-a: b\r\n" * (MIB // 8)], ids=["one header", "many headers"])
def test_a_head_without_end_is_cut_off(gateway: Served, endless: bytes) -> None:
    """It is not kept in memory until somebody may look at it."""
    before = gateway.rss()
    assert sent(gateway, head(gateway, "GET /healthz HTTP/1.1", "x-b: c"), *[endless] * 64) == b""
    assert gateway.rss() - before < 16 * MIB
    assert gateway.get("/healthz")[0] == 200


def test_a_head_that_does_not_arrive_is_given_up(gateway: Served) -> None:
    """Neither a silent connection nor one that stops in the middle of its head stays open."""
    assert sent(gateway) == b""
    assert sent(gateway, head(gateway, "GET /healthz HTTP/1.1")) == b""


def test_a_body_for_a_session_is_not_read_without_a_key(gateway: Served) -> None:
    """Who calls comes first on this route too, and then the size."""
    before = gateway.rss()
    start = head(
        gateway, "POST /v1/sessions HTTP/1.1", "Content-Type: application/json", f"Content-Length: {256 * MIB}"
    )
    assert sent(gateway, start + b"\r\n").startswith(b"HTTP/1.1 401 ")
    sent(gateway, start + b"\r\n", *[b" " * MIB] * 64)
    assert gateway.rss() - before < 16 * MIB
    assert gateway.post("/v1/sessions", b"[" + b" " * MIB + b"]")[0] == 413


def test_a_trailer_is_not_a_header(gateway: Served) -> None:
    """What stands behind the body cannot say who calls: a proxy in front would not have seen it."""
    start = head(gateway, "GET /v1/tools HTTP/1.1", "Transfer-Encoding: chunked")
    answer = sent(gateway, start + f"\r\n0\r\nAuthorization: Bearer {gateway.key}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(("target", "status"), [("http://evil.example", b"400"), ("http://127.0.0.1:{port}", b"200")])
def test_a_target_for_another_host_is_refused(gateway: Served, target: str, status: bytes) -> None:
    """The authority of an absolute target must be what Host says."""
    line = f"GET {target.format(port=gateway.port)}/healthz HTTP/1.1"
    assert sent(gateway, head(gateway, line) + b"\r\n").startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("scheme", ["", "Basic ", "Bearer: "])
def test_a_key_counts_as_a_bearer_token_only(gateway: Served, scheme: str) -> None:
    """The bare key, or the key under another scheme, is nobody's."""
    authorization = f"Authorization: {scheme}{gateway.key}"
    answer = sent(gateway, head(gateway, "GET /v1/tools HTTP/1.1", authorization) + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
