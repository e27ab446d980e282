"""Heads off the host: each newly signed tree head, brought to every sink by a loop of its own.

What is brought is what `HOME/audit/*/checkpoint` holds, so a head that was signed and not brought before a crash is
brought after it. Only the newest of a shard counts: at least once, in order, and what a newer one has overtaken is left
out. It is never on the path of a call, signs nothing, and lets no sink wait for another.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.audit.notes import head_of
from gateway.ledger_ports import HeadSink, NotTaken, SignedHead

log = logging.getLogger("toolgate")
HERE = "this host"  # the trouble of reading our own checkpoints stands under this name
NOTES = "heads.json"  # in the home folder: what each sink has, for `toolgate doctor`


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: between two looks at what was signed; that a sink may take; between tries, doubled up to `longest`."""

    look: float = 0.5
    patience: float = 5.0
    first: float = 1.0
    longest: float = 60.0


@dataclass(slots=True)
class _Bound:
    """A sink, what it has of each shard, and whether there is more for it."""

    sink: HeadSink
    has: dict[str, SignedHead] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Heads:
    """See the module. Entered, it runs; left, it brings the last heads, for as long as one sink may take.

    `say` gets a line when a sink stops taking heads, and when it takes them again.
    """

    def __init__(
        self, home: Path, sinks: Sequence[HeadSink], say: Callable[[str], None], pace: Pace | None = None
    ) -> None:
        self._audit, self._notes = home / "audit", home / NOTES
        self._say = say
        self._pace = pace or Pace()
        self._bound = [_Bound(sink) for sink in sinks]
        self._newest: Mapping[str, SignedHead] = {}
        self._troubles: dict[str, str] = {}
        self._noted = ""
        self._leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def state(self) -> Mapping[str, str]:
        """`heads`: `ok`, or `stale` while a sink does not take what is signed; nothing where there is no sink."""
        return {"heads": "stale" if self._troubles else "ok"} if self._bound else {}

    async def __aenter__(self) -> Heads:
        if self._bound:
            loops = [self._watch(), *(self._serve(bound) for bound in self._bound)]
            self._tasks = [asyncio.create_task(each) for each in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._tasks:
            return
        watching, *serving = self._tasks
        self._leaving.set()
        await asyncio.wait({watching})  # not cancelled: a note may be half written
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)
        await self._look()
        await asyncio.gather(*(self._bring(bound) for bound in self._bound))
        await self._note()

    # ── what is signed ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while not self._leaving.is_set():
            await self._look()
            await self._note()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.look):
                    await self._leaving.wait()

    async def _look(self) -> None:
        try:
            newest = await asyncio.to_thread(newest_heads, self._audit)
        except (OSError, ValueError) as error:
            self._mark(HERE, f"a checkpoint cannot be read: {error}")
            return
        self._mark(HERE, None)
        if newest != self._newest:
            self._newest = newest
            for bound in self._bound:
                bound.news.set()

    async def _note(self) -> None:
        """Writes down what each sink has, when that changed. It is not flushed: it proves nothing."""
        told = json.dumps({bound.sink.name: self._told(bound) for bound in self._bound})
        if told == self._noted:
            return
        try:
            await asyncio.to_thread(_replace, self._notes, told)
            self._noted = told
        except OSError as error:
            log.error("%s cannot be written: %s", self._notes, error)

    def _told(self, bound: _Bound) -> dict[str, object]:
        sizes = {shard: head.size for shard, head in bound.has.items()}
        return {"heads": sizes, "trouble": self._troubles.get(bound.sink.name) or self._troubles.get(HERE)}

    # ── where it goes ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, bound: _Bound) -> None:
        wait = self._pace.first
        while True:
            await bound.news.wait()
            bound.news.clear()
            if await self._bring(bound):
                wait = self._pace.first
            else:
                bound.news.set()
                await asyncio.sleep(wait)
                wait = min(2 * wait, self._pace.longest)

    async def _bring(self, bound: _Bound) -> bool:
        """Brings a sink what it does not have. False when it would not take it."""
        for shard in self._newest:
            head = self._newest[shard]  # a sink may be slow: by now there may be a newer one
            if bound.has.get(shard) == head:
                continue
            trouble = await self._offer(bound.sink, head)
            self._mark(bound.sink.name, trouble)
            if trouble is not None:
                return False
            bound.has[shard] = head
        return True

    async def _offer(self, sink: HeadSink, head: SignedHead) -> str | None:
        """Why the sink did not take a head; `None` when it did."""
        try:
            async with asyncio.timeout(self._pace.patience):
                await sink.take(head)
        except NotTaken as error:
            return str(error)
        except TimeoutError:
            return f"it did not answer within {self._pace.patience:g} s"
        except Exception as bug:  # a background loop must outlive one bad sink, whatever it was; it is tried again
            log.exception("a head could not be brought to %s", sink.name)
            return f"it failed: {type(bug).__name__}"
        return None

    def _mark(self, name: str, trouble: str | None) -> None:
        """Keeps a trouble, or its end; says it when it began or ended, not each time it is met."""
        before = self._troubles.pop(name, None)
        if trouble is not None:
            self._troubles[name] = trouble
        if trouble is not None and before is None:
            self._say(f"toolgate: heads: {name} has not taken the newest one, and is tried again: {trouble}")
        elif trouble is None and before is not None:
            self._say(f"toolgate: heads: {name} has the newest one again")


def newest_heads(audit: Path) -> dict[str, SignedHead]:
    """The newest signed head of each shard under `HOME/audit`, by shard. Raises `OSError`, `ValueError`."""
    found = {}
    for path in sorted(audit.glob("*/checkpoint")):
        note = path.read_bytes()
        found[path.parent.name] = SignedHead(path.parent.name, head_of(note.decode()).size, note)
    return found


def noted(home: Path) -> dict[str, tuple[dict[str, int], str | None]]:
    """By sink: the size of the newest head it has of each shard, and why it took no newer one, as last written down."""
    try:
        told = json.loads((home / NOTES).read_bytes())
        return {name: (dict(each["heads"]), each["trouble"]) for name, each in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
