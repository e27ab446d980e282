"""What Redis is to be told and need not be waited for: sent at once, kept until Redis said that it has it.

Everything in it may be told twice. What does not fit is dropped, the oldest first: then a place comes back when its
time is over, and a budget stays at what was granted. It never waits.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from gateway.stores.redis_scripts import evaluation, unknown
from gateway.stores.resp import Link, Refused, Reply, Words, said

log = logging.getLogger("toolgate")
MOST = 100_000


@dataclass(slots=True)
class _Letter:
    script: str
    keys: list[str]
    words: Words
    sent: bool = False


class Outbox:
    """Letters by name: a later one of the same name takes the place of the one before."""

    def __init__(self, link: Link, most: int = MOST) -> None:
        self._link, self._most = link, most
        self._letters: dict[str, _Letter] = {}
        self.held = True
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, name: str, script: str, keys: list[str], words: Words) -> None:
        """Tells it now, or when `go_on` is called."""
        letter = _Letter(script, keys, words)
        if len(self._letters) >= self._most and name not in self._letters:
            log.error("Redis was away for too long: what it was to be told of a call is dropped")
            del self._letters[next(iter(self._letters))]
        self._letters[name] = letter
        if not self.held:
            self._send(name, letter)

    def hold(self) -> None:
        """Keeps everything until `go_on`."""
        self.held = True

    def go_on(self) -> None:
        """Tells what was not told yet."""
        self.held = False
        for name, letter in list(self._letters.items()):
            if not letter.sent:
                self._send(name, letter)

    async def told(self, seconds: float = 1.0) -> None:
        """Waits until all was told that can be, for some time at most."""
        if self._letters and self._link.stands and not self.held:
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()

    def _send(self, name: str, letter: _Letter, text: bool = False) -> None:
        letter.sent = True
        answer = self._link.send(evaluation(letter.script, letter.keys, letter.words, text))
        answer.add_done_callback(lambda done: self._answered(name, letter, done))

    def _answered(self, name: str, letter: _Letter, done: asyncio.Future[Reply]) -> None:
        letter.sent = False
        if done.cancelled() or done.exception() is not None:
            return
        try:
            said(done.result())
        except Refused as error:
            if unknown(error):
                self._send(name, letter, text=True)
            return
        if self._letters.get(name) is letter:
            del self._letters[name]
        if not self._letters and self._emptied is not None:
            self._emptied.set()
