"""What a snippet reaches the outside with: `call`, `tools` and `fetch`, each a call of a granted tool by the gateway.

Runs inside the guest only. Nothing here decides: what may be called the host knows, and checks each time.
"""

import json
from typing import Any

from wit_world.imports import host  # type: ignore[import-not-found]  # written by componentize-py

FETCH = "net.fetch"


class ToolError(Exception):
    """A tool called from the snippet refused or failed; the text says why."""

    __module__ = "__main__"


class Calls:
    """The tools that this snippet may call, and how."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def call(self, name: str, /, **arguments: object) -> Any:
        if name not in self.names:
            raise ToolError(f"{name!r} may not be called from here; allowed: {', '.join(self.names) or 'none'}")
        reply = json.loads(host.call(name, json.dumps(arguments, allow_nan=False)))
        if "error" in reply:
            raise ToolError(reply["error"])
        return reply["value"]

    def fetch(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None, body: str | bytes | None = None
    ) -> "Response":
        if FETCH not in self.names:
            raise ToolError("nothing can be fetched from here: this code was granted no network")
        if isinstance(body, (bytes, bytearray)):
            body = body.decode()
        if not isinstance(body, str | None):
            raise TypeError(f"body must be text, not {type(body).__name__}; for JSON: json.dumps(...)")
        given = {"headers": dict(headers) if headers else None, "body": body}
        wanted = {name: value for name, value in given.items() if value is not None}
        return Response(self.call(FETCH, method=method.upper(), url=str(url), **wanted))


class Response:
    """What `fetch` gives. status: the number. headers: by name in lower case. text: the body."""

    __module__ = "__main__"

    def __init__(self, reply: dict[str, Any]) -> None:
        self.status: int = reply["status"]
        self.headers = {name.lower(): text for name, text in reply["headers"].items()}
        self.text: str = reply["body"]

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.text)} characters>"

    def json(self) -> Any:
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

    def __getattr__(self, name: str) -> Any:
        if name not in dir(self):
            allowed = ", ".join(dir(self)) or "none"
            raise AttributeError(f"there is no tool {name!r} here; allowed: {allowed}", name=name, obj=self)
        calls = self._calls

        def tool(**arguments: object) -> Any:
            return calls.call(name, **arguments)

        tool.__name__, tool.__qualname__ = name, f"tools.{name}"
        return tool
