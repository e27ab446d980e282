"""A real HTTP backend that counts its requests, and a tool in front of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: count
version: 1.0.0
description: Says back what it was told.
input_schema: {type: object, properties: {text: {type: string}}, required: [text]}
effects: [write]
runner:
  http: {method: POST, url: "http://127.0.0.1:PORT/say", json: {text: "{text}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- {id: count, effect: permit, match: {tools: [count], agents: [dev]}}
"""


@dataclass
class Counted:
    """A backend that is up: its port, the requests it saw, and the connections they came over. `first` is done when a
    request has come, before it is answered."""

    port: int
    seen: list[bytes] = field(default_factory=list)
    peers: set[tuple[str, int]] = field(default_factory=set)
    first: Callable[[], object] | None = None

    def count(self) -> int:
        """Requests so far."""
        return len(self.seen)


class Quiet(ThreadingHTTPServer):
    """Says nothing of callers that were killed. Many may connect at once: a full queue of connections would turn the
    first calls of a test into failures of a busy backend."""

    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def counting_upstream() -> Iterator[Counted]:
    """Serves on a free port until the end."""
    counted = Counted(0)

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            counted.seen.append(body)
            counted.peers.add(self.client_address)
            if counted.first is not None:
                counted.first()
            said = json.dumps({"said": json.loads(body)["text"][:20]}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = Quiet(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    counted.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield counted
    finally:
        server.shutdown()
        server.server_close()


def spec_and_policy(folder: Path, upstream: Counted) -> tuple[Path, Path]:
    """Writes a spec of the counting tool and a policy that lets agent dev call it."""
    specs, policies = folder / "specs", folder / "policies"
    specs.mkdir()
    policies.mkdir()
    (specs / "count.yaml").write_text(SPEC.replace("PORT", str(upstream.port)))
    (policies / "count.yaml").write_text(POLICY)
    return specs, policies
