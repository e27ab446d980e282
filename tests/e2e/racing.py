"""Idempotency keys raced: many clients, each key by several of them at once, over one gateway or more.

The tool's effects are counted in a process that survives: by what it was told, which differs for each key.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.upstream import Counted, spec_and_policy
from tests.served import Served, Wire, ready, start

GONE = (ConnectionError, asyncio.IncompleteReadError, OSError)
BUSY = ("in_progress", "overloaded", "concurrency_limited", "precondition_pending")
WAIT = 0.05  # seconds before a client that was told to wait asks again
TRIES = 1000  # bounds a hang: a call is never under way for so long


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


def broken(found: Race, keys: Sequence[str], each: int, upstream: Counted) -> list[str]:
    """Every broken promise, in words."""
    had = effects(upstream)
    unknown, done = found.unknown(), found.done()
    told = {
        "an effect twice": [key for key in keys if had[key] > 1],
        "done, and without effect": [key for key in done if had[key] != 1],
        "done and unknown": sorted(done & unknown),
        "neither done nor unknown": sorted(set(keys) - done - unknown),
        "not answered": [key for key in keys if len(found.told[key]) != each],
        "not the same answer": [key for key in done if len({_result(said) for said in found.told[key]}) > 1],
    }
    return [f"{what}: {which}" for what, found_of in told.items() for which in found_of]


def _result(said: dict[str, Any]) -> str:
    return json.dumps(said.get("result"))


def effects(upstream: Counted) -> Counter[str]:
    """How often each key had its effect."""
    return Counter(json.loads(body)["text"] for body in upstream.seen)


@contextmanager
def side_by_side(folder: Path, store: str, upstream: Counted) -> Iterator[list[Served]]:
    """Two gateways over one store, each with a home of its own."""
    specs, policies = spec_and_policy(folder, upstream)
    with (specs / "count.yaml").open("a") as spec:
        spec.write("timeout: 2s\n")  # and some seconds more until a call that was cut off is given up on
    flags, env = ("--specs", str(specs), "--policies", str(policies)), {"TOOLGATE_STORE": store}
    with ExitStack() as stack:
        yield [stack.enter_context(mortal(folder / name, *flags, env=env)) for name in ("one", "two")]


@contextmanager
def mortal(home: Path, *flags: str, env: Mapping[str, str]) -> Iterator[Served]:
    """A gateway that may be killed meanwhile."""
    gateway = ready(start(home, *flags, env=env), home)
    try:
        yield gateway
    finally:
        gateway.process.terminate()
        gateway.process.communicate(timeout=60)


async def race(
    gateways: Sequence[Served],
    keys: Sequence[str],
    clients: int,
    each: int,
    on_key: Callable[[int], None] = lambda _: None,
) -> Race:
    """`clients` connections to the gateways in turn; every key is asked for by `each` of them at the same time.

    `on_key` is told how many keys were begun before. Who is told to wait does so, as an agent would; who finds that
    nobody answers asks again, at a gateway that lives.
    """
    found, turns = Race(), asyncio.Queue[tuple[int, str]]()
    for number, key in enumerate(keys):
        for _ in range(each):
            turns.put_nowait((number, key))
    while not turns.empty():
        alive = [gateway for gateway in gateways if gateway.process.poll() is None]
        wires = [_client(alive[number % len(alive)], turns, found, on_key) for number in range(clients)]
        await asyncio.gather(*wires)
    return found


async def _client(
    at: Served, turns: asyncio.Queue[tuple[int, str]], found: Race, on_key: Callable[[int], None]
) -> None:
    """One connection, until there is nothing left to ask for, or its gateway is gone."""
    async with AsyncExitStack() as stack:
        stack.enter_context(suppress(*GONE))
        wire = stack.enter_context(closing(await Wire.to(at)))
        while not turns.empty():
            number, key = turns.get_nowait()
            on_key(number)
            try:
                found.told[key].append(await _asked(wire, key))
            except GONE:
                found.unreached += 1
                turns.put_nowait((number, key))
                return


async def _asked(wire: Wire, key: str) -> dict[str, Any]:
    """What came of the call of that key, however often it takes to ask."""
    for _ in range(TRIES):
        _, said = await wire.call("count", {"text": key}, key)
        if code_of(said) not in BUSY:
            break
        await asyncio.sleep(WAIT)
    return dict(said)
