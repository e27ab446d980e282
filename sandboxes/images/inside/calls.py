"""What a snippet reaches the outside with: `call`, `tools` and `fetch`, each a call of a granted tool by the gateway.

They go to the runner, which passes them on. Nothing here decides: what may be called the gateway knows, and checks.
"""

import fcntl
import json
import os
from _socket import socket

from sandboxes.images.inside import wire

FETCH = "net.fetch"


class ToolError(Exception):
    """A tool called from the program refused or failed; the text says why."""

    __module__ = "__main__"


class Line:
    """The way to the runner. One call at a time, whichever process or thread of the job makes it."""

    def __init__(self, descriptor: int, folder: str) -> None:
        self._channel = socket(fileno=descriptor)
        self._folder = folder

    def ask(self, question: dict[str, object]) -> dict[str, object]:
        lock = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            wire.send_json(self._channel, question)
            reply: dict[str, object] = json.loads(wire.receive(self._channel))
            return reply
        finally:
            os.close(lock)

    def end(self, report: dict[str, object]) -> None:
        """The last frame: how the snippet ended."""
        wire.send_json(self._channel, {"end": report})


class Calls:
    """The tools that this snippet may call, and how."""

    def __init__(self, line: Line, names: list[str]) -> None:
        self.names = names
        self._line = line

    def call(self, name: str, /, **arguments: object) -> object:
        """Has the gateway run the tool `name`, as a call of its own. Raises `ToolError`."""
        if name not in self.names:
            raise ToolError(f"{name!r} may not be called from here; allowed: {', '.join(self.names) or 'none'}")
        reply = self._line.ask({"name": name, "args": json.dumps(arguments, allow_nan=False)})
        if "error" in reply:
            raise ToolError(reply["error"])
        return reply["value"]

    def fetch(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None, body: str | bytes | None = None
    ) -> "Response":
        """Has the gateway fetch a URL. Raises `ToolError`."""
        if FETCH not in self.names:
            raise ToolError("nothing can be fetched from here: this code was granted no network")
        if isinstance(body, bytes | bytearray):
            body = body.decode()
        if not isinstance(body, str | None):
            raise TypeError(f"body must be text, not {type(body).__name__}; for JSON: json.dumps(...)")
        given = {"headers": dict(headers) if headers else None, "body": body}
        wanted = {name: value for name, value in given.items() if value is not None}
        return Response(self.call(FETCH, method=method.upper(), url=str(url), **wanted))


class Response:
    """What `fetch` gives. status: the number. headers: by name in lower case. text: the body."""

    __module__ = "__main__"

    def __init__(self, reply: object) -> None:
        found = reply if isinstance(reply, dict) else {}
        self.status: int = found["status"]
        self.headers = {name.lower(): text for name, text in found["headers"].items()}
        self.text: str = found["body"]

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.text)} characters>"

    def json(self) -> object:
        """The body as JSON. Raises `ValueError` if it is none."""
        return json.loads(self.text)


class Tools:
    """`tools.NAME(**arguments)` for each tool that may be called; `dir(tools)` lists them."""

    __module__ = "__main__"

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __dir__(self) -> list[str]:
        return [name for name in self._calls.names if "." not in name]

    def __repr__(self) -> str:
        return f"<tools: {', '.join(dir(self)) or 'none'}>"

    def __getattr__(self, name: str) -> object:
        if name not in dir(self):
            allowed = ", ".join(dir(self)) or "none"
            raise AttributeError(f"there is no tool {name!r} here; allowed: {allowed}", name=name, obj=self)
        return lambda **arguments: self._calls.call(name, **arguments)
