"""The upstream of the benchmarks: a raw ASGI echo that counts what reaches it. It never does anything else.

`POST` to any path answers `{"result": BODY}` with the request's JSON as it came; `GET /count` answers how many other
requests there were, as `{"count": N}`. Run one worker, else each counts alone:

    uvicorn --app-dir bench upstream:app --port 9700 --http httptools --loop uvloop --no-access-log --log-level warning
"""

from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Echo:
    """The application. `count` is the number of requests answered, those for the count itself left out."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["path"] == "/count":
            await _answer(send, b'{"count":%d}' % self.count)
        else:
            body = await _body(receive)
            self.count = next(self._numbers)
            await _answer(send, b'{"result":%b}' % (body or b"null"))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = Echo()
