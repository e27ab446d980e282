"""The Redis that gateways share, as stores of rare things ask it: an answer within its deadline, or `overloaded`.

It repeats nothing by itself, and knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

from gateway.model import Refusal
from gateway.problems import refuse
from gateway.stores.resp import Address, Link, Refused, Unanswered

log = logging.getLogger("toolgate")
LISTENING = 2.0  # seconds for the answer of a command that blocks for less
_RETRY_MS = 500
Word = str | bytes | int | float


class Redis(AbstractAsyncContextManager["Redis"]):
    """Replies are as they come, octets for strings. Every method raises `Refusal(overloaded)` for want of an answer."""

    def __init__(self, address: Address) -> None:
        self._asking = Link(address)
        self._listening = Link(replace(address, deadline=LISTENING))
        self._digests: dict[str, str] = {}

    async def __aenter__(self) -> Redis:
        self._asking.open()
        self._listening.open()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self._listening.close()
        await self._asking.close()

    async def do(self, *command: Word) -> Any:
        """One command."""
        try:
            return await self._asking.ask(*_plain(command))
        except (Unanswered, Refused) as error:
            raise _away(error) from None

    async def many(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Several commands, sent at once; no transaction."""
        asked = (self._asking.ask(*_plain(command)) for command in commands)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, (Unanswered, Refused)):
                raise _away(answer)
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def script(self, text: str, *given: Word) -> Any:
        """A Lua script with these ARGV, in one step. Whether it ran is unknown when this raises."""
        digest = self._digests.get(text)
        if digest is None:
            digest = self._digests[text] = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._asking.ask("EVALSHA", digest, 0, *_plain(given))
        except Refused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise _away(error) from None
        except Unanswered as error:
            raise _away(error) from None
        return await self.do("EVAL", text, 0, *given)

    async def wait(self, *command: Word) -> Any:
        """One command that may block for a second, on a connection of its own."""
        try:
            return await self._listening.ask(*_plain(command))
        except (Unanswered, Refused) as error:
            raise _away(error) from None


def _plain(words: Sequence[Word]) -> tuple[str | bytes | int, ...]:
    return tuple(repr(word) if isinstance(word, float) else word for word in words)


def _away(error: Unanswered | Refused) -> Refusal:
    if isinstance(error, Refused):  # it is there, and cannot or will not
        log.error("Redis refused: %s", error)
    return refuse("overloaded", "What gateways share cannot be asked just now.", retry_after_ms=_RETRY_MS)
