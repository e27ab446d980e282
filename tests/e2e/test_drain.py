"""SIGTERM under load: whoever was let in gets an answer."""

from __future__ import annotations

import random
import signal
import socket
import time
from pathlib import Path

from tests.e2e.draining import drain, slow_tool
from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.served import served

ROUNDS = 4


def test_no_reply_is_lost(tmp_path: Path) -> None:
    """Each request over a kept connection is answered, each call on record too, and it ends cleanly."""
    rng = random.Random(7)
    with slow_tool(tmp_path, rng) as flags:
        drained = [drain(tmp_path / f"home{number}", flags, rng) for number in range(ROUNDS)]
    assert [each.broken() for each in drained] == [[]] * ROUNDS
    assert all(len(each.answered) > 10 for each in drained)


def _hanging(folder: Path, upstream: Counted) -> tuple[str, ...]:
    """Flags for a gateway with a tool whose backend does not answer for long."""
    upstream.first = lambda: time.sleep(12)
    specs, policies = spec_and_policy(folder, upstream)
    return "--specs", str(specs), "--policies", str(policies)


def everything(wire: socket.socket) -> bytes:
    """What comes until the other side hangs up."""
    wire.settimeout(30)
    return b"".join(iter(lambda: wire.recv(65536), b""))


def test_it_says_that_it_stops_and_ends_what_does_not(tmp_path: Path) -> None:
    """Over a connection that is open /readyz is red; a call that would run for long is answered as cancelled."""
    with (
        counting_upstream() as upstream,
        served(tmp_path / "home", *_hanging(tmp_path, upstream)) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as wire,
    ):
        body = b'{"arguments": {"text": "x"}}'
        authorization = f"Authorization: Bearer {gateway.key}\r\n"
        head = f"Host: 127.0.0.1:{gateway.port}\r\n"
        json_body = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        wire.sendall(f"POST /v1/tools/count/call HTTP/1.1\r\n{head}{authorization}{json_body}".encode() + body)
        with socket.create_connection(("127.0.0.1", gateway.port)) as other:
            time.sleep(0.5)
            gateway.process.send_signal(signal.SIGTERM)
            time.sleep(0.25)
            other.sendall(f"GET /readyz HTTP/1.1\r\n{head}\r\n".encode())
            said = everything(other)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in said
        assert b'{"serving":"stopping"}' in said
        answer = everything(wire)
        assert b'"status":"failed"' in answer
        assert b'"code":"cancelled"' in answer
        assert gateway.process.wait(30) == 0
