"""Whether the counts in Redis are whole: a gateway's part in an epoch, which an emptied Redis begins anew.

In a new epoch each gateway puts back what its own ledger says it had counted. Until all that lived before have, or were
silent for `SILENT` seconds, nothing that has effects may be counted. It never counts, and never empties anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from gateway.stores.redis_scripts import run
from gateway.stores.resp import Link, Refused, Unanswered

log = logging.getLogger("toolgate")
BEAT = 1.0  # seconds between two signs of life
SILENT = 60.0  # seconds after which a gateway that gives none is not waited for


class Epoch:
    """One gateway's part. `seed` puts back what its ledger says, `left` settles what a life before left open; `joined`
    is called whenever all is found whole."""

    def __init__(
        self,
        link: Link,
        me: str,
        seed: Callable[[bytes], Awaitable[None]],
        left: Callable[[], Awaitable[None]],
        joined: Callable[[], None],
        remembered: Path | None = None,
        beat: float = BEAT,
        silent: float = SILENT,
    ) -> None:
        """`me` names the home, in every life of it; `remembered` is a file where the others are noted."""
        self._link, self._me, self._seed, self._left, self._joined = link, me, seed, left, joined
        self._remembered, self._beat, self._silent = remembered, beat, silent
        self.name = b""
        self.whole = False
        self._seeded = False
        self._others = self._read()
        self._since = time.monotonic()
        self._wake = asyncio.Event()
        self._trusted = True

    def lost(self) -> None:
        """Redis was found to be in another epoch."""
        self.whole = False
        self._wake.set()

    def look(self) -> None:
        """Something may have changed: look at once, not at the next beat."""
        self._wake.set()

    async def live(self) -> None:
        """Gives signs of life for ever."""
        while True:
            try:
                await self.beat()
            except (Unanswered, Refused) as error:
                log.debug("no sign of life: %s", error)
            except Exception:  # a background loop must outlive one bad read of the ledger; nothing goes on until it can
                log.exception("what was counted could not be put back")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat):  # unlike `wait_for`, it loses no cancellation
                    await self._wake.wait()
            self._wake.clear()

    async def beat(self) -> None:
        """One sign of life; joins the epoch there is. Raises `Unanswered` or `Refused`."""
        if await self._forgets():
            self.whole = False
            return
        epoch, ready, alive = await self._say()
        if epoch != self.name or not self._seeded:
            self.whole = self._seeded = False
            self._since = time.monotonic()
            if self._me not in ready:
                await self._seed(epoch)
            elif not self.name:
                await self._left()
            self.name, self._seeded = epoch, True
            epoch, ready, alive = await self._say()
            if epoch != self.name:
                self._wake.set()
                return
        silent = time.monotonic() - self._since > self._silent
        missing = (alive if silent else alive | self._others) - ready - {self._me}
        if self.whole or not missing:
            self._note(alive)
            self.whole = True
            self._joined()

    async def _forgets(self) -> bool:
        """Whether Redis may drop any key when its memory is full: then what it says of a limit is worth nothing."""
        try:
            said = cast(bytes, await self._link.ask("INFO", "memory", again=True)).split()
        except Refused:  # it may be forbidden to ask
            return False
        forgets = b"maxmemory:0" not in said and b"maxmemory_policy:noeviction" not in said
        if forgets and self._trusted:
            log.error(
                "Redis drops keys when its memory is full, so nothing with effects runs: set its"
                " maxmemory-policy to noeviction"
            )
        self._trusted = not forgets
        return forgets

    async def _say(self) -> tuple[bytes, frozenset[str], frozenset[str]]:
        """The epoch, who is ready in it, who is alive."""
        mine = self.name if self._seeded else b""
        words = (self._me, secrets.token_hex(8), mine, int(self._silent * 1000))
        epoch, ready, alive = await run(self._link, "join", ["tg:epoch", "tg:version", "tg:alive"], words)
        return epoch, frozenset(each.decode() for each in ready), frozenset(each.decode() for each in alive)

    def _read(self) -> frozenset[str]:
        try:
            said = json.loads(self._remembered.read_bytes()) if self._remembered else []
        except (OSError, ValueError):
            return frozenset()
        return frozenset(str(each) for each in said) if isinstance(said, list) else frozenset()

    def _note(self, alive: frozenset[str]) -> None:
        others = alive - {self._me}
        if others != self._others and self._remembered is not None:
            new = self._remembered.with_suffix(".new")
            try:
                new.touch(mode=0o600)
                new.write_text(json.dumps(sorted(others)))
                new.replace(self._remembered)
            except OSError as error:
                log.warning("%s: %s", self._remembered, error)
        self._others = others
