"""Idempotency keys raced: many clients, each key by several of them at once, over one gateway or more.

The tool's effects are counted in a process that survives: by what it was told, which differs for each key.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.upstream import Counted
from tests.served import Served, Wire

GONE = (ConnectionError, asyncio.IncompleteReadError, OSError)
WAIT = 0.02  # seconds before a client that was told to wait asks again
TRIES = 500  # bounds a hang: a call is never under way for so long


@dataclass
class Race:
    """What clients were told, by key. `unreached`: how often nobody answered, because a gateway had been killed."""

    told: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    unreached: int = 0

    def codes(self) -> Counter[str]:
        """How often each code was the answer; `done` for results."""
        return Counter(code_of(said) for each in self.told.values() for said in each)

    def unknown(self) -> set[str]:
        """The keys of which somebody was told that nobody knows."""
        return {key for key, each in self.told.items() if any(code_of(said) == "outcome_unknown" for said in each)}

    def done(self) -> set[str]:
        """The keys of which somebody was told a result."""
        return {key for key, each in self.told.items() if any(code_of(said) == "done" for said in each)}


def code_of(said: dict[str, Any]) -> str:
    """`done`, or the code of the problem."""
    problem = said.get("problem") or said
    return "done" if said.get("status") == "done" else str(problem.get("code"))


def effects(upstream: Counted) -> Counter[str]:
    """How often each key had its effect."""
    return Counter(json.loads(body)["text"] for body in upstream.seen)


async def race(
    gateways: Sequence[Served],
    keys: Sequence[str],
    clients: int,
    each: int,
    on_key: Callable[[int], None] = lambda _: None,
) -> Race:
    """`clients` connections to each gateway in turn; every key is asked for by `each` of them at the same time.

    `on_key` is told how many keys were begun. Who is told to wait does so, as an agent would.
    """
    found, turns = Race(), asyncio.Queue[tuple[int, str]]()
    for number, key in enumerate(keys):
        for _ in range(each):
            turns.put_nowait((number, key))

    async def client(at: Served) -> None:
        wire: Wire | None = None
        while not turns.empty():
            number, key = turns.get_nowait()
            on_key(number)
            for _ in range(TRIES):
                try:
                    wire = wire or await Wire.to(at)
                    _, said = await wire.call("count", {"text": key}, key)
                except GONE:
                    wire, found.unreached = None, found.unreached + 1
                    if at.process.poll() is not None:
                        turns.put_nowait((number, key))  # somebody else's, at a gateway that lives
                        return
                    await asyncio.sleep(WAIT)
                    continue
                if code_of(said) not in ("in_progress", "overloaded", "concurrency_limited"):
                    found.told[key].append(said)
                    break
                await asyncio.sleep(WAIT)
        if wire is not None:
            with suppress(*GONE), closing(wire):
                pass

    await asyncio.gather(*(client(gateways[number % len(gateways)]) for number in range(clients)))
    return found
