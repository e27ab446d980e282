"""A real HTTP backend in a thread of its own that is well, answers with errors, or never answers, as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Mood = Literal["well", "errors", "flapping", "hangs"]
_WELL = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{"said": "well"}'
_ILL = b"HTTP/1.1 500 Oh No\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nill"


class Sick:
    """The backend: its port, its mood, and how many requests came."""

    def __init__(self) -> None:
        self.port = 0
        self.mood: Mood = "well"
        self.requests = 0

    async def serve(self, up: threading.Event) -> None:
        """Until it is cancelled."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        up.set()
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                if self.mood == "hangs":
                    await reader.read()  # until the other side gives up
                    break
                ill = self.mood == "errors" or (self.mood == "flapping" and self.requests % 2 == 0)
                writer.write(_ILL if ill else _WELL)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the gateway went, or gave up
        finally:
            writer.close()


@contextmanager
def sick() -> Iterator[Sick]:
    """One that is up until the end."""
    backend, up, loop = Sick(), threading.Event(), asyncio.new_event_loop()
    task = loop.create_task(backend.serve(up))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            for left in asyncio.all_tasks(loop):
                left.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(30)
    try:
        yield backend
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: NAME
version: 1.0.0
description: Looks something up.
input_schema: {type: object, properties: {what: {type: string}}, required: [what]}
effects: [read]
runner: {http: {method: GET, url: "http://127.0.0.1:PORT/{what}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: all
rules:
- {id: all, effect: permit, match: {tools: ["*"], agents: [dev]}}
"""


def spec(name: str, backend: Sick, *lines: str) -> str:
    """The file of a tool before a backend, with more lines."""
    return "\n".join([SPEC.replace("NAME", name).replace("PORT", str(backend.port)).rstrip("\n"), *lines, ""])
