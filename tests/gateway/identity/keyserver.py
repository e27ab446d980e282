"""A real HTTP server on a free port that gives one document, and counts who asks for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class KeyServer:
    """What it answers may be changed at any time; `asked` are the paths, in order."""

    def __init__(self, body: bytes = b"{}") -> None:
        self.body, self.status, self.delay = body, 200, 0.0
        self.headers: dict[str, str] = {"content-type": "application/jwk-set+json"}
        self.asked: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where the document is."""
        return f"http://127.0.0.1:{self.port}/keys"


@contextmanager
def key_server(body: bytes = b"{}") -> Iterator[KeyServer]:
    """A server, until the end of the block."""
    state = KeyServer(body)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            time.sleep(state.delay)
            self.send_response(state.status)
            for name, value in {**state.headers, "content-length": str(len(state.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
